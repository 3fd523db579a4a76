"""A change of a fleet's keys as one document: what is to be signed, and who has signed it.

It is made where the fleet is, carried to the people who hold offline keys, signed by each with
their own, carried back, and applied. It holds no secret. A change has, for each repository, up to
two new roots. Where a role's keys are replaced the first trusts both old and new ones, so that at
every instant all that is signed is valid; the second trusts only those that stay. Imports tuf.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from edgekit.fleet.folder import Fleet
from edgekit.fleet.keyring import (
    ROLES,
    FleetKey,
    Keyring,
    Repository,
    key_document,
    keyring_json,
    parse_keyring,
    read_key,
)
from edgekit.fleet.signed_folder import add_signature
from edgekit_runtime.durable import write_bytes
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.limits import MAX_METADATA_SET_BYTES

_FORMAT: Final = "edgekit-key-change"
_FORMAT_VERSION: Final = 1
_MAX_BYTES: Final = 2 * MAX_METADATA_SET_BYTES
_MOST_ROOTS: Final = 2
_MOST_RETIRED: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryChange:
    """What becomes of one repository.

    Attributes:
        base: The root that is trusted until now; None for a new fleet.
        roots: The new ones, in order; none if the repository does not change.
        targets: The list of what may be installed, to be signed by the keys that stay; None if
            the signatures that it has will do.
    """

    base: Metadata[Root] | None
    roots: tuple[Metadata[Root], ...]
    targets: Metadata[Targets] | None = None

    @property
    def final(self) -> Root:
        """What will be trusted in the end."""
        last = self.roots[-1] if self.roots else self.base
        assert last is not None  # noqa: S101 - a new fleet has new roots
        return last.signed


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """A change of a fleet's keys.

    Attributes:
        fleet: Whose.
        what: In words: "rotate image-targets".
        action: For the audit log: "keys.rotated".
        ring: All keys, as they will be.
        retired: Keys that go.
        repositories: What becomes of each.
    """

    fleet: str
    what: str
    action: str
    ring: Keyring
    retired: tuple[FleetKey, ...]
    repositories: Mapping[Repository, RepositoryChange]

    @property
    def is_first(self) -> bool:
        """Whether it makes the keys of a new fleet."""
        return any(change.base is None for change in self.repositories.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """Signatures that a document needs and has not.

    Attributes:
        repository: Of the document.
        document: "root 3", "targets 8".
        role: Whose keys must sign it: of the root, or of targets.
        old: Whether it is the keys trusted until now that must, not the new ones.
        needed: How many must sign together.
        signed: The ids of those that have.
        able: The ids of all that may.
    """

    repository: Repository
    document: str
    role: str
    old: bool
    needed: int
    signed: tuple[str, ...]
    able: tuple[str, ...]


def plan_roots(
    base: Metadata[Root] | None,
    wanted: Mapping[str, tuple[tuple[FleetKey, ...], int]],
    *,
    expires: datetime,
) -> tuple[Metadata[Root], ...]:
    """The roots that lead from the trusted one to what is wanted, unsigned.

    Args:
        base: The trusted root; None for the first.
        wanted: For each role its keys, and how many of them must sign together.
        expires: When the new ones end.
    """
    if base is None:
        return (_root(1, wanted, None, expires),)
    old = base.signed
    version = old.version + 1
    bridge = _root(version, wanted, old, expires)
    final = _root(version, wanted, None, expires)
    if _roles_of(bridge.signed) == _roles_of(final.signed):
        return (final,)
    final.signed.version = version + 1
    return (bridge, final)


def sign_change(change: KeyChange, signers: Iterable[Signer]) -> tuple[str, ...]:
    """Add signatures to every document on which a key's signature counts.

    Returns:
        The ids of the keys that had a part in it.

    Raises:
        EdgekitError: As the signer does.
    """
    used = []
    for signer in signers:
        keyid = signer.public_key.keyid
        documents = [d for d, able in _documents(change) if keyid in able]
        for document in documents:
            add_signature(document, signer)
        if documents:
            used.append(keyid)
    return tuple(used)


def lacking(change: KeyChange) -> tuple[Lacking, ...]:
    """What is not signed by enough keys yet; a wrong signature counts for nothing."""
    found: list[Lacking] = []
    for repository, part in change.repositories.items():
        previous = part.base
        for root in part.roots:
            name = f"root {root.signed.version}"
            if previous is not None:
                found += _lacks(previous.signed, root, "root", repository, name, old=True)
            found += _lacks(root.signed, root, "root", repository, name, old=False)
            previous = root
        if part.targets is not None:
            name = f"targets {part.targets.signed.version}"
            found += _lacks(part.final, part.targets, "targets", repository, name, old=False)
    return tuple(dict.fromkeys(found))


def owners(change: KeyChange) -> dict[str, str]:
    """The name of every key that may sign, by its id; those that go too."""
    return {key.keyid: key.name for key in (*change.retired, *change.ring.keys)}


def change_json(change: KeyChange) -> bytes:
    """The document, to be written to a file."""
    parts: dict[str, object] = {}
    for repository, part in change.repositories.items():
        parts[repository.value] = {
            "base": part.base.to_dict() if part.base else None,
            "roots": [root.to_dict() for root in part.roots],
            "targets": part.targets.to_dict() if part.targets else None,
        }
    document = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "fleet": change.fleet,
        "what": change.what,
        "action": change.action,
        "retired": [key_document(key) for key in change.retired],
        "keyring": json.loads(keyring_json(change.ring)),
        "repositories": parts,
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def write_change(change: KeyChange, path: Path) -> None:
    """Write a change to a file that is carried.

    Raises:
        EnvironmentLackError: If it cannot be written.
    """
    write_bytes(path, change_json(change))


def read_change(path: Path) -> KeyChange:
    """Read a change.

    Raises:
        UsageError: If the file cannot be read.
        VerificationError: If it is no such file, or damaged.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"the change of keys cannot be read: {error.strerror or error}", where=str(path)
        ) from error
    try:
        reader = FieldReader(json.loads(data if len(data) <= _MAX_BYTES else b""))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if reader.raw("format") != _FORMAT or reader.raw("format_version") != _FORMAT_VERSION:
        raise _damaged(path, f"it is no {_FORMAT} of version {_FORMAT_VERSION}")
    parts = reader.nested("repositories")
    if reader.faults or set(parts.names()) != set(Repository):
        raise _damaged(path, "; ".join(reader.faults) or "it does not name both repositories")
    try:
        change = KeyChange(
            fleet=reader.text("fleet", most=64),
            what=reader.text("what", most=4096),
            action=reader.text("action", most=64),
            ring=parse_keyring(json.dumps(reader.raw("keyring")).encode(), folder=path.parent),
            retired=reader.items("retired", read_key, most=_MOST_RETIRED),
            repositories={item: _read_part(parts.raw(item.value)) for item in Repository},
        )
    except VerificationError as error:
        raise _damaged(path, error.what) from error
    if reader.faults:
        raise _damaged(path, "; ".join(reader.faults))
    return change


