"""The first keys of a fleet, and the two roots that say which of them is trusted for what."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.folder import Fleet
from edgekit.fleet.key_files import OwnKey
from edgekit.fleet.key_signing import (
    FIRST,
    Outcome,
    Signing,
    require_file,
    require_tuf,
    sign_here,
)
from edgekit.fleet.keyring import FleetKey, Keyring, Repository, read_keyring
from edgekit.fleet.secret_files import write_secret
from edgekit.fleet.signing_keys import make_key
from edgekit_runtime.durable import sync_folder, unwritable
from edgekit_runtime.errors import UsageError

# Name, repository, roles, offline.
KEYS: Final = (
    ("image-root", Repository.IMAGE, ("root",), True),
    ("image-targets", Repository.IMAGE, ("targets",), True),
    ("image-online", Repository.IMAGE, ("snapshot", "timestamp"), False),
    ("director-root", Repository.DIRECTOR, ("root",), True),
    ("director-online", Repository.DIRECTOR, ("targets", "snapshot", "timestamp"), False),
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
    begin_keys(fleet, Signing(passphrase=passphrase, clock=clock))
    return read_keyring(fleet)


def begin_keys(
    fleet: Fleet,
    signing: Signing,
    *,
    roots: Iterable[OwnKey] = (),
    targets: Iterable[OwnKey] = (),
    root_threshold: int = 1,
    targets_threshold: int = 1,
) -> Outcome:
    """Make the keys of a fleet, with offline keys that people have made for themselves.

    Args:
        fleet: A fleet without keys.
        signing: How to sign.
        roots: Those that sign the roots of both repositories; none to make two here.
        targets: Those that sign releases; none to make one here.
        root_threshold: How many must sign a root together.
        targets_threshold: How many must sign a release together.

    Raises:
        UsageError: If the fleet has keys already, there are fewer keys than must sign together, or
            the signatures of others are needed and there is no file to ask for them.
        EnvironmentLackError: If the fleet folder cannot be written, or tuf is not installed.
    """
    require_tuf()
    from edgekit.fleet.key_applying import apply_first, require_no_keys
    from edgekit.fleet.key_change import write_change
    from edgekit.fleet.key_planning import first_change

    if signing.passphrase is not None and not signing.passphrase.strip():
        raise UsageError("the passphrase is empty", fix="choose one, or give none at all")
    people = {"root": tuple(roots), "targets": tuple(targets)}
    thresholds = {
        (Repository.IMAGE, "root"): root_threshold,
        (Repository.DIRECTOR, "root"): root_threshold,
        (Repository.IMAGE, "targets"): targets_threshold,
    }
    with fleet.locked():
        require_no_keys(fleet)
        staging = _staging(fleet)
    try:
        ring = _first_ring(staging, people, thresholds, signing.passphrase)
        change = first_change(fleet, ring, clock=signing.clock)
        lacks = sign_here(change, [ring], signing)
        if not lacks:
            apply_first(fleet, change, staging, record=signing.record, clock=signing.clock)
            return Outcome(change=change, file=None)
        file = require_file(change, lacks, (), signing.out)
        kept = fleet.path / FIRST
        shutil.rmtree(kept, ignore_errors=True)
        staging.replace(kept)
        sync_folder(fleet.path)
        # Last: a file without the online keys that belong to it would be of no use.
        write_change(change, file)
        return Outcome(change=change, file=file, lacking=lacks)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


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


def _first_ring(
    folder: Path,
    people: Mapping[str, tuple[OwnKey, ...]],
    thresholds: Mapping[tuple[Repository, str], int],
    passphrase: str | None,
) -> Keyring:
    keys: list[FleetKey] = []
    for name, repository, roles, offline in KEYS:
        # Each offline key has one role.
        theirs = people[roles[0]] if offline else ()
        keys += [own.for_roles(repository, *roles) for own in theirs]
        if not theirs:
            public, pem = make_key(passphrase if offline else None)
            write_secret(folder / f"{name}.pem", pem)
            keys.append(
                FleetKey(
                    name=name,
                    keyid=public.keyid,
                    repository=repository,
                    roles=roles,
                    offline=offline,
                    encrypted=offline and passphrase is not None,
                    public=public,
                )
            )
    names = [(key.repository, key.name) for key in keys]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            "two keys have one name: " + ", ".join(name for _, name in twice),
            fix="let their owners choose other names; a key has one role in each repository",
        )
    return Keyring(folder=folder, keys=tuple(keys), thresholds=dict(thresholds))
