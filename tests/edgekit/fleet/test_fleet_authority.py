"""The fleet's certificate authority, seen by a TLS stack that trusts nothing else."""

from __future__ import annotations

import base64
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from edgekit.cli import edgekit
from edgekit.fleet.authority import CERTIFICATE, KEY, FleetAuthority, folder_of
from edgekit.fleet.broker_setup import broker_folder
from edgekit.fleet.certificates import names_served
from edgekit.fleet.folder import Fleet
from edgekit_runtime.errors import UsageError
from edgekit_runtime.errors import VerificationError as DamagedError
from tests.simulators.authority import Authority

WEAK_RSA = rsa.generate_private_key(65_537, 1024)  # noqa: S505 - to be refused


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.create(tmp_path / "fleet", "plant-7")


def request_of(name: str, *, fleet: str | None = "plant-7", key=None) -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if fleet:
        names.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet))
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    # What is asked for beyond the name is not granted.
    asked = asked.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return asked.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_a_device_gets_a_certificate_for_its_id_alone(fleet: Fleet) -> None:
    authority = FleetAuthority.create(fleet)
    issued = authority.sign_request(request_of("oven-1"), device="oven-1", days=30)
    found = x509.load_pem_x509_certificate(issued.pem.encode())
    found.verify_directly_issued_by(authority.certificate)
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [item.value for item in names] == ["oven-1"] == [issued.name]
    assert found.serial_number == issued.serial
    assert found.not_valid_after_utc == issued.expires
    assert timedelta(days=29) < issued.expires - datetime.now(UTC) <= timedelta(days=30)
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_server_is_no_client_and_no_server_by_another_name(fleet: Fleet) -> None:
    authority = FleetAuthority.create(fleet)
    issued, key = authority.issue("broker", hosts=("broker.example.com", "127.0.0.1", "::1"))
    assert b"PRIVATE KEY" in key
    found = x509.load_pem_x509_certificate(issued.pem.encode())
    policy = PolicyBuilder().store(Store([authority.certificate]))
    policy.build_server_verifier(x509.DNSName("broker.example.com")).verify(found, [])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("other.example.com")).verify(found, [])
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]


def test_what_is_loaded_signs_as_what_was_made(fleet: Fleet) -> None:
    made = FleetAuthority.create(fleet)
    loaded = FleetAuthority.load(fleet)
    assert loaded.authorities_pem == made.authorities_pem
    issued = loaded.sign_request(request_of("oven-1", fleet=None), device="oven-1")
    x509.load_pem_x509_certificate(issued.pem.encode()).verify_directly_issued_by(made.certificate)
    with pytest.raises(UsageError, match="never overwritten"):
        FleetAuthority.create(fleet)
    assert FleetAuthority.load(fleet).authorities_pem == made.authorities_pem


def test_a_fleet_without_one_says_so(fleet: Fleet) -> None:
    with pytest.raises(UsageError, match="no certificate authority"):
        FleetAuthority.load(fleet)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_only_the_owner_may_read_its_key(fleet: Fleet) -> None:
    FleetAuthority.create(fleet)
    assert stat.S_IMODE((folder_of(fleet) / KEY).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("request_pem", "why"),
    [
        ("nonsense", "no certificate signing request"),
        ("-" * 70_000, "too long"),
        (request_of("oven-2"), r"is for \['oven-2'\]"),
        (request_of("oven-1", fleet="other"), r"for the fleet \['other'\]"),
        (request_of("oven-1", key=WEAK_RSA), "has a key that is"),
        (request_of("oven-1", key=ec.generate_private_key(ec.SECP192R1())), "has a key that is"),
        (request_of("oven-1").replace("\nMI", "\nAA", 1), "no certificate signing request"),
    ],
    ids=["nonsense", "endless", "other-name", "other-fleet", "weak-rsa", "weak-ec", "damaged"],
)
def test_a_bad_request_is_refused(fleet: Fleet, request_pem: str, why: str) -> None:
    authority = FleetAuthority.create(fleet)
    with pytest.raises(UsageError, match=why):
        authority.sign_request(request_pem, device="oven-1")


