"""The agent's memory across restarts: one small file, replaced durably before anything is done."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgekit_agent.state import BundleRecord, read_record
from edgekit_runtime.bundle.manifest import NAME_PATTERN
from edgekit_runtime.durable import write_bytes
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.fields import open_document

FORMAT: Final = "edgekit-journal"
FORMAT_VERSION: Final = 1
MAX_JOURNAL_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """What the agent must not forget.

    Attributes:
        order_version: Of the newest order that it followed.
        event_sequence: Of the last event that it reported.
        time_floor: Seconds since 1970; the time cannot be earlier than this.
        bundles: Every bundle by its name.
    """

    order_version: int = 0
    event_sequence: int = 0
    time_floor: float = 0.0
    bundles: dict[str, BundleRecord] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The journal as it stands on the disk."""
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "order_version": self.order_version,
            "event_sequence": self.event_sequence,
            "time_floor": self.time_floor,
            "bundles": {name: record.to_json() for name, record in self.bundles.items()},
        }
        return json.dumps(document, separators=(",", ":")).encode()


def parse_journal(data: bytes, *, where: str) -> Journal:
    """Read a journal.

    Raises:
        VerificationError: If it is damaged; every invalid field is named.
    """
    reader = open_document(
        data,
        name="journal",
        form=(FORMAT, FORMAT_VERSION),
        most_bytes=MAX_JOURNAL_BYTES,
        error=VerificationError,
        where=where,
        fix="run the version of edgekit-agent that wrote it",
    )
    bundles = reader.nested("bundles")
    records = {}
    for name in bundles.names():
        if re.fullmatch(NAME_PATTERN, name):
            records[name] = read_record(name, bundles.nested(name))
        else:
            bundles.fault("", f"{name[:80]!r} is no bundle name")
    journal = Journal(
        order_version=reader.integer("order_version"),
        event_sequence=reader.integer("event_sequence"),
        time_floor=reader.number("time_floor", least=0),
        bundles=records,
    )
    if reader.faults:
        raise VerificationError("the journal is damaged: " + "; ".join(reader.faults), where=where)
    return journal


def load_journal(path: Path) -> Journal:
    """Read the journal from the disk; there being none is an empty one.

    Raises:
        VerificationError: If it is damaged or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JOURNAL_BYTES)
    except FileNotFoundError:
        return Journal()
    except OSError as error:
        raise VerificationError(
            f"the journal cannot be read: {error.strerror or error}", where=str(path)
        ) from error
    return parse_journal(data, where=str(path))


def delete_strays(path: Path) -> None:
    """Delete the half-written journals and statuses that power cuts have left beside a journal."""
    for pattern in (f".{path.name}.*", ".status.*"):
        for stray in path.parent.glob(pattern):
            stray.unlink(missing_ok=True)


def save_journal(path: Path, journal: Journal) -> None:
    """Replace the journal on the disk, durably.

    Raises:
        EnvironmentLackError: If the disk is full or cannot be written.
    """
    write_bytes(path, journal.to_json())