def add_signatures(change: KeyChange, other: KeyChange) -> None:
    """Take over the signatures of another copy: two people may sign at the same time.

    Raises:
        UsageError: If it is another change.
    """
    ours, theirs = list(_documents(change)), list(_documents(other))
    if [d.signed_bytes for d, _ in ours] != [d.signed_bytes for d, _ in theirs]:
        raise UsageError(
            "these are not two copies of one change of keys",
            fix="sign the files that were made together",
        )
    for (document, _), (copy, _) in zip(ours, theirs, strict=True):
        for keyid, signature in copy.signatures.items():
            document.signatures.setdefault(keyid, signature)


def for_fleet(change: KeyChange, fleet: Fleet) -> KeyChange:
    """A change whose keys' files are in a fleet's folder."""
    return replace(change, ring=replace(change.ring, folder=fleet.keys))


def _root(
    version: int,
    wanted: Mapping[str, tuple[tuple[FleetKey, ...], int]],
    old: Root | None,
    expires: datetime,
) -> Metadata[Root]:
    root = Root(version=version, expires=expires, consistent_snapshot=True)
    for role in ROLES:
        keys, threshold = wanted[role]
        for key in keys:
            assert key.public is not None  # noqa: S101 - `propose` has seen to it
            root.add_key(key.public.to_tuf(), role)
        # Who may change the root is changed at once: its new keys sign the new root themselves.
        if old is not None and role != "root":
            for keyid in old.roles[role].keyids:
                root.add_key(old.keys[keyid], role)
            threshold = min(threshold, old.roles[role].threshold)
        root.roles[role].threshold = threshold
    return Metadata(root)


def _roles_of(root: Root) -> dict[str, tuple[frozenset[str], int]]:
    return {name: (frozenset(role.keyids), role.threshold) for name, role in root.roles.items()}


def _documents(change: KeyChange) -> Iterator[tuple[Metadata[Any], set[str]]]:
    """Every document, and the keys whose signatures count on it."""
    for part in change.repositories.values():
        previous = part.base
        for root in part.roots:
            able = set(root.signed.roles["root"].keyids)
            if previous is not None:
                able |= set(previous.signed.roles["root"].keyids)
            yield root, able
            previous = root
        if part.targets is not None:
            yield part.targets, set(part.final.roles["targets"].keyids)


def _lacks(
    trusted: Root,
    document: Metadata[Any],
    role: str,
    repository: Repository,
    name: str,
    *,
    old: bool,
) -> list[Lacking]:
    result = trusted.get_verification_result(role, document.signed_bytes, document.signatures)
    if result.verified:
        return []
    return [
        Lacking(
            repository=repository,
            document=name,
            role=role,
            old=old,
            needed=result.threshold,
            signed=tuple(sorted(result.signed)),
            able=tuple(sorted(trusted.roles[role].keyids)),
        )
    ]


def _read_part(data: Any) -> RepositoryChange:
    if not isinstance(data, dict) or not isinstance(data.get("roots"), list):
        raise VerificationError("a repository is no object with roots")
    roots = [_read_metadata(item, Root) for item in data["roots"]]
    base = None if data.get("base") is None else _read_metadata(data["base"], Root)
    if len(roots) > _MOST_ROOTS or (base is None and len(roots) != 1):
        raise VerificationError("it has another number of roots than a change has")
    expected = base.signed.version if base else 0
    if [root.signed.version for root in roots] != list(
        range(expected + 1, expected + 1 + len(roots))
    ):
        raise VerificationError("the roots do not follow each other")
    targets = None if data.get("targets") is None else _read_metadata(data["targets"], Targets)
    return RepositoryChange(base=base, roots=tuple(roots), targets=targets)


def _read_metadata(data: Any, kind: type[Any]) -> Metadata[Any]:
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(json.dumps(data).encode())
    except (RepositoryError, ValueError, TypeError) as error:
        raise VerificationError(f"metadata in it is damaged: {error}") from error
    if not isinstance(metadata.signed, kind):
        raise VerificationError(f"it holds {metadata.signed.type} where {kind.type} belongs")
    return metadata


def _damaged(path: Path, why: str) -> VerificationError:
    return VerificationError(
        f"this is no change of keys, or it is damaged: {why}",
        where=str(path),
        fix="carry the file over again",
    )