def test_a_request_that_its_key_has_not_signed_is_refused(fleet: Fleet) -> None:
    authority = FleetAuthority.create(fleet)
    asked = x509.load_pem_x509_csr(request_of("oven-1").encode())
    der = bytearray(asked.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    pem = "-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(der).decode()
    pem += "-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(UsageError, match="not signed by its own key"):
        authority.sign_request(pem, device="oven-1")


def test_revoked_ones_stay_revoked(fleet: Fleet) -> None:
    authority = FleetAuthority.create(fleet)
    assert authority.revoked() == {}
    first, second = (
        authority.sign_request(request_of(name), device=name) for name in ("oven-1", "oven-2")
    )
    authority.revoke([first.serial])
    since = authority.revoked()[first.serial]
    authority.revoke([second.serial, first.serial], clock=lambda: datetime(2040, 1, 1, tzinfo=UTC))
    found = FleetAuthority.load(fleet).revoked()
    assert set(found) == {first.serial, second.serial}
    assert found[first.serial] == since
    crl = x509.load_pem_x509_crl(authority.revocations.read_bytes())
    # A list that is over would shut out everybody.
    assert crl.next_update_utc == authority.certificate.not_valid_after_utc
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3


def test_a_list_that_somebody_else_signed_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    authority = FleetAuthority.create(fleet)
    other = Authority()
    revoked = other.issue("x", tmp_path / "x.pem", tmp_path / "x.key")
    authority.revocations.write_text(other.revocation_list(revoked))
    with pytest.raises(DamagedError, match="not signed by this authority"):
        authority.revoke([5])
    authority.revocations.unlink()
    with pytest.raises(DamagedError, match="missing or damaged"):
        authority.revoked()


def test_no_certificate_outlives_its_authority(fleet: Fleet) -> None:
    authority = FleetAuthority.create(fleet)
    issued = authority.sign_request(request_of("oven-1"), device="oven-1", days=100 * 365)
    assert issued.expires == authority.certificate.not_valid_after_utc
    with pytest.raises(UsageError, match="end after it begins"):
        authority.sign_request(request_of("oven-1"), device="oven-1", days=0)
    with pytest.raises(UsageError, match="end after it begins"):
        authority.issue("x", clock=lambda: datetime(2090, 1, 1, tzinfo=UTC))


def test_an_authority_that_exists_is_taken(fleet: Fleet, tmp_path: Path) -> None:
    company = Authority()
    certificate, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    certificate.write_text(company.pem)
    encryption = serialization.BestAvailableEncryption(b"correct horse")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.write_bytes(company.key.private_bytes(*form, encryption))
    with pytest.raises(UsageError, match="key cannot be read"):
        FleetAuthority.adopt(fleet, certificate, key)
    authority = FleetAuthority.adopt(fleet, certificate, key, passphrase="correct horse")
    issued = authority.sign_request(request_of("oven-1"), device="oven-1")
    found = x509.load_pem_x509_certificate(issued.pem.encode())
    found.verify_directly_issued_by(company.certificate)
    assert FleetAuthority.load(fleet).authorities_pem == company.pem


def test_what_is_no_authority_is_not_taken(fleet: Fleet, tmp_path: Path) -> None:
    company = Authority()
    certificate, key = tmp_path / "x.pem", tmp_path / "x.key"
    company.issue("x", certificate, key)
    with pytest.raises(UsageError, match="not the certificate of an authority"):
        FleetAuthority.adopt(fleet, certificate, key)
    certificate.write_text(company.pem)
    with pytest.raises(UsageError, match="do not belong together"):
        FleetAuthority.adopt(fleet, certificate, key)
    with pytest.raises(UsageError, match="cannot be read"):
        FleetAuthority.adopt(fleet, tmp_path / "none.pem", key)
    assert not folder_of(fleet).exists()


def test_an_authority_below_others_needs_them(fleet: Fleet, tmp_path: Path) -> None:
    company = Authority()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "department")])
    pem = company._build(name, key.public_key(), days=10, ca=True)
    certificate, secret = tmp_path / "ca.pem", tmp_path / "ca.key"
    own = pem.public_bytes(serialization.Encoding.PEM).decode()
    certificate.write_text(own)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(*form, serialization.NoEncryption()))
    with pytest.raises(UsageError, match="above this one are missing"):
        FleetAuthority.adopt(fleet, certificate, secret)
    certificate.write_text(own + company.pem)
    authority = FleetAuthority.adopt(fleet, certificate, secret)
    assert authority.authorities_pem == own + company.pem
    issued = authority.sign_request(request_of("oven-1"), device="oven-1")
    x509.load_pem_x509_certificate(issued.pem.encode()).verify_directly_issued_by(pem)


def test_a_device_is_shut_out_while_others_sign(fleet: Fleet) -> None:
    authority = FleetAuthority.create(fleet)
    with fleet.locked():
        authority.revoke([5])
    assert set(authority.revoked()) == {5}


def test_damage_is_named(fleet: Fleet) -> None:
    FleetAuthority.create(fleet)
    path = folder_of(fleet) / CERTIFICATE
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedError, match="no certificate in PEM") as caught:
        FleetAuthority.load(fleet)
    assert "backup" in str(caught.value.fix)


def run(fleet: Fleet, *words: str) -> Result:
    given = ["fleet", "authority", words[0], "--fleet", str(fleet.path), *words[1:]]
    return CliRunner().invoke(edgekit, given)


def broker_names(fleet: Fleet) -> set[str]:
    pem = (broker_folder(fleet) / "broker.pem").read_bytes()
    return set(names_served(x509.load_pem_x509_certificates(pem)[0]))


def test_a_broker_keeps_its_names_when_its_certificate_is_renewed(fleet: Fleet) -> None:
    missing = run(fleet, "renew").exception
    assert isinstance(missing, UsageError)
    made = run(fleet, "init", "--broker-host", "broker.example.com", "--broker-host", "10.0.0.7")
    assert made.exit_code == 0, made.output
    names = broker_names(fleet)
    assert {"broker.example.com", "10.0.0.7", "localhost"} <= names
    before = (broker_folder(fleet) / "broker.pem").read_bytes()
    assert run(fleet, "renew").exit_code == 0
    assert (broker_folder(fleet) / "broker.pem").read_bytes() != before
    assert broker_names(fleet) == names
    assert run(fleet, "renew", "--broker-host", "other.example.com").exit_code == 0
    assert "other.example.com" in broker_names(fleet)
    assert "broker.example.com" not in broker_names(fleet)


@pytest.mark.parametrize("text", ["zz", "-5", "0", "f" * 40, "f" * 50, "0x1f", "1_0"])
def test_what_is_no_certificate_cannot_be_revoked(fleet: Fleet, text: str) -> None:
    authority = FleetAuthority.create(fleet)
    refused = run(fleet, "revoke", "--", text).exception
    assert isinstance(refused, UsageError)
    assert "neither a certificate's file nor a serial number" in refused.what
    assert authority.revoked() == {}
