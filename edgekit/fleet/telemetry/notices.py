"""What others are told of what happened, and who is told: webhooks, commands, MLflow, MQTT.

`messenger` delivers it. `notices.toml` in the fleet's folder says who is told what:

    [[webhook]]
    url = "https://example.com/hook"
    kinds = ["alarm.*", "rollout.*"]
    secret_env = "HOOK_SECRET"          # signs the body: X-Edgekit-Signature: sha256=<hex>

    [[command]]
    argv = ["python", "retrain.py"]     # gets the notice as JSON on its standard input,
                                        # and samples in the folder EDGEKIT_SAMPLES
    kinds = ["retrain"]

    [[mlflow]]                          # a scheduled run with drift, features and samples
    experiment = "retraining"
    kinds = ["retrain"]

    [mqtt]                              # on edgekit/v1/<fleet>/notices, QoS 1
    kinds = ["*"]
"""

from __future__ import annotations

import fnmatch
import json
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from edgekit.fleet.telemetry.alarms import Alarm, Change
from edgekit.fleet.telemetry.health import Harm
from edgekit_runtime.errors import UsageError
from edgekit_runtime.fields import FieldReader

FILE: Final = "notices.toml"
RETRAIN: Final = "retrain"
#: Where a command finds the samples that go with a notice, while it runs.
SAMPLES_VARIABLE: Final = "EDGEKIT_SAMPLES"
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,127}/[A-Za-z0-9][\w.-]{0,127}", re.ASCII)
_MAX_TARGETS: Final = 32
_SECTIONS: Final = frozenset({"webhook", "command", "mlflow", "mqtt", "retraining", "alarms"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that others may want to know.

    Attributes:
        kind: "alarm.began", "alarm.ended", "retrain", "rollout.<decision>", ….
        fleet: Of which fleet.
        time: Seconds since 1970.
        text: One sentence for people.
        data: The same for programs.
        files: What goes with it to those who take files, DEVICE/NAME: commands and MLflow.
        id: The same whenever it comes, for who has to know whether it has come before.
    """

    kind: str
    fleet: str
    time: float
    text: str
    data: Mapping[str, object] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    def to_document(self) -> dict[str, Any]:
        """The notice without its files, as JSON has it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "fleet": self.fleet,
            "time": self.time,
            "text": self.text,
            "data": dict(self.data),
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Notice:
        """The notice that `to_document` has made a document of."""
        names = ("kind", "fleet", "time", "text", "data")
        # One that has waited since an earlier edgekit has no id.
        more = {"id": document["id"]} if "id" in document else {}
        return cls(**{name: document[name] for name in names}, **more)

    def to_json(self) -> bytes:
        """The notice as it is sent."""
        return json.dumps(self.to_document(), separators=(",", ":")).encode()

    def write_files(self, folder: Path) -> None:
        """Write what goes with it below a folder; names that would lead out of it are left out.

        Raises:
            OSError: If the disk is full.
        """
        for name, data in self.files.items():
            if _FILE_NAME.fullmatch(name):
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Somebody to tell.

    Attributes:
        kinds: Patterns of the kinds of notices.
        url: Of a webhook; or else
        argv: a command; or else
        experiment: of MLflow; or nothing of these: MQTT.
        tracking_uri: Of MLflow's server; "" for MLFLOW_TRACKING_URI.
        secret_env: The environment variable that holds the webhook's secret.
    """

    kinds: tuple[str, ...]
    url: str = ""
    argv: tuple[str, ...] = ()
    experiment: str = ""
    tracking_uri: str = ""
    secret_env: str = ""

    def wants(self, kind: str) -> bool:
        """Whether it is to be told of a kind."""
        return any(fnmatch.fnmatchcase(kind, pattern) for pattern in self.kinds)


def open_settings(path: Path) -> FieldReader:
    """A fleet's `notices.toml`, to be read field by field; empty where there is none.

    Raises:
        UsageError: If it is no TOML.
    """
    try:
        return FieldReader(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return FieldReader({})
    except (OSError, ValueError) as error:
        raise UsageError(f"it cannot be read: {error}", where=str(path)) from error


def require_no_faults(reader: FieldReader, what: str, path: Path) -> None:
    """Raise a `UsageError` that names every fault of `notices.toml`, if there are any."""
    if reader.faults:
        raise UsageError(
            f"{what} invalid: " + "; ".join(reader.faults),
            where=str(path),
            fix="see docs/rollouts.md",
        )


def read_targets(path: Path) -> tuple[Target, ...]:
    """Who is told what, by a fleet's `notices.toml`; nobody where there is none.

    Raises:
        UsageError: If the file is invalid; every fault is named.
    """
    reader = open_settings(path)
    for name in sorted(set(reader.names()) - _SECTIONS):
        reader.fault(name, "is unknown")
    targets = [
        *reader.items("webhook", _read_webhook, optional=True, most=_MAX_TARGETS),
        *reader.items("command", _read_command, optional=True, most=_MAX_TARGETS),
        *reader.items("mlflow", _read_mlflow, optional=True, most=_MAX_TARGETS),
    ]
    if reader.raw("mqtt") is not None:
        targets.append(Target(kinds=reader.nested("mqtt").texts("kinds", most=_MAX_TARGETS)))
    require_no_faults(reader, "the list of who is told what is", path)
    return tuple(targets)


def alarm_notices(fleet: str, change: Change, alarm: Alarm) -> tuple[Notice, ...]:
    """What an alarm's beginning or end is worth telling; a drift that begins calls for retraining.

    A call for retraining names where samples of the live data are: one reference for each device
    that shows the drift, with the time in which it does. What a device has kept is its owner's
    choice.
    """
    when = alarm.began if change is Change.BEGAN else alarm.seen
    notices = [
        Notice(
            kind=f"alarm.{change.value}",
            fleet=fleet,
            time=when,
            text=alarm.text,
            data=alarm.to_json(),
        )
    ]
    if change is Change.BEGAN and alarm.kind is Harm.DRIFT and not alarm.device:
        samples = [
            f"edgekit-samples://{fleet}/{device}/{alarm.bundle}/{alarm.version}?until={when:.0f}"
            for device in alarm.devices
        ]
        notices.append(
            Notice(
                kind=RETRAIN,
                fleet=fleet,
                time=when,
                text=f"{alarm.bundle} {alarm.version} should be trained again: {alarm.text}",
                data={
                    "bundle": alarm.bundle,
                    "version": alarm.version,
                    "features": dict(alarm.features),
                    "devices": list(alarm.devices),
                    "samples": samples,
                },
            )
        )
    return tuple(notices)


def _read_webhook(reader: FieldReader) -> Target:
    url = reader.text("url", most=2_048)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        reader.fault("url", "must begin with https:// or http://")
    return Target(
        kinds=reader.texts("kinds", most=_MAX_TARGETS),
        url=url,
        secret_env=reader.text("secret_env", default=""),
    )


def _read_mlflow(reader: FieldReader) -> Target:
    experiment = reader.text("experiment", most=256)
    if not experiment.strip():
        reader.fault("experiment", "must name an experiment")
    return Target(
        kinds=reader.texts("kinds", most=_MAX_TARGETS),
        experiment=experiment,
        tracking_uri=reader.text("tracking_uri", default="", most=2_048),
    )


def _read_command(reader: FieldReader) -> Target:
    argv = reader.texts("argv", most=64)
    if not argv:
        reader.fault("argv", "must name a program")
    return Target(kinds=reader.texts("kinds", most=_MAX_TARGETS), argv=argv)
