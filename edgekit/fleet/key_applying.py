"""Bring a change of keys, signed by enough people, into force. Imports tuf.

The change is written beside the keys first; from then on it is carried through, by `resume_change`
if this process is killed. Each step leaves everything that is published valid: roots that trust
both old and new keys come first, then new signatures, and last the roots that trust the new keys
alone.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.folder import Fleet
from edgekit.fleet.key_change import (
    KeyChange,
    Lacking,
    RepositoryChange,
    change_json,
    for_fleet,
    lacking,
    owners,
    read_change,
)
from edgekit.fleet.key_planning import current_root, mirrors, root_folder
from edgekit.fleet.keyring import (
    CHANGE_FILE,
    KEYS_FILE,
    Keyring,
    Repository,
    keyring_json,
    read_keyring,
    require_finished,
)
from edgekit.fleet.repositories import open_director, open_images
from edgekit.fleet.secret_files import replace_secret
from edgekit_runtime.durable import discard, sync_folder, unwritable, write_bytes
from edgekit_runtime.errors import EdgekitError, UsageError, VerificationError

_log = logging.getLogger(__name__)

Record = Callable[[KeyChange], None]
"""Writes a change that is in force into the audit log; may be called again after a crash."""


def apply_change(
    fleet: Fleet, change: KeyChange, *, record: Record, clock: Clock = utc_now
) -> None:
    """Bring a change into force, all of it.

    Killed at any instant, everything that is published stays valid; `resume_change` goes on.

    Args:
        fleet: Whose keys they are.
        change: Signed.
        record: For the audit log.
        clock: The time of signing.

    Raises:
        UsageError: If too few have signed, it is of another fleet, the fleet's roots or releases
            have changed since it was made, another change is not finished, or it has expired;
            nothing is changed then.
        EnvironmentLackError: If the folder cannot be written.
    """
    with fleet.locked():
        require_finished(fleet.keys)
        change = for_fleet(change, fleet)
        _require_fit(fleet, change)
        require_signed(change)
        _require_time(change, clock)
        write_bytes(fleet.keys / CHANGE_FILE, change_json(change))
        _carry_through(fleet, change, record, clock)


def resume_change(fleet: Fleet, *, record: Record, clock: Clock = utc_now) -> KeyChange | None:
    """Go on with a change that was interrupted; None if there is none.

    Raises:
        VerificationError: If what was noted of it is damaged.
        EnvironmentLackError: If the folder cannot be written.
    """
    path = fleet.keys / CHANGE_FILE
    if not path.exists():
        return None
    with fleet.locked():
        change = for_fleet(read_change(path), fleet)
        require_signed(change)
        _carry_through(fleet, change, record, clock)
    return change


def apply_first(
    fleet: Fleet, change: KeyChange, staging: Path, *, record: Record, clock: Clock = utc_now
) -> None:
    """Bring the first keys of a fleet into force; they appear all at once, as the last step.

    Args:
        fleet: A fleet without keys.
        change: As `first_change` made it, signed.
        staging: A folder in the fleet's with the files of the keys that stay here.
        record: For the audit log.
        clock: The time of signing.

    Raises:
        UsageError: If the fleet has keys already, too few have signed, or the online keys are
            those of another change.
        EnvironmentLackError: If the folder cannot be written.
    """
    with fleet.locked():
        require_no_keys(fleet)
        require_signed(change)
        _require_time(change, clock)
        ring = replace(change.ring, folder=staging)
        _require_online(ring)
        for repository, part in change.repositories.items():
            folder = root_folder(fleet, repository)
            # What lies here without keys is left from an attempt that was cut off.
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.mkdir(parents=True)
            except OSError as error:
                raise unwritable(folder, error) from error
            _write_root(folder, part.roots[0])
        _publish_first(fleet, change.repositories[Repository.IMAGE], ring, clock)
        replace_secret(staging / KEYS_FILE, keyring_json(ring))
        try:
            staging.replace(fleet.keys)
            sync_folder(fleet.path)
        except OSError as error:
            raise unwritable(fleet.keys, error) from error
        record(change)


def require_no_keys(fleet: Fleet) -> None:
    """Go on only if the fleet has no keys.

    Raises:
        UsageError: If it has.
    """
    if fleet.keys.exists():
        raise UsageError(
            "this fleet has keys already, and keys are never overwritten",
            where=str(fleet.keys),
            fix="use them: `edgekit keys show` lists them; or exchange them: edgekit keys rotate",
        )


def require_signed(change: KeyChange) -> None:
    """Go on only if enough people have signed.

    Raises:
        UsageError: If they have not; everything that lacks is named.
        VerificationError: If the list of keys beside the roots is another.
    """
    for repository, part in change.repositories.items():
        # The list of keys is not signed itself.
        if not mirrors(change.ring, repository, part.final):
            raise VerificationError(
                f"the list of keys in it is not what the {repository.value} root says",
                fix="somebody has changed the file: make it again",
            )
    found = lacking(change)
    if found:
        raise UsageError(
            "the threshold is not reached: " + ". ".join(explain(change, found)),
            fix="have it signed by others: edgekit keys sign FILE",
        )


def explain(change: KeyChange, found: Iterable[Lacking]) -> tuple[str, ...]:
    """What lacks, in words: documents that lack the same signatures stand together."""
    names = owners(change)

    def show(keyids: Iterable[str]) -> str:
        return ", ".join(names.get(keyid, f"key {keyid[:12]}") for keyid in keyids)

    together: dict[tuple[Repository, int, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for item in found:
        same = (item.repository, item.needed, item.able, item.signed)
        together.setdefault(same, []).append(item.document)
    return tuple(
        f"{repository.value} {', '.join(dict.fromkeys(documents))}: {len(signed)} of {needed} "
        + (f"signatures ({show(signed)})" if signed else "signatures")
        + f"; may still sign: {show(k for k in able if k not in signed) or 'nobody'}"
        for (repository, needed, able, signed), documents in together.items()
    )


def _require_fit(fleet: Fleet, change: KeyChange) -> None:
    if change.fleet != fleet.id:
        raise UsageError(f"this change is of the fleet {change.fleet!r}, not {fleet.id!r}")
    if change.is_first:
        raise UsageError("these would be the first keys, and this fleet has keys already")
    stale = []
    for repository, part in change.repositories.items():
        current = current_root(fleet, repository)
        if part.base is None or part.base.signed_bytes != current.signed_bytes:
            stale.append(f"{repository.value} root")
    known = {key.keyid for key in read_keyring(fleet).revoked}
    if not known <= {key.keyid for key in change.ring.revoked}:
        stale.append("list of revoked keys")
    targets = change.repositories[Repository.IMAGE].targets
    images = open_images(fleet)
    if targets is not None:
        present = images.targets()
        if (present.version + 1, present.targets) != (
            targets.signed.version,
            targets.signed.targets,
        ):
            stale.append("list of releases")
    if stale:
        raise UsageError(
            f"the fleet has changed since this was made: {', '.join(stale)}",
            fix="make it again, and have it signed again",
        )
    _require_online(change.ring)


def _require_online(ring: Keyring) -> None:
    missing = []
    for key in ring.keys:
        if not key.offline:
            try:
                ring.open(key)
            except EdgekitError:
                missing.append(key.name)
    if missing:
        raise UsageError(
            f"the online keys are not here: {', '.join(dict.fromkeys(missing))}",
            where=str(ring.folder),
            fix="apply the change where it was made, and the one that was made last",
        )


def _require_time(change: KeyChange, clock: Clock) -> None:
    documents: list[Metadata[Any]] = []
    for part in change.repositories.values():
        documents += [*part.roots, *([part.targets] if part.targets else [])]
    over = [d.signed for d in documents if d.signed.is_expired(clock())]
    if over:
        raise UsageError(
            f"what was signed has expired at {min(item.expires for item in over)}",
            fix="make it again, and have it signed again",
        )


def _carry_through(fleet: Fleet, change: KeyChange, record: Record, clock: Clock) -> None:
    for repository, part in change.repositories.items():
        if part.roots:
            _write_root(root_folder(fleet, repository), part.roots[0])
    replace_secret(fleet.keys / KEYS_FILE, keyring_json(change.ring))
    _sign_images_again(fleet, change.repositories[Repository.IMAGE], clock)
    _sign_orders_again(fleet, change.repositories[Repository.DIRECTOR], clock)
    for repository, part in change.repositories.items():
        for root in part.roots[1:]:
            _write_root(root_folder(fleet, repository), root)
    record(change)
    _remove_retired(change)
    (fleet.keys / CHANGE_FILE).unlink()
    sync_folder(fleet.keys)


def _sign_images_again(fleet: Fleet, part: RepositoryChange, clock: Clock) -> None:
    if not part.roots:
        return
    if part.targets is not None:
        version = part.targets.signed.version
        write_bytes(fleet.image_metadata / f"{version}.targets.json", part.targets.to_bytes())
    open_images(fleet, clock=clock).commit(renew=True)


def _sign_orders_again(fleet: Fleet, part: RepositoryChange, clock: Clock) -> None:
    if not part.roots:
        return
    done = open_director(fleet, clock=clock).sign_again(part.final)
    if done.damaged:
        # They are void with either keys: that must not keep a key from being revoked.
        _log.warning("orders are damaged and were not signed again: %s", ", ".join(done.damaged))


def _publish_first(fleet: Fleet, part: RepositoryChange, ring: Keyring, clock: Clock) -> None:
    from edgekit.fleet.image_repository import ImageRepository

    assert part.targets is not None  # noqa: S101 - as `first_change` made it
    write_bytes(fleet.image_metadata / "1.targets.json", part.targets.to_bytes())
    images = ImageRepository(
        fleet, sign_with=lambda role: ring.signers(Repository.IMAGE, role), clock=clock
    )
    images.commit()


def _write_root(folder: Path, root: Metadata[Root]) -> None:
    path = folder / f"{root.signed.version}.root.json"
    data = root.to_bytes()
    if not path.exists():
        write_bytes(path, data)
    elif path.read_bytes() != data:
        raise VerificationError(
            "another root of this version is there already",
            where=str(path),
            fix="take the fleet folder from a backup",
        )


def _remove_retired(change: KeyChange) -> None:
    used = {key.name for key in change.ring.keys}
    for key in change.retired:
        # A key that nothing trusts is of use to nobody but a thief of backups.
        if key.name not in used and key.uri is None:
            discard(change.ring.file_of(key))


def pending_change(fleet: Fleet) -> str | None:
    """What change is not finished, in words."""
    path = fleet.keys / CHANGE_FILE
    return read_change(path).what if path.exists() else None
