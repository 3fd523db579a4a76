"""From what a person wants of the keys to a change that can be signed. Imports tuf."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from tuf.api.metadata import Metadata, Root, Targets

from edgekit.fleet.clock import Clock, rfc3339, utc_now
from edgekit.fleet.folder import Fleet
from edgekit.fleet.key_change import KeyChange, RepositoryChange, plan_roots
from edgekit.fleet.keyring import (
    ROLES,
    FleetKey,
    Keyring,
    Repository,
    RevokedKey,
    keyring_json,
    parse_keyring,
    read_keyring,
    require_finished,
)
from edgekit.fleet.repositories import open_images
from edgekit.fleet.signing_keys import PublicKey
from edgekit_runtime.errors import UsageError, VerificationError

ThresholdOf = Mapping[tuple[Repository, str], int]
_NUMBERED: Final = re.compile(r"(.+?)-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEdit:
    """What a person wants.

    Attributes:
        what: In words: "rotate image-targets".
        action: For the audit log: "keys.rotated".
        add: New keys.
        remove: Keys that go.
        revoke: Why those that go must never sign again; None if they just go.
        thresholds: How many keys of a role must sign together from now on, where that changes.
        renew: Repositories whose root and list of targets are signed anew in any case.
    """

    what: str
    action: str
    add: tuple[FleetKey, ...] = ()
    remove: tuple[FleetKey, ...] = ()
    revoke: str | None = None
    thresholds: ThresholdOf = field(default_factory=dict)
    renew: tuple[Repository, ...] = ()


def propose(fleet: Fleet, edit: KeyEdit, *, clock: Clock = utc_now) -> KeyChange:
    """The change that brings about what is wanted, unsigned.

    Raises:
        UsageError: If another change is not finished, a role would be left with too few keys, or a
            new key is in the fleet
            already or was revoked; everything that is wrong is named.
        VerificationError: If the present metadata is damaged.
    """
    require_finished(fleet.keys)
    ring = read_keyring(fleet)
    bases = {repository: current_root(fleet, repository) for repository in Repository}
    wanted = _with_public_halves(_edited(ring, edit, rfc3339(clock())), bases)
    _check(ring, wanted, edit)
    expires = clock() + timedelta(days=fleet.expiries.root)
    parts: dict[Repository, RepositoryChange] = {}
    for repository, base in bases.items():
        asked = _roles(wanted, repository)
        if repository in edit.renew or not _is_so(base.signed, asked):
            roots = plan_roots(base, asked, expires=expires)
            parts[repository] = RepositoryChange(base=base, roots=roots)
        else:
            parts[repository] = RepositoryChange(base=base, roots=())
    images = parts[Repository.IMAGE]
    if images.roots:
        current = open_images(fleet).open(Targets.type)
        if Repository.IMAGE in edit.renew or not _has_signed(images.final, current):
            targets = _next_targets(current, fleet, clock)
            parts[Repository.IMAGE] = replace(images, targets=targets)
    if not any(part.roots for part in parts.values()):
        raise UsageError("this changes nothing", fix="see: edgekit keys show")
    return KeyChange(
        fleet=fleet.id,
        what=edit.what,
        action=edit.action,
        ring=wanted,
        retired=edit.remove,
        repositories=parts,
    )


def first_change(fleet: Fleet, ring: Keyring, *, clock: Clock = utc_now) -> KeyChange:
    """The change that makes the first roots of a fleet, and a list without any targets.

    Raises:
        UsageError: If a role has fewer keys than must sign together, or there are too many.
    """
    _check_thresholds(ring, {})
    _check_readable(ring)
    expires = clock() + timedelta(days=fleet.expiries.root)
    parts = {
        repository: RepositoryChange(
            base=None, roots=plan_roots(None, _roles(ring, repository), expires=expires)
        )
        for repository in Repository
    }
    nothing = Metadata(Targets())
    # It counts up: the first version is 1.
    nothing.signed.version = 0
    parts[Repository.IMAGE] = replace(
        parts[Repository.IMAGE], targets=_next_targets(nothing, fleet, clock)
    )
    return KeyChange(
        fleet=fleet.id,
        what="the first keys of the fleet",
        action="keys.made",
        ring=ring,
        retired=(),
        repositories=parts,
    )


def mirrors(ring: Keyring, repository: Repository, root: Root) -> bool:
    """Whether a list of keys says of a repository what a root says."""
    return _is_so(root, _roles(ring, repository))


def find_keys(ring: Keyring, name: str) -> tuple[FleetKey, ...]:
    """The keys of a name: one, or one in each repository.

    Raises:
        UsageError: If there is none, or it was revoked.
    """
    found = tuple(key for key in ring.keys if key.name == name)
    if found:
        return found
    for key in ring.revoked:
        if key.name == name:
            raise UsageError(
                f"the key {name} was revoked at {key.revoked}: {key.reason}",
                fix="see: edgekit keys show",
            )
    known = ", ".join(dict.fromkeys(key.name for key in ring.keys))
    raise UsageError(f"this fleet has no key {name!r}", fix=f"one of: {known}")


def next_name(name: str, taken: Callable[[str], bool]) -> str:
    """A free name for the key that takes another's place: image-root, image-root-2, …."""
    match = _NUMBERED.fullmatch(name)
    stem, number = (match[1], int(match[2])) if match else (name, 1)
    while taken(f"{stem}-{number + 1}"):
        number += 1
    return f"{stem}-{number + 1}"


def root_folder(fleet: Fleet, repository: Repository) -> Path:
    """Where the chain of a repository's roots is."""
    if repository is Repository.IMAGE:
        return fleet.image_metadata
    return fleet.director_metadata


