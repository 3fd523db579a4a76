"""What somebody may ask about devices, and what they are shown of them.

A viewer knows devices by pseudonym alone. So that they find out no id either, they may not ask
by it: a query that names `id` is refused, a path takes the pseudonym, lists are in the order of
pseudonyms, and in queries and texts of others pseudonyms stand in the place of ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Final

from edgekit.fleet.access import Access, ForbiddenError
from edgekit.fleet.api.control_plane import ControlPlane, sees_ids
from edgekit.fleet.device_mentions import rename_mentions
from edgekit.fleet.devices.inventory import Device
from edgekit.fleet.rollouts.labels import parse_query
from edgekit.fleet.rollouts.store import StoredRollout

# Stands for an id that is no device's: it may be one tomorrow.
_UNKNOWN: Final = "unknown"


class Sight:
    """The devices as one person may see them, within one request.

    Args:
        plane: Where the devices are.
        access: Who asks.
    """

    def __init__(self, plane: ControlPlane, access: Access) -> None:
        self._inventory = plane.inventory(access)
        self._role = access.role.value
        self.sees_ids = sees_ids(access)

    @cached_property
    def names(self) -> Mapping[str, str]:
        """What devices are called for this person, where that is not their id."""
        return {} if self.sees_ids else self._inventory.pseudonyms()

    def name(self, device: str) -> str:
        """What a device is called for this person; one that was deleted is a pseudonym already."""
        return self.names.get(device, device)

    def get(self, device: str) -> Device:
        """A device by its id or pseudonym; for a viewer by its pseudonym alone.

        Raises:
            NotFoundError: If there is none, or none that may be named like that.
        """
        if self.sees_ids:
            return self._inventory.get(device)
        return self._shown(self._inventory.by_pseudonym(device))

    def find(self, query: str) -> tuple[Device, ...]:
        """The devices that a label query means, in the order of their names.

        Raises:
            UsageError: If the query breaks the grammar; says where.
            ForbiddenError: If it names ids, which this person may not know.
        """
        if self.sees_ids:
            return self._inventory.find(query)
        if not self.may_ask(query):
            raise ForbiddenError(
                f"a {self._role} may not ask by id: the answer would tell whose a pseudonym is",
                where=query[:200],
                fix="ask by labels, or open a device by its pseudonym; an operator may ask by id",
            )
        found = sorted(self._inventory.find(query), key=lambda device: device.pseudonym)
        return tuple(map(self._shown, found))

    def page(self, *, offset: int, limit: int) -> tuple[Device, ...]:
        """Some of all devices, in the order of their names."""
        found = self._inventory.page(offset=offset, limit=limit, by_pseudonym=not self.sees_ids)
        return tuple(map(self._shown, found))

    def may_ask(self, query: str) -> bool:
        """Whether this person may ask a query.

        Raises:
            UsageError: If the query breaks the grammar; says where.
        """
        return self.sees_ids or "id" not in parse_query(query).labels

    def text(self, text: str) -> str:
        """A query, or a text that quotes one, as this person may read it."""
        if self.sees_ids:
            return text
        return rename_mentions(text, lambda device: self.names.get(device, _UNKNOWN))

    def said(self, device: str, text: str) -> str:
        """A text that a device said, as this person may read it: a device knows its own id."""
        if self.sees_ids:
            return text
        return re.sub(rf"(?<![\w-]){re.escape(device)}(?![\w-])", self.name(device), text)

    def rollout(self, stored: StoredRollout) -> StoredRollout:
        """A rollout as this person may see it."""
        if self.sees_ids:
            return stored
        plan, state = stored.plan, stored.state
        devices = {
            self.name(device): replace(progress, reason=self.said(device, progress.reason))
            for device, progress in state.devices.items()
        }
        return replace(
            stored,
            plan=replace(plan, query=self.text(plan.query)),
            state=replace(
                state,
                reason=self.text(state.reason),
                decisions=tuple(replace(d, reason=self.text(d.reason)) for d in state.decisions),
                members=tuple(sorted(map(self.name, state.members))),
                devices=dict(sorted(devices.items())),
            ),
        )

    def _shown(self, device: Device) -> Device:
        """A device whose own texts do not say its id; the id itself stays, to look things up."""
        if self.sees_ids:
            return device
        bundles = {
            name: bundle | {"reason": self.said(device.id, bundle.get("reason", ""))}
            for name, bundle in device.bundles.items()
        }
        return replace(device, bundles=bundles)
