"""Exchange, add, revoke and renew a fleet's keys.

Each ends in one of two ways: enough of the offline keys are here, and the change is in force; or
some are with other people, and it is written to a file that they sign one after the other
(`edgekit.fleet.key_signing.sign_file`), until it can be brought into force (`apply_files`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.fleet.folder import Fleet
from edgekit.fleet.key_files import OwnKey
from edgekit.fleet.key_signing import (
    Outcome,
    Signing,
    require_file,
    require_tuf,
    sign_here,
)
from edgekit.fleet.keyring import (
    CHANGE_FILE,
    FleetKey,
    Keyring,
    Repository,
    read_keyring,
)
from edgekit.fleet.keys import KEYS
from edgekit.fleet.secret_files import write_secret
from edgekit.fleet.signing_keys import make_key
from edgekit_runtime.durable import discard, unwritable
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit.fleet.key_change import KeyChange
    from edgekit.fleet.key_planning import KeyEdit

Thresholds = Mapping[tuple[Repository, str], int]


def rotate_key(
    fleet: Fleet,
    name: str,
    signing: Signing,
    *,
    replacement: OwnKey | None = None,
    revoke: str | None = None,
) -> Outcome:
    """Put a new key in the place of one, in every role that it has.

    Args:
        fleet: The fleet.
        name: Of the key that goes.
        signing: How to sign.
        replacement: The key that comes; None to make one here, if the old one was made here.
        revoke: Why the old one must never sign again; None if it just goes.

    Raises:
        UsageError: If there is no such key, the new one is in use or was revoked, or too few of
            the offline keys are here and there is no file to ask for the others.
    """
    require_tuf()
    from edgekit.fleet.key_planning import KeyEdit, find_keys, propose

    ring = read_keyring(fleet)
    old = find_keys(ring, name)
    action = "keys.rotated" if revoke is None else "keys.revoked"
    with _discarded_on_failure(fleet) as made:
        if replacement is not None:
            new = tuple(replacement.for_roles(key.repository, *key.roles) for key in old)
        else:
            new = _made_here(ring, old, signing, made)
        edit = KeyEdit(
            what=f"{'revoke' if revoke is not None else 'rotate'} {name}, {new[0].name} comes",
            action=action,
            add=new,
            remove=old,
            revoke=revoke,
        )
        return _settle(fleet, propose(fleet, edit, clock=signing.clock), signing)


def revoke_key(
    fleet: Fleet,
    name: str,
    signing: Signing,
    *,
    reason: str,
    replacement: OwnKey | None = None,
) -> Outcome:
    """Take back the trust in a key that was lost or stolen: nothing that it signs counts any more.

    Another takes its place where one is given, or where too few would be left and it was made
    here. What the others have signed as well stays; what it signed alone is signed again.

    Args:
        fleet: The fleet.
        name: Of the key.
        signing: How to sign.
        reason: Why, in words.
        replacement: The key that comes.

    Raises:
        UsageError: If there is no such key, too few would be left, or too few of the offline keys
            are here and there is no file to ask for the others.
    """
    require_tuf()
    from edgekit.fleet.key_planning import find_keys

    ring = read_keyring(fleet)
    old = find_keys(ring, name)
    short = any(
        len(ring.keys_of(key.repository, role)) <= ring.threshold(key.repository, role)
        for key in old
        for role in key.roles
    )
    if replacement is None and (not short or not _was_made_here(old[0])):
        return remove_key(fleet, name, signing, revoke=reason)
    return rotate_key(fleet, name, signing, replacement=replacement, revoke=reason)


def remove_key(
    fleet: Fleet,
    name: str,
    signing: Signing,
    *,
    revoke: str | None = None,
    thresholds: Thresholds | None = None,
) -> Outcome:
    """Take a key out without another in its place.

    Raises:
        UsageError: If there is no such key, it is still in use, or too few of the offline keys are
            here and there is no file to ask for the others.
    """
    require_tuf()
    from edgekit.fleet.key_planning import KeyEdit, find_keys

    edit = KeyEdit(
        what=f"{'revoke' if revoke is not None else 'remove'} {name}",
        action="keys.removed" if revoke is None else "keys.revoked",
        remove=find_keys(read_keyring(fleet), name),
        revoke=revoke,
        thresholds=thresholds or {},
    )
    return _edit(fleet, edit, signing)


def add_key(
    fleet: Fleet,
    key: OwnKey,
    roles: Iterable[tuple[Repository, str]],
    signing: Signing,
    *,
    thresholds: Thresholds | None = None,
) -> Outcome:
    """Let one more key sign.

    Args:
        fleet: The fleet.
        key: The key.
        roles: What it may sign: root of either repository, targets of the image repository.
        signing: How to sign.
        thresholds: How many must sign together from now on, where that changes.

    Raises:
        UsageError: If it is in use or was revoked, or too few of the offline keys are here and
            there is no file to ask for the others.
    """
    require_tuf()
    from edgekit.fleet.key_planning import KeyEdit

    chosen = tuple(roles)
    edit = KeyEdit(
        what=f"add {key.name}",
        action="keys.added",
        add=tuple(
            key.for_roles(repository, *(role for owner, role in chosen if owner is repository))
            for repository in Repository
            if any(owner is repository for owner, _ in chosen)
        ),
        thresholds=thresholds or {},
    )
    return _edit(fleet, edit, signing)


def set_thresholds(fleet: Fleet, thresholds: Thresholds, signing: Signing) -> Outcome:
    """Have more, or fewer, keys of a role sign together.

    Raises:
        UsageError: If there are not so many, or too few of the offline keys are here and there is
            no file to ask for the others.
    """
    require_tuf()
    from edgekit.fleet.key_planning import KeyEdit

    shown = ", ".join(f"{r.value} {role} {n}" for (r, role), n in thresholds.items())
    edit = KeyEdit(what=f"thresholds: {shown}", action="keys.thresholds", thresholds=thresholds)
    return _edit(fleet, edit, signing)


def renew_roots(fleet: Fleet, signing: Signing) -> Outcome:
    """Sign the roots and the list of releases anew, before they expire.

    Raises:
        UsageError: If too few of the offline keys are here and there is no file to ask for the
            others.
    """
    require_tuf()
    from edgekit.fleet.key_planning import KeyEdit

    edit = KeyEdit(what="renew the roots", action="keys.renewed", renew=tuple(Repository))
    return _edit(fleet, edit, signing)


def _made_here(
    ring: Keyring, old: tuple[FleetKey, ...], signing: Signing, made: list[Path]
) -> tuple[FleetKey, ...]:
    from edgekit.fleet.key_planning import next_name

    key = old[0]
    if not _was_made_here(key):
        raise UsageError(
            f"the key {key.name} was made by its owner, and so is the one in its place",
            fix="they make it: edgekit keys new NAME; then give it: --with NAME.pub.json",
        )
    if key.encrypted and not signing.passphrase:
        raise UsageError(
            f"the key {key.name} is encrypted, and so will be the one in its place",
            fix="give the passphrase",
        )
    used = {known.name for known in ring.keys} | {known.name for known in ring.revoked}
    name = next_name(key.name, lambda text: text in used or (ring.folder / f"{text}.pem").exists())
    public, pem = make_key(signing.passphrase if key.offline else None)
    path = ring.folder / f"{name}.pem"
    try:
        write_secret(path, pem)
    except OSError as error:
        raise unwritable(path, error) from error
    made.append(path)
    return tuple(
        replace(
            item,
            name=name,
            keyid=public.keyid,
            public=public,
            encrypted=item.offline and signing.passphrase is not None,
        )
        for item in old
    )


@contextlib.contextmanager
def _discarded_on_failure(fleet: Fleet) -> Iterator[list[Path]]:
    """Files of new keys are of no use if the change does not come about."""
    made: list[Path] = []
    try:
        yield made
    except BaseException:
        # Once it is noted it is carried through, sooner or later, with these keys.
        if not (fleet.keys / CHANGE_FILE).exists():
            used = {key.name for key in read_keyring(fleet).keys}
            for path in made:
                if path.stem not in used:
                    discard(path)
        raise


def _edit(fleet: Fleet, edit: KeyEdit, signing: Signing) -> Outcome:
    from edgekit.fleet.key_planning import propose

    return _settle(fleet, propose(fleet, edit, clock=signing.clock), signing)


def _settle(fleet: Fleet, change: KeyChange, signing: Signing) -> Outcome:
    from edgekit.fleet.key_applying import apply_change
    from edgekit.fleet.key_change import write_change

    failures: list[str] = []
    lacks = sign_here(change, [read_keyring(fleet), change.ring], signing, failures)
    if not lacks:
        apply_change(fleet, change, record=signing.record, clock=signing.clock)
        return Outcome(change=change, file=None)
    file = require_file(change, lacks, failures, signing.out)
    write_change(change, file)
    return Outcome(change=change, file=file, lacking=lacks)


def _was_made_here(key: FleetKey) -> bool:
    stems = {name for name, *_ in KEYS}
    return key.uri is None and bool({key.name, key.name.rpartition("-")[0]} & stems)
