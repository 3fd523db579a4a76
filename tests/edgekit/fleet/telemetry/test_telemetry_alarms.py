from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.fleet.broker import find_mosquitto, start_broker
from edgekit.fleet.connection import BrokerConnection
from edgekit.fleet.telemetry.alarms import (
    MAX_ALARMS,
    Alarm,
    Change,
    follow_alarms,
    watch_version,
)
from edgekit.fleet.telemetry.drift import drifted
from edgekit.fleet.telemetry.health import Harm, Health, Limits
from edgekit.fleet.telemetry.messenger import Messenger
from edgekit.fleet.telemetry.notices import (
    Notice,
    Target,
    alarm_notices,
    read_targets,
)
from edgekit.fleet.telemetry.sketches import LatencySketch
from edgekit_runtime.errors import UsageError
from edgekit_runtime.telemetry import FeatureCounts

EXPECTED = (0.25,) * 4
DRIFTED = FeatureCounts(expected=EXPECTED, counts=(10, 10, 10, 970))
STABLE = FeatureCounts(expected=EXPECTED, counts=(250, 240, 260, 250))


def test_drift_names_the_features_and_the_devices() -> None:
    health = {
        "d1": Health(requests=1_000, drift={"input:light": DRIFTED, "input:sound": STABLE}),
        "d2": Health(requests=1_000, drift={"input:light": STABLE, "input:sound": STABLE}),
    }
    (alarm,) = watch_version("digits", "2.0.0", health, Limits())
    assert (alarm.kind, alarm.devices) == (Harm.DRIFT, ("d1",))
    assert list(alarm.features) == ["input:light"]
    assert alarm.text.startswith("digits 2.0.0: the data has drifted from the reference beyond")


def test_errors_and_latency_alarm_for_one_device_alone_too() -> None:
    slow = LatencySketch({110: 100})
    health = {
        f"d{n}": Health(requests=1_000, latency=LatencySketch({60: 1_000})) for n in range(30)
    }
    health["d7"] = Health(requests=100, errors=50, latency=slow)
    limits = Limits(max_error_share=0.01, max_p90_ms=10.0)
    assert watch_version("digits", "2.0.0", health, limits) == ()
    found = watch_version("digits", "2.0.0", health, limits, device_limits=limits)
    assert {(alarm.kind, alarm.device) for alarm in found} == {
        (Harm.ERRORS, "d7"),
        (Harm.LATENCY, "d7"),
    }


def test_chance_is_no_drift() -> None:
    """A hundred features of the very reference, looked at with few values and with many."""
    rng = np.random.default_rng(5)
    expected = (0.05,) * 20
    for values in (30, 100, 1_000, 100_000):
        features = {
            f"f{n}": FeatureCounts(
                expected=expected, counts=tuple(rng.multinomial(values, expected).tolist())
            )
            for n in range(100)
        }
        assert drifted(features, limit=0.25) == {}
    shifted = rng.multinomial(1_000, (0.01,) * 10 + (0.09,) * 10).tolist()
    features["moved"] = FeatureCounts(expected=expected, counts=tuple(shifted))
    assert list(drifted(features, limit=0.25)) == ["moved"]


def test_an_alarm_begins_once_lasts_and_ends_after_quiet() -> None:
    alarm = Alarm(kind=Harm.ERRORS, bundle="digits", version="2.0.0", text="errors")
    first = follow_alarms({}, (alarm,), now=100.0)
    assert [change for change, _ in first.changes] == [Change.BEGAN]
    again = follow_alarms(first.alarms, (replace(alarm, text="more"),), now=200.0)
    assert again.changes == ()
    (lasting,) = again.alarms.values()
    assert (lasting.began, lasting.seen, lasting.text) == (100.0, 200.0, "more")
    quiet = follow_alarms(again.alarms, (), now=800.0)
    assert quiet.changes == ()
    ended = follow_alarms(quiet.alarms, (), now=1_100.0)
    assert [change for change, _ in ended.changes] == [Change.ENDED]
    assert ended.alarms == {}


def test_only_so_many_alarms_last_at_once() -> None:
    alarms = tuple(
        Alarm(kind=Harm.ERRORS, bundle="b", version="1.0.0", device=f"d{n}")
        for n in range(MAX_ALARMS + 50)
    )
    assert len(follow_alarms({}, alarms, now=1.0).alarms) == MAX_ALARMS


def test_a_drift_calls_for_retraining_with_references_to_samples() -> None:
    health = {"d1": Health(requests=1_000, drift={"input:light": DRIFTED})}
    (found,) = watch_version("digits", "2.0.0", health, Limits())
    ((change, alarm),) = follow_alarms({}, (found,), now=5_000.0).changes
    told, retrain = alarm_notices("plant-7", change, alarm)
    assert (told.kind, retrain.kind) == ("alarm.began", "retrain")
    data = json.loads(retrain.to_json())["data"]
    assert data["samples"] == ["edgekit-samples://plant-7/d1/digits/2.0.0?until=5000"]
    assert list(data["features"]) == ["input:light"]
    assert [n.kind for n in alarm_notices("plant-7", Change.ENDED, alarm)] == ["alarm.ended"]


