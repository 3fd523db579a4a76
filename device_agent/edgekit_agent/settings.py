"""Sections of `agent.toml` about telemetry, samples, streams and encryption."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit_runtime.bundle.manifest import NAME_PATTERN
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.sealing.keys import KeySource
from edgekit_runtime.sealing.vault import Encryption

# Within the agent's folder, where a running agent says how it is.
STATUS_NAME: Final = "status.json"
_MAX_PORT: Final = 65_535
_TOPIC_PATTERN: Final = r"[^#+\x00]{1,512}"
_FILTER_PATTERN: Final = r"[^\x00]{1,512}"
# The name of a credential or of an environment variable.
_VARIABLE_PATTERN: Final = r"[A-Za-z0-9._-]{1,100}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How a server is proven, and how this device proves itself.

    Attributes:
        ca: PEM file of the authorities that may sign the server's certificate.
        certificate: PEM file of this device's certificate; None for none.
        key: PEM file of its private key; None for none.
    """

    ca: Path
    certificate: Path | None
    key: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """How measurements are kept.

    Attributes:
        window_seconds: Measurements are added up over so long.
        store_bytes: What may wait on the disk while there is no connection.
    """

    window_seconds: float = 60.0
    store_bytes: int = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """Which requests are kept for retraining; none, unless the owner allows it.

    Attributes:
        allow: Whether any may be kept.
        random_share: Of all requests, the share that is kept whatever they are.
        low_confidence: Answers whose largest value is below are kept; 0 for none.
        ring_bytes: What all samples may take; the oldest make room.
    """

    allow: bool = False
    random_share: float = 0.001
    low_confidence: float = 0.5
    ring_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """Messages of a broker that a model answers.

    Attributes:
        model: The bundle's name.
        topic_in: What is subscribed to; may hold wildcards.
        topic_out: Where answers go, unless a message names a response topic itself.
        host: Of the broker, on this device or near it.
        port: Of the broker.
        tls: How it is proven, and this device to it; None for a plain connection.
        username: As whom; empty for nobody.
        password_file: Whose first line is the password; None for none.
        queue_messages: What may wait; the oldest are dropped for newer ones, and counted.
        content_type: Of messages that do not say it themselves.
    """

    model: str
    topic_in: str
    topic_out: str
    host: str = "127.0.0.1"
    port: int = 1883
    queue_messages: int = 32
    content_type: str = "application/json"
    tls: Tls | None = None
    username: str = ""
    password_file: Path | None = None

    @property
    def address(self) -> str:
        """Of the broker, for people."""
        return f"{self.host}:{self.port}"


TEMPLATE: Final = """\

[telemetry]
# Measurements of models and device are added up over so many seconds.
window_seconds = {telemetry.window_seconds}
# What may wait on the disk while there is no connection, in bytes. When it is full, the oldest
# minutes become hours, then days, before anything is dropped; what is dropped is counted.
store_bytes = {telemetry.store_bytes}

[samples]
# Whether requests and answers may be kept on this device for retraining: true or false. They are
# what people or machines sent to the models; ask whoever they belong to.
allow = {allow}
# The share of all requests that is kept, 0 to 1.
random_share = {samples.random_share}
# Answers whose largest value is below this are kept as well; 0 for none.
low_confidence = {samples.low_confidence}
# What all samples may take on the disk, in bytes; the oldest make room for new ones.
ring_bytes = {samples.ring_bytes}

# Uncomment to encrypt what the agent keeps on the disk: models and the other files of bundles,
# fetched chunks, measurements and events that wait, samples. Names, versions and hashes stay
# readable. The key stands in one of three places; `edgekit-agent storage-key FILE` makes it.
# [encryption]
# enabled = true                          # false writes everything plain again; it needs the key
# key_file = "storage.key"                # a file that only the agent's user may read (mode 0600)
# key_credential = "edgekit-storage"      # or one that systemd hands over: LoadCredential= there
# key_variable = "EDGEKIT_STORAGE_KEY"    # or a file that this environment variable names

# Uncomment to answer MQTT messages of a broker near this device with a model: inference requests
# of the Open Inference Protocol, or pictures, sound and raw tensors by `content_type`. Each stream
# has a connection of its own: what [broker] says does not count here.
# [[stream]]
# model = "digits"
# topic_in = "camera/+/frame"
# topic_out = "camera/digits"
# host = "127.0.0.1"
# port = 1883
# queue_messages = 32
# content_type = "image/jpeg"
# Where the broker asks for a name and a password: a file that only the agent's user may read (mode
# 0600), the password its first line. A broker that is not on this device needs TLS then.
# username = "models"
# password_file = "stream-password"
# TLS with this stream's broker, usually on port 8883; `certificate` and `key` prove this device.
# [stream.tls]
# ca = "stream-ca.pem"
# certificate = "stream.pem"
# key = "stream-key.pem"
"""


