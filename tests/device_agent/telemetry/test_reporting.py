"""A whole agent measures, notices drift, and reports everything once."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from edgekit_agent.hosted import HostedModel, InsaneAnswerError
from edgekit_agent.live_stats import LiveStats, read_stats
from edgekit_agent.resending import FIRST_SECONDS
from edgekit_agent.settings import TelemetrySettings
from edgekit_agent.telemetry.gauges import DeviceProbe
from edgekit_agent.telemetry.recorder import Recorder
from edgekit_agent.telemetry.reporting import Reporting
from edgekit_agent.telemetry.spool import write_counted
from edgekit_agent.transports.arrivals import ReportKind
from edgekit_runtime.bundle.archive import entry_of
from edgekit_runtime.bundle.manifest import MANIFEST_NAME, parse_manifest
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.reports import DeviceEvent
from edgekit_runtime.telemetry import FeatureCounts, ModelCounts, Window, parse_batch
from tests.simulators.hosted_models import make_slot
from tests.simulators.local_agent import RunningAgent, infer_body, make_config
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import GOLDEN, affine_bundle, bundle_files, logarithm_model


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[RunningAgent]:
    """An agent whose windows take a second."""
    fleet = SignedFleet()
    config = make_config(tmp_path, fleet)
    config = dataclasses.replace(config, telemetry=TelemetrySettings(window_seconds=0.5))
    agent = RunningAgent(config=config, fleet=fleet)
    agent.start()
    yield agent
    agent.stop()


def with_statistics(files: dict[str, bytes]) -> dict[str, bytes]:
    """The bundle, with a reference of values between 0 and 1."""
    quantiles = np.linspace(0, 1, 21).tolist()
    statistics = {
        "format": "edgekit-statistics",
        "format_version": 1,
        "inputs": {"x": {"quantiles": quantiles}},
        "outputs": {"y": {"quantiles": [2 * q for q in quantiles]}},
    }
    data = json.dumps(statistics).encode()
    manifest = parse_manifest(files[MANIFEST_NAME], where="test")
    entries = {**manifest.files, "statistics.json": entry_of(data)}
    changed = dataclasses.replace(manifest, files=entries)
    return {**files, "statistics.json": data, MANIFEST_NAME: changed.to_json()}


def received(agent: RunningAgent) -> dict[tuple[str, int], Window]:
    found = {}
    for message in list(agent.broker.reports[ReportKind.TELEMETRY]):
        batch = parse_batch(message, where="test")
        found |= {(batch.stream, sequence): window for sequence, window in batch.records}
    return found


def ask(agent: RunningAgent, count: int, *, shift: float) -> None:
    import http.client

    random = np.random.default_rng(count)
    client = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=30)
    for _ in range(count):
        body = json.dumps(infer_body((random.random(4) + shift).tolist()))
        client.request("POST", "/v2/models/double/infer", body)
        assert client.getresponse().read()
    client.close()


def test_drift_is_told_and_its_end_too_and_every_request_is_counted_once(
    quick: RunningAgent,
) -> None:
    quick.release("double", "1.0.0", with_statistics(affine_bundle("double", "1.0.0", 2.0)))
    quick.order(quick_order("double", "1.0.0"))
    quick.wait_for_phase("active")
    ask(quick, 300, shift=2.0)
    quick.wait_for(lambda: quick.details("drift.found"))
    assert "input:x: PSI" in quick.details("drift.found")[0]
    quick.broker.set_online(online=False)
    for _ in range(3):
        ask(quick, 100, shift=0.0)
    quick.broker.set_online(online=True)
    quick.wait_for(lambda: quick.details("drift.gone"))

    def counted() -> int:
        models = [window.model for window in received(quick).values() if window.model]
        return sum(model.requests for model in models)

    quick.wait_for(lambda: counted() == 600)
    devices = [window.device for window in received(quick).values() if window.device]
    assert max(device.agent_rss_bytes for device in devices) > 10 << 20
    assert all(device.disk_free_bytes > 0 for device in devices)
    sequences = [event["sequence"] for event in quick.events]
    assert sequences == list(range(1, len(sequences) + 1))


def test_a_candidate_whose_answers_drift_is_rolled_back(quick: RunningAgent) -> None:
    quick.install("1.0.0", 2.0)
    # Right on its golden samples, and far from its reference in live use.
    quick.release("double", "2.0.0", with_statistics(affine_bundle("double", "2.0.0", 3.0)))
    quick.order(quick_order("double", "2.0.0", max_psi=0.2))
    quick.wait_for(lambda: quick.served_versions() == ["2.0.0"])
    ask(quick, 250, shift=0.0)
    quick.wait_for_phase("rolled_back")
    assert "output:y has drifted" in quick.bundle()["reason"]
    assert "input:x" not in quick.bundle()["reason"]
    quick.wait_for(lambda: quick.answer() == [2.0, 4.0, 6.0, 8.0])


def test_what_happened_offline_is_told_after_a_restart(quick: RunningAgent) -> None:
    quick.install("1.0.0", 2.0)
    quick.broker.set_online(online=False)
    supervisor = quick.supervisor
    assert supervisor
    told = len(quick.events)
    quick.wait_for(lambda: not supervisor._connected)
    for _ in range(3):
        assert quick.answer() == [2.0, 4.0, 6.0, 8.0]
    quick.stop()
    assert len(quick.events) == told
    with sqlite3.connect(quick.config.data / "telemetry.db") as database:
        assert database.execute("SELECT count(*) FROM rows").fetchone()[0] > 0
    database.close()
    quick.broker.online = True
    quick.start()
    quick.wait_for(lambda: sum(w.model.requests for w in received(quick).values() if w.model) >= 3)


def event(sequence: int) -> DeviceEvent:
    return DeviceEvent(device="d", sequence=sequence, time=1.0, kind="test.event")


def reporting(folder: Path, sent: list[tuple[ReportKind, int]]) -> Reporting:
    return Reporting(
        folder,
        device="d",
        window_seconds=60,
        store_bytes=1 << 20,
        wall_clock=lambda: 1e9,
        send=lambda kind, key, _: sent.append((kind, key)),
    )


def test_what_was_not_taken_goes_again_after_the_next_connection(tmp_path: Path) -> None:
    sent: list[tuple[ReportKind, int]] = []
    reports = reporting(tmp_path, sent)
    for sequence in (1, 2):
        reports.note_event(event(sequence))
    assert sent == []
    reports.on_connected()
    assert sent == [(ReportKind.EVENTS, 1), (ReportKind.EVENTS, 2)]
    reports.on_taken(ReportKind.EVENTS, 1)
    reports.on_disconnected()
    reports.note_event(event(3))
    sent.clear()
    reports.on_connected()
    assert sent == [(ReportKind.EVENTS, 2), (ReportKind.EVENTS, 3)]
    reports.close({})


def test_what_nobody_hears_is_kept_and_goes_again(tmp_path: Path) -> None:
    sent: list[tuple[ReportKind, int]] = []
    reports = reporting(tmp_path, sent)

    def tick(now: float) -> None:
        reports.tick(dict, lambda: 0, now)

    for sequence in (1, 2):
        reports.note_event(event(sequence))
    reports.on_connected()
    for kind, key in sent:
        reports.on_unheard(kind, key, "no matching subscribers")
    tick(100.0)
    reports.note_event(event(3))
    reports.on_taken(ReportKind.EVENTS, 3)
    sent.clear()
    tick(100.0 + FIRST_SECONDS / 2)
    assert sent == []
    tick(100.0 + FIRST_SECONDS)
    assert sent == [(ReportKind.EVENTS, 1), (ReportKind.EVENTS, 2)]
    # Nobody again: the pauses become longer, and nothing is forgotten.
    for now in range(103, 155):
        for kind, key in sent[-2:]:
            reports.on_unheard(kind, key, "no matching subscribers")
        tick(float(now))
    assert 2 * 3 <= len(sent) <= 2 * 6
    assert set(sent) == {(ReportKind.EVENTS, 1), (ReportKind.EVENTS, 2)}
    reports.close({})


def test_a_window_of_many_events_moves_on(tmp_path: Path) -> None:
    sent: list[tuple[ReportKind, int]] = []
    reports = reporting(tmp_path, sent)
    for sequence in range(1, 101):
        reports.note_event(event(sequence))
    reports.on_connected()
    assert len(sent) < 100
    for kind, key in sent:
        reports.on_taken(kind, key)
    assert [key for _, key in sent] == list(range(1, 101))
    reports.close({})


def test_a_batch_is_made_as_small_as_the_broker_takes_it(tmp_path: Path) -> None:
    waiting: list[tuple[ReportKind, int, bytes]] = []
    reports = Reporting(
        tmp_path,
        device="d",
        window_seconds=60.0,
        store_bytes=1 << 20,
        wall_clock=lambda: 1000.0,
        send=lambda *report: waiting.append(report),
    )
    for sequence in (1, 2):
        reports.note_event(event(sequence))
    reports.note_event(dataclasses.replace(event(3), detail="x" * 1900))
    for number in range(60):
        features = {
            f"input:{place}": FeatureCounts(expected=(0.5, 0.5), counts=(number, 1))
            for place in range(40 if number == 30 else 3)
        }
        counts = ModelCounts(requests=number + 1, features=features)
        reports._store.add(
            Window(start=number, end=number, bundle="m", version="1.0.0", model=counts)
        )
    reports.on_connected()
    arrived: dict[int, Window] = {}
    dropped = 0
    while waiting:
        kind, key, body = waiting.pop(0)
        if len(body) > 1500:
            reports.on_too_large(kind, key, 1500)
            continue
        if kind is ReportKind.TELEMETRY:
            batch = parse_batch(body, where="test")
            dropped = batch.dropped
            assert not arrived.keys() & dict(batch.records).keys()
            arrived |= dict(batch.records)
        reports.on_taken(kind, key)
    # One window and one event are larger than anything that may be sent; all others came, once.
    assert sorted(arrived) == [sequence for sequence in range(1, 61) if sequence != 31]
    assert dropped == 2
    assert reports.summary().waiting == 0
    reports.close({})


def test_a_disk_that_fails_is_told_and_stops_nothing(tmp_path: Path) -> None:
    reports = reporting(tmp_path, [])
    reports._store._database.execute("PRAGMA max_page_count = 1")
    for sequence in range(1, 200):
        reports.note_event(event(sequence))
    assert "full" in reports.summary().trouble
    reports.tick(dict, lambda: 1, 0.0)
    reports._store._database.execute("PRAGMA max_page_count = 100000")
    reports.note_event(event(200))
    assert reports.summary().trouble == ""
    reports.close({})


def test_the_machine_is_read_from_the_kernels_files(tmp_path: Path) -> None:
    zone = tmp_path / "sys" / "class" / "thermal" / "thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("48312\n")
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "stat").write_text("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3\n")
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n")
    probe = DeviceProbe(tmp_path, system=tmp_path)
    (proc / "stat").write_text("cpu  150 0 150 900 100 0 0 0 99 0\n")
    gauges = probe.look(agent_rss_bytes=7)
    assert gauges.cpu_share == pytest.approx(100 / 300, abs=1e-3)
    assert gauges.memory_used_bytes == 600 * 1024
    assert gauges.temperature_c == 48.312
    assert gauges.disk_free_bytes > 0


def test_a_machine_that_tells_nothing_is_no_trouble(tmp_path: Path) -> None:
    gauges = DeviceProbe(tmp_path, system=tmp_path / "nowhere").look(agent_rss_bytes=0)
    assert (gauges.cpu_share, gauges.memory_used_bytes, gauges.temperature_c) == (0, 0, None)


def test_counters_that_were_begun_anew_count_in_full() -> None:
    before = LiveStats(requests=10, values={"x": [5, 5]})
    assert LiveStats(requests=3, values={"x": [1, 2]}).since(before).requests == 3
    after = LiveStats(requests=12, errors=1, values={"x": [6, 6]}).since(before)
    assert (after.requests, after.errors, after.values) == (2, 1, {"x": [1, 1]})


def test_no_look_finds_more_answers_than_requests(tmp_path: Path) -> None:
    """The control plane refuses such windows: a device that says so contradicts itself."""
    plan = make_slot(
        tmp_path,
        bundle_files(
            "log", "1.0.0", [("plain", logarithm_model())], expected=GOLDEN * 0, golden=GOLDEN + 1
        ),
    )
    model = HostedModel(plan)
    looks = [LiveStats()]
    stopping = threading.Event()

    def look() -> None:
        while not stopping.is_set():
            looks.append(read_stats(FieldReader(model.stats.to_json())).ended())

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(400):
        with suppress(InsaneAnswerError):
            model.infer({"x": np.full((1, 4), number % 2 - 0.5, dtype=np.float32)})
    stopping.set()
    thread.join()
    model.close()
    looks.append(model.stats.ended())
    for before, after in itertools.pairwise(looks):
        window = after.since(before)
        assert window.insane <= window.requests
        assert window.errors + window.latency.count == window.requests
    assert (looks[-1].requests, looks[-1].insane) == (400, 200)


def test_what_is_said_of_drift_is_of_the_version_that_was_asked_last(tmp_path: Path) -> None:
    plans = {
        version: make_slot(
            tmp_path / version, with_statistics(affine_bundle("double", version, 2.0))
        )
        for version in ("1.0.0", "2.0.0")
    }
    recorder = Recorder(DeviceProbe(tmp_path), now=0.0)
    bins = len(recorder.features_of(plans["1.0.0"], LiveStats())["input:x"].expected)
    totals = {plan.digest: (plan, LiveStats()) for plan in plans.values()}

    def ask(version: str, counts: list[int]) -> bool:
        plan = plans[version]
        done = LiveStats(requests=400, values={"input:x": counts})
        totals[plan.digest][1].merge(done)
        copies = {}
        for digest, (one, stats) in totals.items():
            copies[digest] = (one, LiveStats())
            copies[digest][1].merge(stats)
        recorder.close_window(copies, now=1.0)
        return recorder.drift["double"]["input:x"].drifted

    assert not ask("1.0.0", [20] * bins)
    assert ask("2.0.0", [0] * (bins - 1) + [400])
    # The version before is back.
    assert not ask("1.0.0", [20] * bins)


def test_what_other_programs_did_is_counted_with_it(tmp_path: Path) -> None:
    reports = reporting(tmp_path, [])
    plan = make_slot(tmp_path / "slots", with_statistics(affine_bundle("double", "1.0.0", 2.0)))
    served = LiveStats(requests=5, values={"input:x": [1] * 22})
    assert write_counted(tmp_path, plan, LiveStats(requests=3, values={"input:x": [2] * 22}))
    assert write_counted(tmp_path, plan, LiveStats(requests=4))
    # Of another reference: its values are not added.
    assert write_counted(tmp_path, plan, LiveStats(requests=1, values={"input:x": [9]}))
    reports.tick(lambda: {plan.digest: (plan, served)}, lambda: 1, 0.0)
    reports.tick(lambda: {plan.digest: (plan, served)}, lambda: 1, 60.0)
    reports.tick(lambda: {plan.digest: (plan, served)}, lambda: 1, 120.0)
    batch = reports._store.next_batch()
    assert batch
    models = [w.model for _, w in parse_batch(batch.message, where="").records if w.model]
    assert [model.requests for model in models] == [13]
    assert models[0].features["input:x"].total == 3 * 22
    reports.close({})
