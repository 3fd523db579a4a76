"""Make an agent's folder, and check one before it is run."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit_agent.config import FILE_NAME, AgentConfig, TlsNames, load_config, render_config
from edgekit_agent.conversion import stored_files
from edgekit_agent.hardware import RUNTIMES, Hardware, detect_hardware
from edgekit_agent.listeners import open_listener
from edgekit_agent.status import read_status
from edgekit_agent.tls import tls_context
from edgekit_runtime.durable import unwritable, write_bytes
from edgekit_runtime.errors import EdgekitError, UsageError
from edgekit_runtime.files import require_file
from edgekit_runtime.protocol import require_id
from edgekit_runtime.sealing.keys import read_keys
from edgekit_runtime.sealing.vault import Vault

IMAGE_ROOT_NAME: Final = "image-root.json"
DIRECTOR_ROOT_NAME: Final = "director-root.json"
_MAX_ROOT_BYTES: Final = 512_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that `check_agent` looked at.

    Attributes:
        name: What was looked at.
        ok: Whether the agent can run with it.
        detail: What was found.
        fix: What to do; empty where it is well.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""


def create_agent(
    folder: Path,
    *,
    device: str,
    fleet: str,
    broker_host: str,
    broker_port: int,
    image_root: Path,
    director_root: Path,
    http_port: int,
    tls: TlsNames | None = None,
) -> Path:
    """Write an agent's folder: its configuration and its roots of trust.

    Args:
        folder: Made if it is missing; must not hold an agent already.
        device: The device's id.
        fleet: The fleet's id.
        broker_host: Where the broker is.
        broker_port: Its port.
        image_root: The image repository's `root.json`, which is copied.
        director_root: The director's `root.json`, which is copied.
        http_port: Where the models are served; 0 for any free port.
        tls: Files for TLS with the broker, relative to the folder; None for a plain connection.

    Returns:
        The path of `agent.toml`.

    Raises:
        UsageError: If an id is invalid, a root is none, or there is an agent already.
        EnvironmentLackError: If the folder cannot be written.
    """
    require_id(device, kind="device")
    require_id(fleet, kind="fleet")
    roots = {
        IMAGE_ROOT_NAME: read_root(image_root),
        DIRECTOR_ROOT_NAME: read_root(director_root),
    }
    config = folder / FILE_NAME
    if config.exists():
        raise UsageError(
            "there is an agent in this folder already",
            where=str(config),
            fix="choose another folder, or edit its agent.toml",
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError("this is a file", where=str(folder), fix="give the path of a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    for name, data in roots.items():
        write_bytes(folder / name, data)
    text = render_config(
        device=device,
        fleet=fleet,
        broker_host=broker_host,
        broker_port=broker_port,
        http_port=http_port,
        tls=tls,
    )
    # Last: a folder with a configuration is complete.
    write_bytes(config, text.encode())
    return config


def read_root(path: Path) -> bytes:
    """The content of a `root.json`.

    Raises:
        UsageError: If it is missing or none.
    """
    require_file(path, kind="a root of trust (root.json)")
    with path.open("rb") as file:
        data = file.read(_MAX_ROOT_BYTES)
    try:
        document = json.loads(data)
        kind = document["signed"]["_type"]
    except (ValueError, KeyError, TypeError, RecursionError):
        kind = None
    if kind != "root":
        raise UsageError(
            "this is no root of trust",
            where=str(path),
            fix="give the root.json that the fleet's keys were made with",
        )
    return data


def split_address(text: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT"; the port of MQTT where it is left out.

    Raises:
        UsageError: If it is malformed.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, "1883"
    # What agent.toml takes as a host: no URL, and nothing that would end its text.
    good = re.fullmatch(r"[^\s/\"\\]+", host) and re.fullmatch(r"[0-9]{1,5}", port)
    if not good or not 0 < int(port) < 1 << 16:
        raise UsageError(f"{text!r} is no HOST:PORT", fix="write it like 192.168.1.10:1883")
    return host.strip("[]"), int(port)


def check_agent(path: Path) -> tuple[Finding, ...]:
    """Look at everything that an agent needs before it can run.

    Args:
        path: Of its `agent.toml`.
    """
    try:
        config = load_config(path)
    except EdgekitError as error:
        return (_bad("configuration", error),)
    hardware = detect_hardware()
    return (
        Finding(name="configuration", ok=True, detail=f"{config.device} of fleet {config.fleet}"),
        _check_root("image root", config.image_root),
        _check_root("director root", config.director_root),
        *_check_tls(config),
        _check_data(config),
        *_check_encryption(config),
        *_check_streams(config),
        _check_port(config),
        _check_runtimes(hardware),
        Finding(
            name="hardware",
            ok=True,
            detail=f"{hardware.architecture}, {hardware.ram_bytes >> 20} MB, "
            f"Python {hardware.python}",
        ),
    )


def _check_root(name: str, path: Path) -> Finding:
    from edgekit_runtime.extras import require

    try:
        data = read_root(path)
        metadata = require("tuf.api.metadata", extra="agent")
        root = metadata.Metadata.from_bytes(data)
        root.verify_delegate("root", root)
    except EdgekitError as error:
        return _bad(name, error)
    except Exception as error:  # noqa: BLE001 - python-tuf raises more than it documents
        return Finding(
            name=name,
            ok=False,
            detail=f"{path}: {error}",
            fix="copy it from the fleet again",
        )
    return Finding(
        name=name,
        ok=True,
        detail=f"version {root.signed.version}, expires {root.signed.expires:%Y-%m-%d}",
    )


def _check_tls(config: AgentConfig) -> tuple[Finding, ...]:
    if config.tls is None:
        return ()
    try:
        for path in (config.tls.ca, config.tls.certificate, config.tls.key):
            if path is not None:
                require_file(path, kind="a PEM file")
        finding = Finding(name="TLS", ok=True, detail="without a certificate of its own")
        if config.tls.certificate and config.tls.key:
            finding = _check_identity(config.tls.certificate, config.tls.key, device=config.device)
        if finding.ok:
            tls_context(config.tls)
        return (finding,)
    except EdgekitError as error:
        return (_bad("TLS", error),)


def _check_identity(certificate: Path, key: Path, *, device: str) -> Finding:
    """Does the certificate fit the key and the device, and is it valid now?"""
    from edgekit_agent.identity.keys import check_certificate, validity

    text = certificate.read_text(encoding="ascii", errors="replace")
    check_certificate(text, key=key, device=device)
    _, ends = validity(text)
    until = f"{dt.datetime.fromtimestamp(ends, dt.UTC):%Y-%m-%d}"
    if key.stat().st_mode & 0o077:
        return Finding(
            name="TLS",
            ok=False,
            detail=f"others may read the key {key}",
            fix=f"chmod 600 {key}, and enrol again if it may have been copied",
        )
    if ends < time.time():
        return Finding(
            name="TLS",
            ok=False,
            detail=f"the certificate expired on {until}",
            fix="set the clock if it is wrong; else enrol again into another folder",
        )
    return Finding(name="TLS", ok=True, detail=f"{device}, certificate valid until {until}")


def _check_data(config: AgentConfig) -> Finding:
    try:
        config.data.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=config.data):
            pass
    except OSError as error:
        return _bad("data folder", unwritable(config.data, error))
    return Finding(name="data folder", ok=True, detail=f"{config.data} can be written")


def _check_encryption(config: AgentConfig) -> tuple[Finding, ...]:
    """Is the key there, and does it open what is stored?"""
    encryption = config.encryption
    vault = Vault(config.data, encryption)
    forms = {True: 0, False: 0}
    try:
        keys = read_keys(encryption.key) if encryption.key else ()
        for path in stored_files(config.data):
            vault.read(path, most=1)
            forms[vault.is_current(path)] += 1
    except OSError as error:
        return (Finding(name="encryption", ok=False, detail=str(error)),)
    except EdgekitError as error:
        return (_bad("encryption", error),)
    if not keys:
        return ()
    form = f"encrypted with the first of {len(keys)} keys" if encryption.enabled else "plain"
    detail = f"{'on' if encryption.enabled else 'off'}; {forms[True]} files are {form}"
    if forms[False]:
        detail += f", {forms[False]} are not yet: the agent rewrites them when it starts"
    return (Finding(name="encryption", ok=True, detail=detail),)


def _check_streams(config: AgentConfig) -> tuple[Finding, ...]:
    """Are the files there that each stream needs? Its broker is not asked."""
    if not config.streams:
        return ()
    from edgekit_runtime.extras import require

    try:
        require("paho.mqtt.client", extra="agent")
    except EdgekitError as error:
        return (_bad("streams", error),)
    from edgekit_agent.streams import ModelStream

    findings = []
    for each in config.streams:
        name = f"stream of {each.model}"
        try:
            ModelStream(each, address=("", 0))
        except EdgekitError as error:
            findings.append(_bad(name, error))
        else:
            how = "TLS" if each.tls else "no TLS"
            whom = f", as {each.username}" if each.username else ""
            findings.append(
                Finding(
                    name=name, ok=True, detail=f"{each.topic_in} of {each.address}, {how}{whom}"
                )
            )
    return tuple(findings)


def _check_port(config: AgentConfig) -> Finding:
    address = f"{config.http_host}:{config.http_port}"
    with contextlib.suppress(EdgekitError):
        status = read_status(config.status_file)
        if status["running"] and status.get("port") == config.http_port:
            return Finding(name="HTTP port", ok=True, detail=f"{address}: this agent runs")
    try:
        open_listener(config.http_host, config.http_port, patience_seconds=0.0).close()
    except EdgekitError as error:
        return _bad("HTTP port", error)
    return Finding(name="HTTP port", ok=True, detail=f"{address} is free")


def _check_runtimes(hardware: Hardware) -> Finding:
    found = ", ".join(f"{name} {version}" for name, version in hardware.runtimes.items())
    return Finding(
        name="runtimes",
        ok=bool(found),
        detail=f"{found} (by their package metadata; not run here)" if found else "none",
        fix="" if found else f'pip install "edgekit[tflite]", or one of {", ".join(RUNTIMES)}',
    )


def _bad(name: str, error: EdgekitError) -> Finding:
    where = f" [{error.where}]" if error.where else ""
    return Finding(name=name, ok=False, detail=f"{error.what}{where}", fix=error.fix or "")