def render_sections() -> str:
    """The text of these sections in a new `agent.toml`, every value explained."""
    return TEMPLATE.format(
        telemetry=TelemetrySettings(), samples=SampleSettings(), allow=str(False).lower()
    )


def read_telemetry(reader: FieldReader) -> TelemetrySettings:
    """Read `[telemetry]`; faults gather in the reader."""
    only(reader, list(TelemetrySettings.__slots__))
    usual = TelemetrySettings()
    return TelemetrySettings(
        window_seconds=reader.number("window_seconds", least=1, default=usual.window_seconds),
        store_bytes=reader.integer(
            "store_bytes", least=1 << 16, most=1 << 40, default=usual.store_bytes
        ),
    )


def read_samples(reader: FieldReader) -> SampleSettings:
    """Read `[samples]`; faults gather in the reader."""
    only(reader, list(SampleSettings.__slots__))
    usual = SampleSettings()
    share = reader.number("random_share", least=0, default=usual.random_share)
    if share > 1:
        reader.fault("random_share", "is above 1")
    return SampleSettings(
        allow=reader.boolean("allow", default=usual.allow),
        random_share=share,
        low_confidence=reader.number("low_confidence", least=0, default=usual.low_confidence),
        ring_bytes=reader.integer(
            "ring_bytes", least=1 << 16, most=1 << 40, default=usual.ring_bytes
        ),
    )


def read_stream(reader: FieldReader, base: Path) -> StreamSettings:
    """Read one `[[stream]]`; faults gather in the reader."""
    only(reader, list(StreamSettings.__slots__))
    tls = None if reader.raw("tls") is None else read_tls(reader.nested("tls"), base)
    username = reader.text("username", default="", pattern=r"[^\x00]{0,256}")
    password_file = reader.text("password_file", default="")
    host = reader.text("host", default="127.0.0.1", pattern=r"[^\s/]+")
    if password_file and not username:
        reader.fault("password_file", "needs a username")
    if password_file and tls is None and not _is_here(host):
        reader.fault("password_file", f"would send the password to {host} in the clear: needs tls")
    return StreamSettings(
        model=reader.text("model", pattern=NAME_PATTERN),
        topic_in=reader.text("topic_in", pattern=_FILTER_PATTERN),
        topic_out=reader.text("topic_out", pattern=_TOPIC_PATTERN),
        host=host,
        port=reader.integer("port", least=1, most=_MAX_PORT, default=8883 if tls else 1883),
        tls=tls,
        username=username,
        password_file=base / password_file if password_file else None,
        queue_messages=reader.integer("queue_messages", least=1, most=4096, default=32),
        content_type=reader.text("content_type", default="application/json", most=100),
    )


def read_tls(reader: FieldReader, base: Path) -> Tls:
    """Read a table `tls`; faults gather in the reader."""
    only(reader, ["ca", "certificate", "key"])
    certificate, key = reader.text("certificate", default=""), reader.text("key", default="")
    if bool(certificate) != bool(key):
        reader.fault("", "certificate and key come together")
    return Tls(
        ca=base / reader.text("ca"),
        certificate=base / certificate if certificate else None,
        key=base / key if key else None,
    )


def _is_here(host: str) -> bool:
    """Whether nobody else hears what is sent there."""
    return host in {"localhost", "::1"} or bool(re.fullmatch(r"127(\.\d{1,3}){3}", host))


def read_encryption_section(reader: FieldReader, base: Path) -> Encryption:
    """Read `[encryption]`; faults gather in the reader."""
    places = {"key_file": "file", "key_credential": "credential", "key_variable": "variable"}
    only(reader, ["enabled", *places])
    given = {name: kind for name, kind in places.items() if reader.raw(name) is not None}
    if len(given) != 1:
        reader.fault("", f"needs exactly one of {', '.join(places)}")
        return Encryption()
    name, kind = next(iter(given.items()))
    pattern = r"[^\x00]{1,4096}" if kind == "file" else _VARIABLE_PATTERN
    value = reader.text(name, pattern=pattern)
    return Encryption(
        key=KeySource(kind, str(base / value) if kind == "file" else value),
        enabled=reader.boolean("enabled", default=True),
    )


def only(reader: FieldReader, known: list[str]) -> None:
    """Fault every name that is not known."""
    for name in reader.names():
        if name not in known:
            reader.fault(name, f"is not known; known are {', '.join(known)}")


def samples_folder(data: Path) -> Path:
    """Where samples are kept."""
    return data / "samples"