def newest_root(fleet: Fleet, repository: Repository) -> tuple[int, Path]:
    """Version and file of the newest root.

    Raises:
        UsageError: If there is none.
    """
    folder = root_folder(fleet, repository)
    found = [
        (int(path.name.partition(".")[0]), path)
        for path in folder.glob("*.root.json")
        if path.name.partition(".")[0].isdigit()
    ]
    if not found:
        raise UsageError(
            "this repository has no root metadata",
            where=str(folder),
            fix="make the fleet's keys first: edgekit keys init",
        )
    return max(found)


def current_root(fleet: Fleet, repository: Repository) -> Metadata[Root]:
    """The newest root of a repository.

    Raises:
        UsageError: If there is none.
        VerificationError: If it is damaged.
    """
    from tuf.api.exceptions import RepositoryError

    _, path = newest_root(fleet, repository)
    try:
        metadata: Metadata[Root] = Metadata.from_bytes(path.read_bytes())
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except (OSError, RepositoryError, AttributeError) as error:
        raise VerificationError(
            f"the root is damaged: {error}",
            where=str(path),
            fix="take the fleet folder from a backup",
        ) from error
    return metadata


def _edited(ring: Keyring, edit: KeyEdit, now: str) -> Keyring:
    kept = [key for key in ring.keys if key not in edit.remove]
    revoked = list(ring.revoked)
    if edit.revoke is not None:
        for key in edit.remove:
            if key.keyid not in {known.keyid for known in revoked}:
                revoked.append(
                    RevokedKey(name=key.name, keyid=key.keyid, revoked=now, reason=edit.revoke)
                )
    return replace(
        ring,
        keys=(*kept, *edit.add),
        thresholds={**ring.thresholds, **edit.thresholds},
        revoked=tuple(revoked),
    )


def _with_public_halves(ring: Keyring, bases: Mapping[Repository, Metadata[Root]]) -> Keyring:
    keys = []
    for key in ring.keys:
        known = bases[key.repository].signed.keys.get(key.keyid)
        if key.public is None and known is not None:
            public = PublicKey(
                keyid=known.keyid,
                keytype=known.keytype,
                scheme=known.scheme,
                value=str(known.keyval["public"]),
            )
            keys.append(replace(key, public=public))
        else:
            keys.append(key)
    return replace(ring, keys=tuple(keys))


def _check(ring: Keyring, wanted: Keyring, edit: KeyEdit) -> None:
    faults = []
    kept = [key for key in ring.keys if key not in edit.remove]
    revoked = {key.keyid: key for key in wanted.revoked}
    for key in edit.add:
        if key.keyid in revoked:
            since = revoked[key.keyid].revoked
            faults.append(f"{key.name} was revoked at {since} and must never sign again")
        if any(k.keyid == key.keyid and k.repository is key.repository for k in kept):
            faults.append(f"{key.name} is in this fleet already")
        elif any(k.name == key.name and k.keyid != key.keyid for k in ring.keys):
            faults.append(f"another key is called {key.name}")
    if any(key.public is None for key in wanted.keys):
        faults.append("the list of keys and the roots do not belong together")
    if edit.revoke is not None and not edit.revoke.strip():
        faults.append("a key is not revoked without a reason: lost, stolen, Ben has left, …")
    if faults:
        raise UsageError("; ".join(dict.fromkeys(faults)), fix="see: edgekit keys show")
    _check_thresholds(wanted, {key.name: key for key in edit.remove})
    _check_readable(wanted)


def _check_readable(ring: Keyring) -> None:
    """What could not be read again would leave a fleet without a list of its keys."""
    try:
        parse_keyring(keyring_json(ring), folder=ring.folder)
    except VerificationError as error:
        raise UsageError(
            f"the list of keys cannot hold that: {error.what.partition(': ')[2]}",
            fix="make it shorter",
        ) from error


def _check_thresholds(ring: Keyring, removed: Mapping[str, FleetKey]) -> None:
    faults = []
    for repository in Repository:
        for role in ROLES:
            needed, left = ring.threshold(repository, role), len(ring.keys_of(repository, role))
            if left < needed:
                faults.append(
                    f"the {repository.value} {role} takes {needed} "
                    f"{'key' if needed == 1 else 'keys'}, and {left} would be left"
                )
    if faults:
        gone = ", ".join(removed)
        raise UsageError(
            (f"{gone} is still in use: " if gone else "") + "; ".join(faults),
            fix="put another in its place: edgekit keys rotate --with FILE; or lower the threshold",
        )


def _roles(ring: Keyring, repository: Repository) -> dict[str, tuple[tuple[FleetKey, ...], int]]:
    return {
        role: (ring.keys_of(repository, role), ring.threshold(repository, role)) for role in ROLES
    }


def _is_so(root: Root, wanted: Mapping[str, tuple[tuple[FleetKey, ...], int]]) -> bool:
    return all(
        set(root.roles[role].keyids) == {key.keyid for key in keys}
        and root.roles[role].threshold == threshold
        for role, (keys, threshold) in wanted.items()
    )


def _has_signed(root: Root, targets: Metadata[Targets]) -> bool:
    return root.get_verification_result(
        Targets.type, targets.signed_bytes, targets.signatures
    ).verified


def _next_targets(current: Metadata[Targets], fleet: Fleet, clock: Clock) -> Metadata[Targets]:
    following = copy.deepcopy(current.signed)
    following.version += 1
    following.expires = clock() + timedelta(days=fleet.expiries.targets)
    return Metadata(following)
