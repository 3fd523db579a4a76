"""What a fleet says over MQTT: topics, and how a TUF metadata set travels in one message."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.limits import MAX_METADATA_FILES, MAX_METADATA_SET_BYTES

ROOT: Final = "edgekit/v1"
ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
# A device holds no more of what is asked of it.
MAX_REQUEST_BYTES: Final = 64 * 1024
_METADATA_NAME = r"(?:[1-9]\d{0,9}\.)?[a-z0-9][a-z0-9._-]{0,120}\.json"


def require_id(text: str, *, kind: str) -> str:
    """Return a fleet's or device's id if it may stand in a topic and a file name.

    Raises:
        UsageError: If it may not.
    """
    if not re.fullmatch(ID_PATTERN, text):
        raise UsageError(
            f"{text!r} is no valid {kind} id",
            fix="use at most 64 letters, digits, dots, dashes, underscores; not a sign first",
        )
    return text


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one fleet."""

    fleet: str

    def __post_init__(self) -> None:
        require_id(self.fleet, kind="fleet")

    @property
    def base(self) -> str:
        """What all of them begin with."""
        return f"{ROOT}/{self.fleet}"

    @property
    def metadata(self) -> str:
        """Retained: the image repository's whole TUF metadata set."""
        return f"{self.base}/repo/metadata"

    def chunk(self, sha256: str) -> str:
        """Retained: one chunk, by the hash of its bytes on the wire."""
        return f"{self.base}/repo/chunks/{sha256}"

    def order(self, device: str) -> str:
        """Retained: the director's TUF metadata set for one device."""
        return f"{self._device(device)}/order"

    def state(self, device: str) -> str:
        """Retained: what the device runs; its last will marks it offline."""
        return f"{self._device(device)}/state"

    def events(self, device: str) -> str:
        """Update progress, security events, crashes."""
        return self.report(device, "events")

    def telemetry(self, device: str) -> str:
        """Batches of measurements."""
        return self.report(device, "telemetry")

    def requests(self, device: str) -> str:
        """What the device is asked for, each signed: measure this, send logs, renew."""
        return f"{self._device(device)}/requests"

    def replies(self, device: str) -> str:
        """What the device answers to requests."""
        return self.report(device, "replies")

    def report(self, device: str, kind: str) -> str:
        """One of the kinds of a device's reports: "events", "telemetry", "replies"."""
        return f"{self._device(device)}/{kind}"

    @property
    def all_states(self) -> str:
        """A subscription to every device's state."""
        return f"{self.base}/devices/+/state"

    @property
    def all_events(self) -> str:
        """A subscription to every device's events."""
        return f"{self.base}/devices/+/events"

    @property
    def all_telemetry(self) -> str:
        """A subscription to every device's measurements."""
        return f"{self.base}/devices/+/telemetry"

    @property
    def all_replies(self) -> str:
        """A subscription to every device's answers."""
        return f"{self.base}/devices/+/replies"

    def device_of(self, topic: str) -> str | None:
        """The device that a topic belongs to, or None if it is no device's topic."""
        match = re.fullmatch(rf"{re.escape(self.base)}/devices/({ID_PATTERN})/[a-z]+", topic)
        return match[1] if match else None

    def _device(self, device: str) -> str:
        return f"{self.base}/devices/{require_id(device, kind='device')}"


def pack_metadata(files: Mapping[str, bytes]) -> bytes:
    """Put a TUF metadata set into one message: zlib over a JSON object of name to text."""
    document = {name: data.decode() for name, data in sorted(files.items())}
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), level=9)


def unpack_metadata(message: bytes, *, where: str) -> dict[str, bytes]:
    """Take a metadata set out of a message from an untrusted source, in bounded memory.

    Nothing is verified but the form: signatures are TUF's affair.

    Args:
        message: What `pack_metadata` made.
        where: The topic or file, for the error.

    Raises:
        VerificationError: If it is too large, damaged, or names files that TUF has not.
    """
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(message, MAX_METADATA_SET_BYTES)
        complete = unpacker.eof and not unpacker.unused_data
        document = json.loads(data) if complete else None
    except (zlib.error, ValueError, RecursionError) as error:
        raise VerificationError(f"the metadata set is damaged: {error}", where=where) from error
    if document is None:
        raise VerificationError(
            f"the metadata set is cut off, or larger than {MAX_METADATA_SET_BYTES} bytes",
            where=where,
        )
    if (
        not isinstance(document, dict)
        or not 0 < len(document) <= MAX_METADATA_FILES
        or not all(
            re.fullmatch(_METADATA_NAME, name) and isinstance(text, str)
            for name, text in document.items()
        )
    ):
        raise VerificationError("this is no TUF metadata set", where=where)
    try:
        return {name: text.encode() for name, text in document.items()}
    except UnicodeEncodeError as error:
        # JSON may name half of a character.
        raise VerificationError(f"this is no TUF metadata set: {error}", where=where) from error