class Hook(http.server.BaseHTTPRequestHandler):
    received: list[tuple[dict[str, str], bytes]]
    failures: int

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hook = type(self)
        if hook.failures:
            hook.failures -= 1
            self.send_response(500)
        else:
            hook.received.append((dict(self.headers), body))
            self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


@pytest.fixture
def hook() -> Iterator[tuple[str, type[Hook]]]:
    kind = type("OneHook", (Hook,), {"received": [], "failures": 0})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", kind
    server.shutdown()
    thread.join()
    server.server_close()


NOTICE = Notice(kind="alarm.began", fleet="plant-7", time=5.0, text="it drifts", data={"x": 1})


def test_a_webhook_is_told_signed_and_tried_again(
    hook: tuple[str, type[Hook]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, server = hook
    server.failures = 2
    monkeypatch.setenv("HOOK_SECRET", "hush")
    pauses: list[float] = []
    target = Target(kinds=("alarm.*",), url=url, secret_env="HOOK_SECRET")
    messenger = Messenger([target], fleet="plant-7", pause=pauses.append)
    messenger.tell(NOTICE)
    messenger.tell(replace(NOTICE, kind="rollout.begin"))
    messenger.close()
    ((headers, body),) = server.received
    assert body == NOTICE.to_json()
    digest = hmac.new(b"hush", body, hashlib.sha256).hexdigest()
    assert headers["X-Edgekit-Signature"] == f"sha256={digest}"
    assert (pauses, messenger.sent, messenger.lost) == ([1.0, 2.0], 1, 0)


def test_nobody_there_is_counted_and_stops_nothing() -> None:
    targets = [
        Target(kinds=("*",), url="http://127.0.0.1:9/hook"),
        Target(kinds=("*",), argv=(sys.executable, "-c", "raise SystemExit(3)")),
        Target(kinds=("*",), argv=("/no/such/program",)),
    ]
    messenger = Messenger(targets, fleet="plant-7", pause=lambda _seconds: None)
    messenger.tell(NOTICE)
    messenger.close()
    assert (messenger.sent, messenger.lost) == (0, 3)


def test_an_answer_that_is_no_http_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    out = tmp_path / "told"
    code = f"import pathlib; pathlib.Path({str(out)!r}).touch()"
    with socket.create_server(("127.0.0.1", 0)) as server:
        targets = [
            Target(kinds=("*",), url=f"http://127.0.0.1:{server.getsockname()[1]}/hook"),
            Target(kinds=("*",), url="http://127.0.0.1:9/no address"),
            Target(kinds=("*",), url="http://127.0.0.1:9/größe"),
            Target(kinds=("*",), argv=(sys.executable, "-c", code)),
        ]
        messenger = Messenger(targets, fleet="plant-7", pause=lambda _seconds: None)
        messenger.tell(NOTICE)
        server.settimeout(60)
        for _ in range(3):
            caller, _address = server.accept()
            with caller:
                caller.recv(4096)
                caller.sendall(b"nonsense\r\n")
        messenger.close()
    assert (messenger.sent, messenger.lost) == (1, 3)
    assert out.exists()


def test_a_command_gets_the_notice(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code = f"import sys, pathlib; pathlib.Path({str(out)!r}).write_bytes(sys.stdin.buffer.read())"
    target = Target(kinds=("retrain",), argv=(sys.executable, "-c", code))
    messenger = Messenger([target], fleet="plant-7")
    messenger.tell(replace(NOTICE, kind="retrain"))
    messenger.close()
    assert json.loads(out.read_bytes())["text"] == "it drifts"


def test_mqtt_is_told(tmp_path: Path) -> None:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    came = threading.Event()
    heard: list[tuple[str, bytes]] = []

    def hear(topic: str, payload: bytes) -> None:
        heard.append((topic, payload))
        came.set()

    with start_broker(tmp_path / "broker", prefer="mosquitto") as broker:
        topic = "edgekit/v1/plant-7/notices"
        listener = BrokerConnection(broker.address, topics=[topic], on_message=hear)
        messenger = Messenger([Target(kinds=("*",))], fleet="plant-7", broker=broker.address)
        messenger.tell(NOTICE)
        messenger.close()
        assert came.wait(10)
        listener.close()
    assert heard == [(topic, NOTICE.to_json())]


def test_who_is_told_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "notices.toml"
    assert read_targets(path) == ()
    path.write_text(
        '[[webhook]]\nurl = "https://example.com/x"\nkinds = ["alarm.*"]\nsecret_env = "S"\n'
        '[[command]]\nargv = ["retrain"]\nkinds = ["retrain"]\n[mqtt]\nkinds = ["*"]\n'
    )
    assert read_targets(path) == (
        Target(kinds=("alarm.*",), url="https://example.com/x", secret_env="S"),
        Target(kinds=("retrain",), argv=("retrain",)),
        Target(kinds=("*",)),
    )
    path.write_text('[[webhook]]\nurl = "file:///etc/passwd"\n[[command]]\nargv = []\n[mail]\n')
    with pytest.raises(UsageError) as caught:
        read_targets(path)
    for fault in (
        "mail: is unknown",
        "url: must begin with",
        "argv: must name",
        "kinds: is missing",
    ):
        assert fault in caught.value.what
