"""Find out what this machine can do: packages, a broker, memory, a place to write."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from dataclasses import asdict, dataclass
from typing import Final

from edgekit.fleet.broker import find_mosquitto


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What.
        ok: Whether it is there.
        required: Whether `edgekit quickstart` needs it.
        detail: The version, or what goes without it.
        fix: The command that brings it.
    """

    name: str
    ok: bool
    required: bool
    detail: str
    fix: str = ""

    def to_json(self) -> dict[str, object]:
        """The check as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Package:
    distribution: str
    purpose: str
    extra: str
    required: bool = True


_PACKAGES: Final = (
    _Package(distribution="numpy", purpose="arrays", extra="workstation"),
    _Package(distribution="onnx", purpose="reading and writing ONNX", extra="convert"),
    _Package(distribution="onnxruntime", purpose="running ONNX", extra="onnx"),
    _Package(distribution="ai-edge-litert", purpose="running LiteRT", extra="tflite"),
    _Package(distribution="tuf", purpose="signed updates", extra="fleet"),
    _Package(distribution="cryptography", purpose="signatures", extra="fleet"),
    _Package(distribution="paho-mqtt", purpose="MQTT", extra="fleet"),
    _Package(distribution="matplotlib", purpose="pictures in reports", extra="report"),
    _Package(distribution="jinja2", purpose="HTML reports", extra="report"),
    _Package(
        distribution="torch", purpose="training the example again", extra="torch", required=False
    ),
)


def examine() -> list[Check]:
    """Look at this machine; imports none of the packages it asks about."""
    checks = [_package(package) for package in _PACKAGES]
    checks += [_broker(), _writable()]
    return checks


def _package(package: _Package) -> Check:
    try:
        version = importlib.metadata.version(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        return Check(
            name=package.distribution,
            ok=False,
            required=package.required,
            detail=f"needed for {package.purpose}",
            fix=f'pip install "edgekit[{package.extra}]"',
        )
    return Check(
        name=package.distribution,
        ok=True,
        required=package.required,
        detail=f"{version}, {package.purpose}",
    )


def _broker() -> Check:
    path = find_mosquitto()
    if path:
        return Check(name="mosquitto", ok=True, required=False, detail=f"{path}, MQTT broker")
    try:
        version = importlib.metadata.version("amqtt")
    except importlib.metadata.PackageNotFoundError:
        return Check(
            name="MQTT broker",
            ok=False,
            required=True,
            detail="neither mosquitto nor amqtt",
            fix='pip install "edgekit[fleet]", or install mosquitto',
        )
    return Check(
        name="mosquitto",
        ok=False,
        required=False,
        detail=f"the development broker amqtt {version} is used: slow, MQTT 3.1.1, loopback only",
        fix="apt install mosquitto",
    )


def _writable() -> Check:
    try:
        with tempfile.TemporaryDirectory() as folder:
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check(
            name="temporary folder",
            ok=False,
            required=True,
            detail=str(error),
            fix="set TMPDIR to a folder that you may write to",
        )
    return Check(
        name="temporary folder", ok=True, required=True, detail=f"{free / 1e9:.1f} GB free"
    )
