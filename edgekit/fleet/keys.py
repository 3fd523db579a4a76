"""Make a fleet's signing keys, and the two roots that say which of them is trusted for what.

Rotation, revocation and keys in hardware (PKCS#11) are not supported yet: a lost or stolen offline
key means a new fleet.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keyring import (
    KEYS_FILE,
    FleetKey,
    Keyring,
    Repository,
    keyring_json,
    read_keyring,
)
from edgekit.fleet.secret_files import write_secret
from edgekit_runtime.durable import sync_folder, unwritable, write_bytes
from edgekit_runtime.errors import UsageError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

_ONLINE_IMAGE: Final = ("snapshot", "timestamp")
_ONLINE_DIRECTOR: Final = ("targets", "snapshot", "timestamp")
# Name, repository, roles, offline.
_KEYS: Final = (
    ("image-root", Repository.IMAGE, ("root",), True),
    ("image-targets", Repository.IMAGE, ("targets",), True),
    ("image-online", Repository.IMAGE, _ONLINE_IMAGE, False),
    ("director-root", Repository.DIRECTOR, ("root",), True),
    ("director-online", Repository.DIRECTOR, _ONLINE_DIRECTOR, False),
)


def init_keys(fleet: Fleet, *, passphrase: str | None = None, clock: Clock = utc_now) -> Keyring:
    """Make all keys of a fleet, sign both roots and an image repository that is still empty.

    The keys appear all at once, as the last step: after a crash, call it again.

    Args:
        fleet: A fleet without keys.
        passphrase: Encrypts the offline keys (image root, image targets, director root). The
            online keys sign without a person and are never encrypted.
        clock: The time of signing.

    Raises:
        UsageError: If the fleet has keys already: they are never overwritten; or if the
            passphrase is empty.
        EnvironmentLackError: If the fleet folder cannot be written, or tuf is not installed.
    """
    require("tuf", extra="fleet")
    require("cryptography", extra="fleet")
    if passphrase is not None and not passphrase.strip():
        raise UsageError("the passphrase is empty", fix="choose one, or give none at all")
    with fleet.locked():
        if fleet.keys.exists():
            raise UsageError(
                "this fleet has keys already, and keys are never overwritten",
                where=str(fleet.keys),
                fix="use them; `edgekit keys show` lists them",
            )
        staging = _staging(fleet)
        try:
            signers = _make_keys(staging, passphrase)
            _write_roots(fleet, signers, clock)
            _write_empty_images(fleet, signers, clock)
            staging.replace(fleet.keys)
            sync_folder(fleet.path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return read_keyring(fleet)


def image_root(fleet: Fleet) -> Path:
    """The file that a new device must be given to trust the image repository.

    Raises:
        UsageError: If the fleet has no keys yet.
    """
    read_keyring(fleet)
    return fleet.image_metadata / "1.root.json"


def director_root(fleet: Fleet) -> Path:
    """The file that a new device must be given to trust the director.

    Raises:
        UsageError: If the fleet has no keys yet.
    """
    read_keyring(fleet)
    return fleet.director_metadata / "1.root.json"


def _staging(fleet: Fleet) -> Path:
    try:
        # mkdtemp makes a folder that only its owner may enter: 0700.
        return Path(tempfile.mkdtemp(prefix=".keys-", dir=fleet.path))
    except OSError as error:
        raise unwritable(fleet.path, error) from error


def _make_keys(folder: Path, passphrase: str | None) -> dict[str, CryptoSigner]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
    )
    from securesystemslib.signer import CryptoSigner

    signers = {}
    keys = []
    for name, repository, roles, offline in _KEYS:
        private = Ed25519PrivateKey.generate()
        signers[name] = CryptoSigner(private)
        encryption: KeySerializationEncryption = NoEncryption()
        if offline and passphrase:
            encryption = BestAvailableEncryption(passphrase.encode())
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        write_secret(folder / f"{name}.pem", pem)
        keys.append(
            FleetKey(
                name=name,
                keyid=signers[name].public_key.keyid,
                repository=repository,
                roles=roles,
                offline=offline,
                encrypted=offline and passphrase is not None,
            )
        )
    write_secret(folder / KEYS_FILE, keyring_json(tuple(keys)))
    sync_folder(folder)
    return signers


def _write_roots(fleet: Fleet, signers: Mapping[str, CryptoSigner], clock: Clock) -> None:
    from edgekit.fleet.signed_folder import first_root

    places = {
        Repository.IMAGE: fleet.image_metadata,
        Repository.DIRECTOR: fleet.director_metadata,
    }
    for repository, folder in places.items():
        roles = {
            role: signers[name]
            for name, owner, owned, _ in _KEYS
            if owner is repository
            for role in owned
        }
        root = first_root(roles, lifetime=timedelta(days=fleet.expiries.root), clock=clock)
        # What lies here without keys is left from an attempt that was cut off.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_bytes(folder / "1.root.json", root.to_bytes())


def _write_empty_images(fleet: Fleet, signers: Mapping[str, CryptoSigner], clock: Clock) -> None:
    from edgekit.fleet.image_repository import ImageRepository

    def sign_with(role: str) -> CryptoSigner:
        return signers["image-targets" if role == "targets" else "image-online"]

    images = ImageRepository(fleet, sign_with=sign_with, clock=clock)
    with images.edit_targets() as targets:
        targets.targets = {}
    images.commit()
