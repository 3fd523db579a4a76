"""Tell others what happened: webhooks, commands, MLflow, MQTT. Never waits, never fails its caller.

`notices.toml` in the fleet's folder says who is told what:

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

import contextlib
import fnmatch
import hashlib
import hmac
import http.client
import json
import logging
import os
import queue
import re
import subprocess
import tempfile
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from edgekit.fleet.connection import connected_to
from edgekit.fleet.folder import BrokerAddress
from edgekit.fleet.telemetry.alarms import Alarm, Change
from edgekit.fleet.telemetry.health import Harm
from edgekit.fleet.telemetry.retraining_runs import schedule_run
from edgekit_runtime.errors import EdgekitError, UsageError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.protocol import Topics

_log = logging.getLogger(__name__)

FILE: Final = "notices.toml"
RETRAIN: Final = "retrain"
#: Where a command finds the samples that go with a notice, while it runs.
SAMPLES_VARIABLE: Final = "EDGEKIT_SAMPLES"
_MOST_WAITING: Final = 1_000
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,127}/[A-Za-z0-9][\w.-]{0,127}", re.ASCII)
_TRIES: Final = 3
_FIRST_PAUSE_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 10.0
_COMMAND_SECONDS: Final = 3_600.0
_GOODBYE_SECONDS: Final = 15.0
_MAX_TARGETS: Final = 32
# HTTPException: an answer that is no HTTP. ValueError: a URL that no request can be made of.
_FAILURES: Final = (
    OSError,
    http.client.HTTPException,
    subprocess.SubprocessError,
    ValueError,
    EdgekitError,
)
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
    """

    kind: str
    fleet: str
    time: float
    text: str
    data: Mapping[str, object] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """The notice without its files, as JSON has it."""
        return {
            "kind": self.kind,
            "fleet": self.fleet,
            "time": self.time,
            "text": self.text,
            "data": dict(self.data),
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Notice:
        """The notice that `to_document` has made a document of."""
        return cls(**{n: document[n] for n in ("kind", "fleet", "time", "text", "data")})

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


class Messenger:
    """Sends notices from a thread of its own; what cannot be sent is tried again, then counted.

    Args:
        targets: Who is told what.
        fleet: For the MQTT topic.
        broker: For MQTT; None to leave that out.
        pause: How to wait between two tries.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        fleet: str,
        broker: BrokerAddress | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._targets = targets
        self._topic = f"{Topics(fleet).base}/notices"
        self._broker = broker
        self._pause = pause
        self._waiting: queue.Queue[tuple[Target, Notice] | None] = queue.Queue(_MOST_WAITING)
        self.sent = self.lost = 0
        self._thread = threading.Thread(target=self._run, name="notices", daemon=True)
        self._thread.start()

    def tell(self, notice: Notice) -> None:
        """Send a notice to all who want it; if too many wait, it is lost and counted."""
        for target in self._targets:
            if target.wants(notice.kind):
                try:
                    self._waiting.put_nowait((target, notice))
                except queue.Full:
                    self.lost += 1

    def close(self) -> None:
        """Send what waits, for some seconds at most, and end."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_GOODBYE_SECONDS)
        self._thread.join(_GOODBYE_SECONDS)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            target, notice = item
            if self._deliver(target, notice):
                self.sent += 1
            else:
                self.lost += 1

    def _deliver(self, target: Target, notice: Notice) -> bool:
        for attempt in range(_TRIES):
            if attempt:
                self._pause(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                if target.url:
                    _post(target, notice)
                elif target.argv:
                    _call(target, notice)
                elif target.experiment:
                    schedule_run(
                        notice, experiment=target.experiment, tracking_uri=target.tracking_uri
                    )
                elif self._broker is not None:
                    with connected_to(self._broker) as connection:
                        connection.publish([(self._topic, notice.to_json())])
            except _FAILURES as error:
                _log.warning("%s could not be told of %s: %s", _name(target), notice.kind, error)
            else:
                return True
        return False


def _post(target: Target, notice: Notice) -> None:
    body = notice.to_json()
    request = urllib.request.Request(  # noqa: S310 - http and https only, checked when read
        target.url, data=body, headers={"Content-Type": "application/json"}, method="POST"
    )
    secret = os.environ.get(target.secret_env, "") if target.secret_env else ""
    if secret:
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        request.add_header("X-Edgekit-Signature", f"sha256={digest}")
    with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310
        answer.read(1024)


def _call(target: Target, notice: Notice) -> None:
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        notice.write_files(Path(folder))
        subprocess.run(
            target.argv,
            input=notice.to_json(),
            stdout=subprocess.DEVNULL,
            timeout=_COMMAND_SECONDS,
            check=True,
            env=os.environ | ({SAMPLES_VARIABLE: folder} if notice.files else {}),
        )


def _name(target: Target) -> str:
    if target.url:
        return urlsplit(target.url).hostname or "a webhook"
    if target.experiment:
        return f"MLflow's experiment {target.experiment!r}"
    return target.argv[0] if target.argv else "the broker"


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
