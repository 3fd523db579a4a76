"""`agent.toml`: everything that an agent is told, parsed strictly, all faults at once."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgekit_agent.settings import (
    STATUS_NAME,
    SampleSettings,
    StreamSettings,
    TelemetrySettings,
    Tls,
    only,
    read_encryption_section,
    read_samples,
    read_stream,
    read_telemetry,
    read_tls,
    render_sections,
)
from edgekit_runtime.errors import UsageError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.files import require_file
from edgekit_runtime.protocol import ID_PATTERN
from edgekit_runtime.sealing.vault import Encryption

FILE_NAME: Final = "agent.toml"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsNames:
    """Names of the files for TLS in a new `agent.toml`, relative to it."""

    ca: str = "ca.pem"
    certificate: str = "device.pem"
    key: str = "device-key.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A web server with the fleet's chunks, metadata and orders.

    Attributes:
        url: What stands before the names.
        poll_seconds: How often it is asked for metadata and order.
        tls: How it is proven, if not by the system's authorities; only for https.
    """

    url: str
    poll_seconds: float
    tls: Tls | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stick:
    """A folder that may hold the fleet's chunks, metadata and orders, as a USB stick does.

    Attributes:
        folder: Where it appears.
        poll_seconds: How often it is looked at.
    """

    folder: Path
    poll_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what the agent uses.

    Attributes:
        chunk_window: How many chunks are asked for at a time.
        chunk_timeout_seconds: A chunk that has not come by then is reported and asked for again.
        chunk_refusals: Wrong contents of one chunk after which an update is given up.
        chunk_store_bytes: The most that the chunks of one update may take on the disk.
        request_bytes: The largest HTTP request body.
        queue_requests: How many requests may wait for each model; more are told to come back.
        ram_bytes: The most memory of the server with all models; 0 for any.
        inference_threads: How many threads one inference may use.
    """

    chunk_window: int = 12
    chunk_timeout_seconds: float = 30.0
    chunk_refusals: int = 5
    chunk_store_bytes: int = 256 << 20
    request_bytes: int = 64 << 20
    queue_requests: int = 16
    ram_bytes: int = 0
    inference_threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """What `agent.toml` says; every path is absolute.

    Attributes:
        device: This device's id.
        fleet: Its fleet's id.
        data: The folder of everything that the agent writes.
        image_root: The image repository's initial `root.json`.
        director_root: The director's initial `root.json`.
        broker_host: Where the broker is; empty for none.
        broker_port: Its TCP port.
        tls: None for a plain connection.
        http_host: Where applications reach the models.
        http_port: TCP port for that; 0 for any free one.
        http_socket: A Unix socket for that as well; None for none.
        log_level: One of `LOG_LEVELS`.
        limits: Bounds.
        mirror: Where chunks are fetched from if it has them; None for no such place.
        stick: Likewise.
        telemetry: How measurements are kept.
        samples: Which requests are kept for retraining.
        streams: Messages that models answer.
        encryption: How what is stored is encrypted.
    """

    device: str
    fleet: str
    data: Path
    image_root: Path
    director_root: Path
    broker_host: str
    broker_port: int
    tls: Tls | None
    http_host: str
    http_port: int
    log_level: str
    limits: Limits
    http_socket: Path | None = None
    mirror: Mirror | None = None
    stick: Stick | None = None
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    samples: SampleSettings = field(default_factory=SampleSettings)
    streams: tuple[StreamSettings, ...] = ()
    encryption: Encryption = field(default_factory=Encryption)

    @property
    def status_file(self) -> Path:
        """Where a running agent says how it is."""
        return self.data / STATUS_NAME


TEMPLATE: Final = """\
# Configuration of one edgekit agent. Relative paths are relative to this file.

# Who this device is: its id within the fleet, and the fleet's id.
device = "{device}"
fleet = "{fleet}"

# The folder of everything that the agent writes: models, journal, status.
data = "data"

