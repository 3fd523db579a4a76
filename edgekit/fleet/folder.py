"""The fleet folder: where a fleet's keys, metadata, chunks and settings are."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Final

from edgekit.fleet.broker_address import (
    HOST_PATTERN,
    MAX_PORT,
    BrokerAddress,
    read_security,
    security_settings,
)
from edgekit.fleet.clock import Clock, rfc3339, utc_now
from edgekit_runtime.durable import unwritable, write_bytes
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.protocol import ID_PATTERN, require_id

__all__ = ["SETTINGS", "BrokerAddress", "Expiries", "Fleet"]

SETTINGS: Final = "fleet.toml"
_FORMAT: Final = 1
_LOOK_SECONDS: Final = 0.02
_MOST_WORDS: Final = 64
_TEMPLATE: Final = """\
# An edgekit fleet. Change the expiries here; they hold from the next signature on.
format = {format}
id = "{id}"
created = "{created}"

# How many days a signature holds. `timestamp` and `snapshot` are renewed by `edgekit fleet
# refresh`, and a device that hears of no renewal for so long knows that it is being kept in the
# dark. `order` is the same for a device's own orders. `targets` and `root` need the offline keys.
[expiry_days]
timestamp = {expiries.timestamp}
snapshot = {expiries.snapshot}
targets = {expiries.targets}
root = {expiries.root}
order = {expiries.order}
"""
_PUBLIC_TEMPLATE: Final = """
# Where devices reach the broker, if they call it otherwise than the control plane does.
[public_broker]
host = "{host}"
port = {port}
"""
_COMMAND_TEMPLATE: Final = """
# What is run after each change of the broker's files, as a list of words; there is no shell.
[broker_files]
changed = {command}
"""
_BROKER_TEMPLATE: Final = """
# The broker that was published to last.
[broker]
host = "{host}"
port = {port}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiries:
    """How long signatures hold, in days.

    Attributes:
        timestamp: Of the image repository's timestamp.
        snapshot: Of the image repository's snapshot.
        targets: Of the lists of what may be installed, and of what a device is ordered to run.
        root: Of the lists of trusted keys.
        order: Of a device's order without a `refresh`: the director's snapshot and timestamp.
    """

    timestamp: int = 7
    snapshot: int = 30
    targets: int = 365
    root: int = 3 * 365
    order: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A fleet's folder and settings.

    Attributes:
        path: The folder.
        id: The fleet's name in MQTT topics.
        created: RFC 3339, UTC.
        expiries: How long signatures hold.
        broker: The broker that was published to last, if any.
        public_broker: What devices call it, if that was said.
        broker_command: What is run after each change of the broker's files; none for nothing.
    """

    path: Path
    id: str
    created: str
    expiries: Expiries = field(default_factory=Expiries)
    broker: BrokerAddress | None = None
    public_broker: BrokerAddress | None = None
    broker_command: tuple[str, ...] = ()

    @classmethod
    def create(
        cls,
        path: Path,
        fleet_id: str,
        *,
        expiries: Expiries | None = None,
        clock: Clock = utc_now,
    ) -> Fleet:
        """Make a new fleet's folder; keys are made by `init_keys` afterwards.

        Raises:
            UsageError: If the id is invalid, or a fleet or a file is there already.
            EnvironmentLackError: If the folder cannot be written.
        """
        require_id(fleet_id, kind="fleet")
        if (path / SETTINGS).exists():
            raise UsageError(
                "a fleet is here already", where=str(path), fix="use it, or choose another folder"
            )
        fleet = cls(
            path=path, id=fleet_id, created=rfc3339(clock()), expiries=expiries or Expiries()
        )
        if path.exists() and not path.is_dir():
            raise UsageError("this is a file, a folder is needed", where=str(path))
        try:
            for folder in (fleet.chunks, fleet.orders.parent, fleet.releases):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        fleet._save()
        return fleet

    @classmethod
    def open(cls, path: Path) -> Fleet:
        """Open an existing fleet folder.

        Raises:
            UsageError: If it is none, or its settings are invalid; every field is named.
        """
        settings = path / SETTINGS
        try:
            document = tomllib.loads(settings.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(
                "this is no fleet folder",
                where=str(path),
                fix="make one: edgekit fleet init",
            ) from error
        except (OSError, ValueError) as error:
            raise UsageError(
                f"the fleet's settings cannot be read: {error}",
                where=str(settings),
                fix="mend the file, or take it from a backup",
            ) from error
        return _parse(document, path)

    @property
    def keys(self) -> Path:
        """The signing keys and what is known of them."""
        return self.path / "keys"

    @property
    def image_metadata(self) -> Path:
        """The image repository's TUF metadata."""
        return self.path / "image" / "metadata"

    @property
    def chunks(self) -> Path:
        """Every released chunk as it travels, by its SHA-256."""
        return self.path / "image" / "chunks"

    @property
    def director_metadata(self) -> Path:
        """The director's root, the same for all devices."""
        return self.path / "director" / "metadata"

    @property
    def orders(self) -> Path:
        """The director's TUF metadata for each device."""
        return self.path / "director" / "orders.db"

    @property
    def releases(self) -> Path:
        """What was released, when, and from which bundle file."""
        return self.path / "releases"

    def with_broker(self, broker: BrokerAddress) -> Fleet:
        """The fleet with another broker, remembered in its settings."""
        fleet = replace(self, broker=broker)
        if fleet != self:
            fleet._save()
        return fleet

    def with_public_broker(self, broker: BrokerAddress) -> Fleet:
        """The fleet with another name of the broker for devices, remembered in its settings."""
        fleet = replace(self, public_broker=broker)
        if fleet != self:
            fleet._save()
        return fleet

    @property
    def device_broker(self) -> BrokerAddress | None:
        """Where devices reach the broker."""
        return self.public_broker or self.broker

    @contextlib.contextmanager
    def locked(self, name: str = ".lock", *, wait_s: float = 0.0) -> Iterator[None]:
        """Keep every other process from signing for this fleet meanwhile.

        Args:
            name: Of the lock; work that has nothing to do with each other has locks of its own.
            wait_s: How long to wait for another process.

        Raises:
            EnvironmentLackError: If another process is at it, or the folder cannot be written.
        """
        place = self.path / name
        try:
            file = place.open("ab")
        except OSError as error:
            raise unwritable(place, error) from error
        with file:
            deadline = time.monotonic() + wait_s
            while True:
                try:
                    _lock(file)
                    break
                except OSError as error:
                    if time.monotonic() >= deadline:
                        raise EnvironmentLackError(
                            "another process is changing this fleet",
                            where=str(self.path),
                            fix="wait until it is done, and try again",
                        ) from error
                    time.sleep(_LOOK_SECONDS)
            yield

    def _save(self) -> None:
        text = _TEMPLATE.format(
            format=_FORMAT, id=self.id, created=self.created, expiries=self.expiries
        )
        if self.public_broker is not None:
            text += _PUBLIC_TEMPLATE.format(
                host=self.public_broker.host, port=self.public_broker.port
            )
        if self.broker_command:
            # A list of JSON texts is one of TOML.
            text += _COMMAND_TEMPLATE.format(command=json.dumps(list(self.broker_command)))
        if self.broker is not None:
            text += _BROKER_TEMPLATE.format(host=self.broker.host, port=self.broker.port)
            if self.broker.security is not None:
                text += security_settings(self.broker.security, self.path)
        write_bytes(self.path / SETTINGS, text.encode())


