"""Keys in a token, by SoftHSM: `test_fleet_key_token` runs these in a process of their own.

A token's library brings a cryptography of its own along, and crashes beside others that have been
loaded before it: TensorFlow's and pyarrow's.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.fleet.folder import Fleet
from edgekit.fleet.key_exchange import revoke_key, rotate_key
from edgekit.fleet.key_files import make_own_key, read_own_key
from edgekit.fleet.key_signing import Signing, apply_files, sign_file
from edgekit.fleet.keyring import Repository, read_keyring
from edgekit.fleet.keys import begin_keys
from edgekit.fleet.ordering import order_device
from edgekit.fleet.release import release_bundle
from edgekit.fleet.signing_keys import PIN_VARIABLE
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from tests.simulators.verifying_device import accepted

PIN = "2580"
LIBRARIES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A token with two P-256 keys, of the ids 2 and 3; the URI of the first."""
    pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
    library = next((name for name in LIBRARIES if Path(name).exists()), None)
    program = shutil.which("softhsm2-util")
    if library is None or program is None:
        pytest.skip("SoftHSM is not installed")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        patch.setenv("PYKCS11LIB", library)
        subprocess.run(
            [
                *(program, "--init-token", "--free", "--label", "root key"),
                *("--pin", PIN, "--so-pin", "0000"),
            ],
            check=True,
            capture_output=True,
        )
        from pkcs11.util.ec import encode_named_curve_parameters

        found = pkcs11.lib(library).get_token(token_label="root key")
        with found.open(rw=True, user_pin=PIN) as session:
            curve = session.create_domain_parameters(
                pkcs11.KeyType.EC,
                {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")},
                local=True,
            )
            for number in (2, 3):
                curve.generate_keypair(store=True, id=bytes([number]), label=f"key {number}")
        yield "hsm:2?label=root+key"


@pytest.fixture
def pin(token: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(PIN_VARIABLE, PIN)
    return token


def test_a_token_signs_roots_and_releases(pin: str, tmp_path: Path, make_bundle) -> None:
    key = read_own_key(make_own_key("token", tmp_path, uri=pin))
    assert key.public.scheme == "ecdsa-sha2-nistp256"
    assert not (tmp_path / "token.pem").exists()
    second = read_own_key(make_own_key("token-b", tmp_path, uri="hsm:3?label=root+key"))
    fleet = Fleet.create(tmp_path / "fleet", "plant-7")
    done = begin_keys(fleet, Signing(), roots=[key], targets=[second])
    assert done.file is None
    release_bundle(fleet, make_bundle())
    order_device(fleet, "dev-1", [])
    assert accepted(fleet, tmp_path / "device") == 1
    rotate_key(fleet, "director-online", Signing())
    assert accepted(fleet, tmp_path / "device") == 1


def test_a_token_signs_what_was_carried_to_it(pin: str, tmp_path: Path, monkeypatch) -> None:
    """As one of two people, on a machine without the fleet."""
    people = [
        read_own_key(make_own_key("token", tmp_path, uri=pin)),
        read_own_key(make_own_key("anna", tmp_path, passphrase="pw")),
    ]
    fleet = Fleet.create(tmp_path / "fleet", "plant-7")
    file = tmp_path / "first.json"
    monkeypatch.delenv(PIN_VARIABLE)
    begin_keys(fleet, Signing(out=file), roots=people, root_threshold=2)
    sign_file(file, str(tmp_path / "anna.pem"), passphrase="pw")
    before = file.read_bytes()
    with pytest.raises(UsageError, match="asks for a pin") as caught:
        sign_file(file, pin)
    assert PIN_VARIABLE in str(caught.value.fix)
    monkeypatch.setenv(PIN_VARIABLE, "9999")
    with pytest.raises(EnvironmentLackError, match="PinIncorrect"):
        sign_file(file, pin)
    assert file.read_bytes() == before
    monkeypatch.setenv(PIN_VARIABLE, PIN)
    assert sign_file(file, pin).lacking == ()
    apply_files(fleet, [file], Signing())
    assert read_keyring(fleet).threshold(Repository.DIRECTOR, "root") == 2


def test_a_token_that_is_away_is_named(pin: str, tmp_path: Path, make_bundle) -> None:
    key = read_own_key(make_own_key("token", tmp_path, uri=pin))
    fleet = Fleet.create(tmp_path / "fleet", "plant-7")
    begin_keys(fleet, Signing(), targets=[key])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYKCS11LIB", "/none/libnone.so")
        with pytest.raises(EnvironmentLackError, match="key cannot be used") as caught:
            release_bundle(fleet, make_bundle())
        assert caught.value.where == "hsm:2?label=root+key"
    assert not (fleet.image_metadata / "2.targets.json").exists()
    # It is lost for good: a key of the fleet's own comes, by the root's signature.
    new = read_own_key(make_own_key("paper", tmp_path))
    revoke_key(fleet, "token", Signing(out=tmp_path / "c.json"), reason="lost", replacement=new)
    sign_file(tmp_path / "c.json", str(tmp_path / "paper.pem"))
    apply_files(fleet, [tmp_path / "c.json"], Signing())
    shutil.copy(tmp_path / "paper.pem", fleet.keys)
    release_bundle(fleet, make_bundle())


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("hsm:7?label=root+key", "could not find ECDSA key"),
        ("hsm:2?label=none", "No PKCS#11 token found for label none"),
        ("hsm:x", "ValueError"),
    ],
)
def test_a_key_that_the_token_does_not_have(pin: str, tmp_path: Path, uri: str, why: str) -> None:
    with pytest.raises(EnvironmentLackError, match=why):
        make_own_key("token", tmp_path, uri=uri)
    assert not list(tmp_path.glob("token*"))


def test_another_key_signs_where_one_is_away(pin: str, tmp_path: Path, make_bundle) -> None:
    away = read_own_key(make_own_key("away", tmp_path, uri=pin))
    here = read_own_key(make_own_key("here", tmp_path, uri="hsm:3?label=root+key"))
    away = replace(away, uri="hsm:2?label=in+the+safe")
    fleet = Fleet.create(tmp_path / "fleet", "plant-7")
    begin_keys(fleet, Signing(), targets=[away, here])
    release_bundle(fleet, make_bundle())
