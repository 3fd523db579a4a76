"""What a fleet asks of one device, signed; the broker is never believed.

A request travels as JSON: the text that was signed, and its signatures by keys of the director's
`targets` role, as many as that role's threshold. The text itself is signed, not its meaning, so
that nothing depends on how JSON is written. Numbers rise: a device follows each request once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.protocol import ID_PATTERN, MAX_REQUEST_BYTES

FORMAT: Final = "edgekit-request"
MAX_REPLY_BYTES: Final = 60 * 1024
_MAX_SIGNATURES: Final = 16
_VERSION: Final = 1


class RequestKind(StrEnum):
    """What a device can be asked for."""

    BENCH = "bench"
    LOGS = "logs"
    SAMPLES = "samples"
    RESTART = "restart"
    RENEW = "renew"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """One request.

    Attributes:
        device: Who is asked.
        number: Larger than that of every request before it, of this device.
        expires: Seconds since 1970 after which it is void.
        kind: What is asked for.
        arguments: By kind. bench: `bundle`, `version` (none for the one that serves). logs:
            `lines`. samples: `most`. restart: `what` ("server" or "agent"). certificate:
            `certificate` and `authorities`, in PEM.
    """

    device: str
    number: int
    expires: float
    kind: RequestKind
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """A request as it travels, unproven.

    Attributes:
        signed: The text that the signatures are of.
        signatures: Key id and signature in hex, as python-tuf has them.
    """

    signed: str
    signatures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReply:
    """An answer, or a part of one.

    Attributes:
        device: Who answers.
        number: Of the request; 0 where the device asks for a certificate by itself.
        ok: Whether it was done.
        part: From 0.
        parts: How many parts the answer has.
        result: By kind; `error` where it was not done.
    """

    device: str
    number: int
    ok: bool
    part: int = 0
    parts: int = 1
    result: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The message."""
        document = {
            "device": self.device,
            "number": self.number,
            "ok": self.ok,
            "part": self.part,
            "parts": self.parts,
            "result": self.result,
        }
        return json.dumps(document, separators=(",", ":")).encode()


def sign_request(
    request: DeviceRequest, signers: Sequence[Callable[[bytes], tuple[str, str]]]
) -> bytes:
    """The message of a request.

    Args:
        request: What is asked.
        signers: Each gives the key id and the signature in hex of some bytes.
    """
    signed = json.dumps(
        {
            "format": FORMAT,
            "format_version": _VERSION,
            "device": request.device,
            "number": request.number,
            "expires": request.expires,
            "kind": request.kind,
            "arguments": request.arguments,
        },
        separators=(",", ":"),
    )
    signatures = [sign(signed.encode()) for sign in signers]
    return json.dumps({"signed": signed, "signatures": signatures}).encode()


def open_request(message: bytes) -> SignedRequest:
    """Read a message; nothing is proven yet.

    Raises:
        VerificationError: If it is no request.
    """
    if len(message) > MAX_REQUEST_BYTES:
        raise VerificationError(f"the request is larger than {MAX_REQUEST_BYTES} bytes")
    reader = _open(message)
    signatures = []
    for pair in reader.sequence("signatures", most=_MAX_SIGNATURES):
        match pair:
            case [str(key), str(signature)]:
                signatures.append((key, signature))
            case _:
                reader.fault("signatures", "must be a list of [key id, signature]")
    opened = SignedRequest(
        signed=reader.text("signed", most=MAX_REQUEST_BYTES), signatures=tuple(signatures)
    )
    _close(reader)
    return opened


def read_request(signed: str) -> DeviceRequest:
    """Read the text of a request whose signatures were verified.

    Raises:
        VerificationError: If it is invalid; every field is named.
    """
    reader = _open(signed.encode())
    if (reader.raw("format"), reader.raw("format_version")) != (FORMAT, _VERSION):
        reader.fault("format", f"is no {FORMAT} of version {_VERSION}; update the agent")
    kind = reader.text("kind")
    if kind not in set(RequestKind):
        reader.fault("kind", f"{kind[:40]!r} is not known to this agent")
    arguments = reader.raw("arguments")
    request = DeviceRequest(
        device=reader.text("device", pattern=ID_PATTERN),
        number=reader.integer("number", least=1),
        expires=reader.number("expires", least=0),
        kind=RequestKind(kind) if kind in set(RequestKind) else RequestKind.LOGS,
        arguments=arguments if isinstance(arguments, dict) else {},
    )
    _close(reader)
    return request


def parse_reply(message: bytes, *, where: str) -> DeviceReply:
    """Read a device's reply, which may hold anything.

    Raises:
        VerificationError: If it is invalid; every field is named.
    """
    if len(message) > 2 * MAX_REPLY_BYTES:
        raise VerificationError("the reply is too large", where=where)
    reader = _open(message)
    result = reader.raw("result")
    reply = DeviceReply(
        device=reader.text("device", pattern=ID_PATTERN),
        number=reader.integer("number"),
        ok=reader.boolean("ok"),
        part=reader.integer("part"),
        parts=reader.integer("parts", least=1),
        result=result if isinstance(result, dict) else {},
    )
    _close(reader)
    return reply


def _open(data: bytes) -> FieldReader:
    try:
        return FieldReader(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"this is no JSON: {error}") from error


def _close(reader: FieldReader) -> None:
    if reader.faults:
        raise VerificationError("it is invalid: " + "; ".join(reader.faults[:20]))