def _parse(document: dict[str, object], path: Path) -> Fleet:
    reader = FieldReader(document)
    known = {"format", "id", "created", "expiry_days", "broker", "public_broker", "broker_files"}
    for name in sorted(set(document) - known):
        reader.fault(name, "is unknown")
    if reader.integer("format") != _FORMAT:
        reader.fault("format", f"is not {_FORMAT}: made by another version of edgekit")
    days = reader.nested("expiry_days", optional=True)
    names = [item.name for item in fields(Expiries)]
    for name in sorted(set(days.names()) - set(names)):
        days.fault(name, "is unknown")
    usual = Expiries()
    broker = reader.nested("broker", optional=True)
    public = reader.nested("public_broker", optional=True)
    files = reader.nested("broker_files", optional=True)
    for name in sorted(set(files.names()) - {"changed"}):
        files.fault(name, "is unknown")
    command = files.texts("changed", most=_MOST_WORDS) if files.names() else ()
    if files.names() and not (command and command[0]):
        files.fault("changed", "must name a program")
    fleet = Fleet(
        path=path,
        id=reader.text("id", pattern=ID_PATTERN),
        created=reader.text("created"),
        expiries=Expiries(
            **{
                name: days.integer(name, least=1, most=36_500, default=getattr(usual, name))
                for name in names
            }
        ),
        broker=BrokerAddress(
            broker.text("host", pattern=HOST_PATTERN),
            broker.integer("port", least=1, most=MAX_PORT),
            read_security(broker, path),
        )
        if broker.names()
        else None,
        public_broker=BrokerAddress(
            public.text("host", pattern=HOST_PATTERN),
            public.integer("port", least=1, most=MAX_PORT),
        )
        if public.names()
        else None,
        broker_command=command,
    )
    if reader.faults:
        raise UsageError(
            "the fleet's settings are invalid: " + "; ".join(reader.faults),
            where=str(path / SETTINGS),
            fix="mend the file, or take it from a backup",
        )
    return fleet


def _lock(file: IO[bytes]) -> None:
    # The system lets go of either lock when the process ends, however it ends.
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
