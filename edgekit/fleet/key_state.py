"""How a fleet's keys stand: where each is, and until when what they signed holds. Imports tuf."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edgekit.fleet.folder import Fleet
from edgekit.fleet.key_planning import current_root
from edgekit.fleet.keyring import ROLES, Keyring, Repository
from edgekit.fleet.repositories import open_images


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleState:
    """A role of a repository.

    Attributes:
        repository: Which.
        role: Which.
        version: Of what was signed last.
        keys: How many may sign.
        threshold: How many must sign together.
        expires: Until when what was signed holds.
    """

    repository: Repository
    role: str
    version: int
    keys: int
    threshold: int
    expires: datetime


def root_states(fleet: Fleet) -> tuple[RoleState, ...]:
    """Every role of the image repository, and the director's root.

    Raises:
        VerificationError: If metadata is damaged.
    """
    found = []
    signed = {item.role: item for item in open_images(fleet).expiries()}
    for repository in Repository:
        root = current_root(fleet, repository).signed
        for role in ROLES if repository is Repository.IMAGE else ("root",):
            item = signed[role] if repository is Repository.IMAGE else None
            found.append(
                RoleState(
                    repository=repository,
                    role=role,
                    version=item.version if item else root.version,
                    keys=len(root.roles[role].keyids),
                    threshold=root.roles[role].threshold,
                    expires=item.expires if item else root.expires,
                )
            )
    return tuple(found)


def key_places(ring: Keyring) -> dict[str, str]:
    """Where each key is, by its id: "here", "here, encrypted", "away", or its URI."""
    places = {}
    for key in ring.keys:
        if key.uri is not None:
            places[key.keyid] = key.uri
        elif not ring.file_of(key).is_file():
            places[key.keyid] = "away"
        else:
            places[key.keyid] = "here, encrypted" if key.encrypted else "here"
    return places
