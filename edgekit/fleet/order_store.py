"""The signed orders of all devices, in one file of the fleet's folder.

A rollout signs thousands of orders: as files they would cost more than their signatures do. What
is put in at once is there whole or not at all, whenever the power goes. The file needs no server
and no table of the control plane: an order can be signed with nothing but the fleet's folder.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from edgekit.fleet.folder import Fleet
from edgekit.fleet.order_folders import OrderFolders, is_newer
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from edgekit_runtime.orders import BundleOrder, order_of

_FORMAT: Final = 1
_BUSY_SECONDS: Final = 15.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS orders (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    device TEXT NOT NULL UNIQUE,
    targets BLOB NOT NULL,
    snapshot BLOB NOT NULL,
    timestamp BLOB NOT NULL
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOrder:
    """The director's metadata for one device, as it was signed.

    Attributes:
        targets: What the device is to run.
        snapshot: Says which version of the targets.
        timestamp: Says which version of the snapshot.
    """

    targets: bytes
    snapshot: bytes
    timestamp: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOrder:
    """What a device is told, proven to be signed.

    Attributes:
        revision: Under which it is kept; 0 if it is not kept yet.
        version: Of the order: of its targets metadata. 0 if the device was never told anything.
        snapshot: Version of its snapshot metadata.
        timestamp: Version of its timestamp metadata.
        bundles: Everything that the device must run, by name.
    """

    revision: int
    version: int
    snapshot: int
    timestamp: int
    bundles: tuple[BundleOrder, ...]

    def of(self, bundle: str) -> BundleOrder | None:
        """What it says of a bundle."""
        return order_of(self.bundles, bundle)


NO_ORDER: Final = HeldOrder(revision=0, version=0, snapshot=0, timestamp=0, bundles=())


class OrderStore:
    """Where signed orders are kept; may be used from several threads and processes at once.

    Reading makes no file: whoever only looks need not be the one who may write. Whoever builds an
    order upon another holds the fleet's lock meanwhile.

    Args:
        fleet: Whose.

    Raises:
        EnvironmentLackError: From every method, if the file cannot be read or written.
        VerificationError: From every method, if it is damaged.
        UsageError: From every method, if a newer edgekit has made it.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._path = fleet.orders
        self._folders = OrderFolders(fleet)

    def head(self) -> tuple[int, int]:
        """The newest revision, and how many devices have an order: whether anything changed."""
        with self._open() as connection:
            row = connection.execute("SELECT max(revision), count(*) FROM orders").fetchone()
        return row[0] or 0, row[1]

    def revisions(self) -> dict[str, int]:
        """By device, in order, the revision of its order; a new one with every change."""
        with self._open() as connection:
            return dict(connection.execute("SELECT device, revision FROM orders ORDER BY device"))

    def get(self, device: str) -> tuple[int, SignedOrder] | None:
        """A device's order and its revision; None if it never had one."""
        with self._open() as connection:
            row = connection.execute(
                "SELECT revision, targets, snapshot, timestamp FROM orders WHERE device = ?",
                (device,),
            ).fetchone()
        if row is None:
            return None
        return row[0], SignedOrder(targets=row[1], snapshot=row[2], timestamp=row[3])

    def put(self, orders: Mapping[str, SignedOrder]) -> dict[str, int]:
        """Keep orders, durably, all of them or none; the revision of each."""
        with self._open(make=True) as connection, _transaction(connection):
            return {device: _put(connection, device, order) for device, order in orders.items()}

    def remove(self, device: str) -> None:
        """Forget a device's order; nothing of it stays in the file."""
        with self._open() as connection:
            connection.execute("DELETE FROM orders WHERE device = ?", (device,))

    @contextlib.contextmanager
    def _open(self, *, make: bool = False) -> Iterator[sqlite3.Connection]:
        with (
            self._faults_named(),
            contextlib.closing(
                sqlite3.connect(
                    self._path if make or self._is_there() else ":memory:",
                    timeout=_BUSY_SECONDS,
                    isolation_level=None,
                )
            ) as connection,
        ):
            # The folder's entry is written too before anybody is told of an order.
            connection.execute("PRAGMA synchronous=EXTRA")
            connection.execute("PRAGMA secure_delete=ON")
            known = connection.execute("PRAGMA user_version").fetchone()[0]
            if known > _FORMAT:
                raise UsageError(
                    "a newer edgekit has written the orders",
                    where=str(self._path),
                    fix="use that version, or a newer one",
                )
            if known < _FORMAT or self._folders.exist():
                with _transaction(connection):
                    connection.execute(_SCHEMA)
                    connection.execute(f"PRAGMA user_version={_FORMAT}")
                    self._take_folders_in(connection)
                # Others who wait for the first transaction may read the folders until this one.
                with _transaction(connection):
                    self._folders.remove()
            yield connection

    def _is_there(self) -> bool:
        return self._path.exists() or self._folders.exist()

    def _take_folders_in(self, connection: sqlite3.Connection) -> None:
        for device, (targets, snapshot, timestamp) in self._folders.read():
            kept = connection.execute(
                "SELECT timestamp FROM orders WHERE device = ?", (device,)
            ).fetchone()
            # What a crash has left is older, what an earlier edgekit that still ran has made newer.
            if kept is None or is_newer(timestamp, kept[0]):
                order = SignedOrder(targets=targets, snapshot=snapshot, timestamp=timestamp)
                _put(connection, device, order)

    @contextlib.contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise EnvironmentLackError(
                f"the signed orders cannot be read or written: {error}",
                where=str(self._path),
                fix="see whether the folder is there and writable, and the disk not full",
            ) from error
        except sqlite3.DatabaseError as error:
            raise VerificationError(
                f"the signed orders are damaged: {error}",
                where=str(self._path),
                fix="take the fleet folder from a backup",
            ) from error


def _put(connection: sqlite3.Connection, device: str, order: SignedOrder) -> int:
    cursor = connection.execute(
        "INSERT OR REPLACE INTO orders (device, targets, snapshot, timestamp) VALUES (?, ?, ?, ?)",
        (device, order.targets, order.snapshot, order.timestamp),
    )
    assert cursor.lastrowid is not None  # noqa: S101 - a row was inserted
    return cursor.lastrowid


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Where the disk is full, SQLite has done so already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
