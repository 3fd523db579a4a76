"""Keys that a cloud holds, by fakes of the clouds' signers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    AWSSigner,
    AzureSigner,
    CryptoSigner,
    GCPSigner,
    Key,
    Signature,
    Signer,
    SSlibKey,
    _aws_signer,
)

from edgekit.fleet.folder import Fleet
from edgekit.fleet.key_change import read_change
from edgekit.fleet.key_exchange import rotate_key
from edgekit.fleet.key_files import make_own_key, read_own_key
from edgekit.fleet.key_signing import Signing, apply_files, sign_file
from edgekit.fleet.keys import begin_keys
from edgekit.fleet.ordering import order_device
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from tests.simulators.verifying_device import accepted


class Cloud(Signer):
    """Stands in for a cloud's signer, at the interface that all of securesystemslib's have."""

    keys: dict[str, CryptoSigner] = {}  # noqa: RUF012 - shared by all of a test
    broken = ""

    def __init__(self, inner: CryptoSigner) -> None:
        self._inner = inner

    @classmethod
    def from_priv_key_uri(cls, uri: str, public_key: Key, secrets_handler: Any = None) -> Cloud:
        inner = cls.keys[uri]
        assert inner.public_key == public_key
        return cls(inner)

    @classmethod
    def import_of(cls, scheme: str) -> Any:
        def take(*place: str, **_: Any) -> tuple[str, SSlibKey]:
            uri = f"{scheme}:{'/'.join(place)}"
            inner = cls.keys.setdefault(uri, CryptoSigner.generate_ecdsa())
            assert isinstance(inner.public_key, SSlibKey)
            return uri, inner.public_key

        return take

    @property
    def public_key(self) -> Key:
        return self._inner.public_key

    def sign(self, payload: bytes) -> Signature:
        if self.broken:
            raise RuntimeError(self.broken)
        return self._inner.sign(payload)


@pytest.mark.parametrize(
    ("uri", "signer"),
    [
        ("gcpkms:projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1", GCPSigner),
        ("awskms:arn:aws:kms:eu-central-1:1:key/2", AWSSigner),
        ("azurekms:vault/key", AzureSigner),
    ],
)
def test_a_cloud_signs_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, signer: type[Any]
) -> None:
    scheme = uri.partition(":")[0]
    monkeypatch.setattr(Cloud, "keys", {})
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, scheme, Cloud)
    monkeypatch.setattr(signer, "import_", Cloud.import_of(scheme))
    key = read_own_key(make_own_key("cloud", tmp_path, uri=uri))
    assert key.uri == uri
    fleet = Fleet.create(tmp_path / "fleet", "plant-7")
    assert begin_keys(fleet, Signing(), roots=[key]).file is None
    order_device(fleet, "dev-1", [])
    rotate_key(fleet, "director-online", Signing())
    assert accepted(fleet, tmp_path / "device") == 1
    monkeypatch.setattr(Cloud, "broken", "permission denied")
    with pytest.raises(UsageError, match=r"threshold is not reached.*permission denied"):
        rotate_key(fleet, "director-online-2", Signing())
    file = tmp_path / "change.json"
    rotate_key(fleet, "director-online-2", Signing(out=file))
    monkeypatch.setattr(Cloud, "broken", "")
    assert sign_file(file, uri).lacking == ()
    assert read_change(file).action == "keys.rotated"
    apply_files(fleet, [file], Signing())
    assert accepted(fleet, tmp_path / "device") == 1


def test_a_cloud_whose_library_is_missing_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_aws_signer, "AWS_IMPORT_ERROR", "there is no boto3")
    with pytest.raises(EnvironmentLackError, match="needs a library: there is no boto3") as caught:
        make_own_key("cloud", tmp_path, uri="awskms:x")
    assert "securesystemslib[awskms]" in str(caught.value.fix)
    assert not list(tmp_path.iterdir())


def test_an_address_of_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="address of no key"):
        make_own_key("x", tmp_path, uri="ssh:agent")
