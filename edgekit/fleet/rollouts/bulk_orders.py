"""The director's repository for one of many devices that are told at once.

Imports tuf: use it through `order_book`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root

from edgekit.fleet.clock import Clock
from edgekit.fleet.director import DeviceOrders
from edgekit.fleet.folder import Fleet


class BulkDeviceOrders(DeviceOrders):
    """As `DeviceOrders`, proving nothing twice, and beside others in threads.

    The root is the same for all devices, and a file is read a dozen times for an order: proving
    the same bytes by the same root again and again is most of the time that ordering takes.

    Args:
        fleet: Whose device it is.
        device: Its id.
        root: The director's root, proven a moment ago.
        proven: Role and bytes of files that this root has been found to have signed; filled here.
        sign_with: Gives the signers of a role.
        signing: Held while something is signed: a token takes one call at a time.
        clock: The time of signing.
    """

    def __init__(
        self,
        fleet: Fleet,
        device: str,
        *,
        root: Root,
        proven: set[tuple[str, bytes]],
        sign_with: Callable[[str], Sequence[Signer]],
        signing: Lock,
        clock: Clock,
    ) -> None:
        super().__init__(fleet, device, sign_with=sign_with, clock=clock)
        self._proven_root = root
        self._proven = proven
        self._signing = signing

    def root(self) -> Root:
        """The root that was given."""
        return self._proven_root

    def _sign(self, role: str, md: Metadata[Any]) -> None:
        with self._signing:
            super()._sign(role, md)

    def _write(self, role: str, path: Path, data: bytes) -> None:
        super()._write(role, path, data)
        # It was proven before it was written, and is read next to learn what it says.
        self._proven.add((role, data))

    def _read(self, role: str, path: Path) -> Metadata[Any]:
        try:
            data = path.read_bytes()
        except OSError:
            # It says what is wrong.
            return super()._read(role, path)
        if (role, data) in self._proven:
            return Metadata.from_bytes(data)
        metadata = super()._read(role, path)
        self._proven.add((role, data))
        return metadata