# The roots of trust: the initial root.json of the image repository and of the director. Nothing
# is installed that is not signed by keys that lead back to these two files.
image_root = "image-root.json"
director_root = "director-root.json"

# How much is logged to standard error, one JSON object a line: debug, info, warning or error.
log_level = "info"

[broker]
# The MQTT broker. It is not trusted: whatever it sends is verified.
host = "{broker_host}"
port = {broker_port}

{tls}
# Uncomment to fetch from a web server too: a cache, a bucket, a CDN, with what `edgekit fleet
# export` writes. It is preferred to the broker; without [broker] there is nothing else. `ca`,
# `certificate` and `key` may stand in [mirror.tls], as in [broker.tls].
# [mirror]
# url = "https://mirror.example.org/edge"
# poll_seconds = 300

# Uncomment to take updates from a USB stick: the folder that `edgekit fleet export` wrote.
# [stick]
# folder = "/media/edgekit"
# poll_seconds = 5

[http]
# Where applications on this device reach the models (Open Inference Protocol v2 over HTTP).
# Port 0 takes any free one; `edgekit-agent status` says which.
host = "127.0.0.1"
port = {http_port}
# A Unix socket for the same, faster for large inputs; its folder's permissions say who may use it.
# socket = "models.sock"

[limits]
# Chunks asked for at a time.
chunk_window = {limits.chunk_window}
# A chunk that has not come within this many seconds is reported, and asked for again.
chunk_timeout_seconds = {limits.chunk_timeout_seconds}
# Wrong contents of one chunk after which an update is given up.
chunk_refusals = {limits.chunk_refusals}
# The most that the chunks of one update may take on the disk, in bytes.
chunk_store_bytes = {limits.chunk_store_bytes}
# The largest HTTP request body, in bytes.
request_bytes = {limits.request_bytes}
# Requests that may wait for each model; more are answered with "busy" (503) at once.
queue_requests = {limits.queue_requests}
# The most memory that the server with all models may take, in bytes; 0 for any. A new version
# that does not fit beside the others is put back.
ram_bytes = {limits.ram_bytes}
# Threads that one inference may use.
inference_threads = {limits.inference_threads}
"""


_TLS_TEMPLATE: Final = """\
{intro}
{mark}[broker.tls]
{mark}ca = "{names.ca}"
{mark}certificate = "{names.certificate}"
{mark}key = "{names.key}"
"""


def render_config(
    *,
    device: str,
    fleet: str,
    broker_host: str,
    broker_port: int,
    http_port: int,
    tls: TlsNames | None = None,
) -> str:
    """The text of a new `agent.toml`, every value explained."""
    return (
        TEMPLATE.format(
            device=device,
            fleet=fleet,
            broker_host=broker_host,
            broker_port=broker_port,
            http_port=http_port,
            limits=Limits(),
            tls=_render_tls(tls),
        )
        + render_sections()
    )


def _render_tls(names: TlsNames | None) -> str:
    if names:
        intro = "# TLS with the broker. `certificate` and `key` prove this device to it."
        return _TLS_TEMPLATE.format(intro=intro, mark="", names=names)
    intro = (
        "# Uncomment to speak TLS with the broker. `certificate` and `key` prove this device to it."
    )
    return _TLS_TEMPLATE.format(intro=intro, mark="# ", names=TlsNames())


def load_config(path: Path) -> AgentConfig:
    """Read `agent.toml`.

    Raises:
        UsageError: If it is missing or invalid; every fault is named.
    """
    require_file(path, kind=f"an {FILE_NAME}")
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"this is no TOML: {error}", where=str(path), fix="see `edgekit-agent init`"
        ) from error
    reader = FieldReader(document)
    config = _read_config(reader, path.absolute().parent)
    if reader.faults:
        raise UsageError(
            "the configuration is invalid: " + "; ".join(reader.faults),
            where=str(path),
            fix="compare it with a new one: `edgekit-agent init`",
        )
    return config


def _read_config(reader: FieldReader, base: Path) -> AgentConfig:
    only(
        reader,
        [
            "device",
            "fleet",
            "data",
            "image_root",
            "director_root",
            "log_level",
            "broker",
            "mirror",
            "stick",
            "http",
            "limits",
            "telemetry",
            "samples",
            "stream",
            "encryption",
        ],
    )
    mirror = None if reader.raw("mirror") is None else _read_mirror(reader.nested("mirror"), base)
    stick = None if reader.raw("stick") is None else _read_stick(reader.nested("stick"), base)
    broker = reader.nested("broker", optional=mirror is not None or stick is not None)
    only(broker, ["host", "port", "tls"])
    alone = reader.raw("broker") is None and not (mirror is None and stick is None)
    http = reader.nested("http", optional=True)
    only(http, ["host", "port", "socket"])
    http_socket = http.text("socket", default="", most=100)
    log_level = reader.text("log_level", default="info", pattern="|".join(LOG_LEVELS))
    return AgentConfig(
        device=reader.text("device", pattern=ID_PATTERN),
        fleet=reader.text("fleet", pattern=ID_PATTERN),
        data=base / reader.text("data", default="data"),
        image_root=base / reader.text("image_root"),
        director_root=base / reader.text("director_root"),
        broker_host="" if alone else broker.text("host", pattern=r"[^\s/]+"),
        broker_port=broker.integer("port", least=1, most=_MAX_PORT, default=1883),
        tls=None if broker.raw("tls") is None else read_tls(broker.nested("tls"), base),
        http_host=http.text("host", default="127.0.0.1", pattern=r"[^\s/]+"),
        http_port=http.integer("port", most=_MAX_PORT, default=8380),
        log_level=log_level,
        limits=_read_limits(reader.nested("limits", optional=True)),
        http_socket=base / http_socket if http_socket else None,
        mirror=mirror,
        stick=stick,
        telemetry=read_telemetry(reader.nested("telemetry", optional=True)),
        samples=read_samples(reader.nested("samples", optional=True)),
        streams=reader.items(
            "stream", lambda stream: read_stream(stream, base), optional=True, most=16
        ),
        encryption=Encryption()
        if reader.raw("encryption") is None
        else read_encryption_section(reader.nested("encryption"), base),
    )


def _read_mirror(reader: FieldReader, base: Path) -> Mirror:
    only(reader, ["url", "poll_seconds", "tls"])
    return Mirror(
        url=reader.text("url", pattern=r"https?://[^\s?#]+"),
        poll_seconds=reader.number("poll_seconds", least=0.1, default=300.0),
        tls=None if reader.raw("tls") is None else read_tls(reader.nested("tls"), base),
    )


def _read_stick(reader: FieldReader, base: Path) -> Stick:
    only(reader, ["folder", "poll_seconds"])
    return Stick(
        folder=base / reader.text("folder"),
        poll_seconds=reader.number("poll_seconds", least=0.1, default=5.0),
    )


def _read_limits(reader: FieldReader) -> Limits:
    only(reader, list(Limits.__slots__))
    usual = Limits()
    return Limits(
        chunk_window=reader.integer("chunk_window", least=1, most=256, default=usual.chunk_window),
        chunk_timeout_seconds=reader.number(
            "chunk_timeout_seconds", least=0.1, default=usual.chunk_timeout_seconds
        ),
        chunk_refusals=reader.integer(
            "chunk_refusals", least=1, most=1000, default=usual.chunk_refusals
        ),
        chunk_store_bytes=reader.integer(
            "chunk_store_bytes", least=1 << 16, default=usual.chunk_store_bytes
        ),
        request_bytes=reader.integer(
            "request_bytes", least=1 << 10, most=1 << 30, default=usual.request_bytes
        ),
        queue_requests=reader.integer("queue_requests", most=256, default=usual.queue_requests),
        ram_bytes=reader.integer("ram_bytes", most=1 << 50, default=usual.ram_bytes),
        inference_threads=reader.integer(
            "inference_threads", least=1, most=64, default=usual.inference_threads
        ),
    )
