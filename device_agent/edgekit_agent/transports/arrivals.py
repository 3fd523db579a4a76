"""How an agent hears of its orders and gets chunks, whatever carries them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """Orders, metadata and wanted chunks come from now on; both of the former come anew.

    Attributes:
        source: Which of several transports; here and below, empty for the only one.
    """

    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """Nothing comes until `Connected`.

    Attributes:
        reason: For people.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataCame:
    """The image repository's metadata set, packed and unproven."""

    data: bytes
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderCame:
    """The director's metadata set for this device, packed and unproven."""

    data: bytes
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCame:
    """What came under the name of a wanted chunk, unproven."""

    sha256: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLacking:
    """A wanted chunk is not to be had from where it was asked for."""

    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCame:
    """Somebody asks this device for something; unproven."""

    data: bytes


class ReportKind(StrEnum):
    """What a device reports beside its state; the values are the ends of the topics."""

    EVENTS = "events"
    TELEMETRY = "telemetry"
    REPLIES = "replies"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTaken:
    """A report has arrived where it is kept.

    Attributes:
        kind: Of the report.
        key: As it was given with the report.
    """

    kind: ReportKind
    key: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTooLarge:
    """A report was not sent: the broker takes no message of its size, and would hang up.

    Attributes:
        kind: Of the report.
        key: As it was given with the report.
        most_bytes: What a report of its kind may have.
    """

    kind: ReportKind
    key: int
    most_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportUnheard:
    """A report came to the broker, which has nobody to give it to, or does not let it through.

    Attributes:
        kind: Of the report.
        key: As it was given with the report.
        reason: For people.
    """

    kind: ReportKind
    key: int
    reason: str


Arrival = (
    Connected
    | Disconnected
    | MetadataCame
    | OrderCame
    | ChunkCame
    | ChunkLacking
    | RequestCame
    | ReportTaken
    | ReportTooLarge
    | ReportUnheard
)


class Transport(Protocol):
    """Carries messages; its arrivals are posted from a thread of its own."""

    def start(self) -> None:
        """Begin to connect, and never give up."""
        ...

    def want(self, names: Iterable[str]) -> None:
        """Say which chunks are missing now, instead of those said before."""
        ...

    def received(self, name: str) -> None:
        """Say that a chunk has come and is good."""
        ...

    def retry(self, names: Iterable[str]) -> None:
        """Ask again for chunks that are wanted and have not come, or not right."""
        ...

    def publish_state(self, message: bytes) -> None:
        """Replace the device's retained state, if connected."""
        ...

    def publish_report(self, kind: ReportKind, key: int, message: bytes) -> None:
        """Send a report, if connected; `ReportTaken` follows when it has arrived.

        `ReportTooLarge` follows instead if it can never be sent to this broker, `ReportUnheard` if
        it came there and goes no further.
        What was not taken has to be given again after the next `Connected`.
        """
        ...

    def close(self, last_state: bytes) -> None:
        """Leave this state behind, if connected, and end."""
        ...
