"""Tell one of those who are to be told: a webhook, a command, MLflow, or who listens to MQTT."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import os
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from edgekit.fleet.connection import connected_to
from edgekit.fleet.folder import BrokerAddress
from edgekit.fleet.telemetry.notices import SAMPLES_VARIABLE, Notice, Target
from edgekit.fleet.telemetry.retraining_runs import schedule_run
from edgekit_runtime.errors import EdgekitError, EnvironmentLackError

_ANSWER_SECONDS: Final = 10.0
#: A command that takes longer is ended.
COMMAND_SECONDS: Final = 3_600.0
_LOOK_SECONDS: Final = 0.2
_END_SECONDS: Final = 2.0
# HTTPException: an answer that is no HTTP. ValueError: a URL that no request can be made of.
FAILURES: Final = (
    OSError,
    http.client.HTTPException,
    subprocess.SubprocessError,
    ValueError,
    EdgekitError,
)


def send(
    target: Target,
    notice: Notice,
    *,
    topic: str,
    broker: BrokerAddress | None,
    stopping: threading.Event,
) -> None:
    """Tell it, and wait until it has heard.

    Args:
        target: Who.
        notice: What.
        topic: Of MQTT.
        broker: For MQTT; None for nobody there.
        stopping: Ends a command that runs.

    Raises:
        Any of `FAILURES`: If it has not heard it, or it is not known.
    """
    if target.url:
        _post(target, notice)
    elif target.argv:
        _call(target, notice, stopping)
    elif target.experiment:
        schedule_run(notice, experiment=target.experiment, tracking_uri=target.tracking_uri)
    elif broker is not None:
        with connected_to(broker) as connection:
            connection.publish([(topic, notice.to_json())])


def name_of(target: Target) -> str:
    """Who it is, for the log."""
    if target.url:
        return urlsplit(target.url).hostname or "a webhook"
    if target.experiment:
        return f"MLflow's experiment {target.experiment!r}"
    return target.argv[0] if target.argv else "the broker"


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


def _call(target: Target, notice: Notice, stopping: threading.Event) -> None:
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        notice.write_files(Path(folder))
        process = subprocess.Popen(
            target.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=os.environ | ({SAMPLES_VARIABLE: folder} if notice.files else {}),
            # What it has started ends with it.
            start_new_session=True,
        )
        with process:
            try:
                _wait(process, notice.to_json(), stopping)
            finally:
                _end(process)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, target.argv)


def _wait(process: subprocess.Popen[bytes], given: bytes, stopping: threading.Event) -> None:
    deadline = time.monotonic() + COMMAND_SECONDS
    left: bytes | None = given
    while True:
        try:
            process.communicate(left, timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            # It keeps what it has not written yet.
            left = None
        else:
            return
        if stopping.is_set():
            raise EnvironmentLackError("it was ended with the control plane, and begins anew")
        if time.monotonic() >= deadline:
            raise EnvironmentLackError(f"it was ended after {COMMAND_SECONDS:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, number)
            else:
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
            return
