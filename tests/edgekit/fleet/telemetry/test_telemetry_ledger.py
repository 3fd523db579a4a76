from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.store.database import Database
from edgekit.fleet.store.telemetry import hourly_counts, recent_counts
from edgekit.fleet.telemetry.drift import merge_features
from edgekit.fleet.telemetry.health import Health, HealthSum, merge_health
from edgekit.fleet.telemetry.ledger import Ledger, count_feedback
from edgekit.fleet.telemetry.numbers import MAX_GAPS, Numbers
from edgekit.fleet.telemetry.screening import Allowance, Screen
from edgekit.fleet.telemetry.sketches import LatencySketch, bucket_of, merge_latencies
from edgekit_runtime.telemetry import (
    DeviceGauges,
    FeatureCounts,
    ModelCounts,
    Window,
    pack_batch,
    parse_batch,
)

NOW = 1_800_000_000.0
STREAM = "0123456789abcdef"


def window(
    *,
    requests: int = 10,
    errors: int = 0,
    version: str = "2.0.0",
    start: float | None = None,
    end: float = NOW,
    **more: object,
) -> Window:
    counts = ModelCounts(requests=requests, errors=errors, **more)  # type: ignore[arg-type]
    begin = end - 10 if start is None else start
    return Window(start=begin, end=end, bundle="digits", version=version, model=counts)


def batch(device: str, *windows: Window, first: int = 1, stream: str = STREAM) -> bytes:
    rows = [
        (first + place, json.dumps(item.to_json()).encode()) for place, item in enumerate(windows)
    ]
    return pack_batch(device, stream, 0, rows)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database, look_seconds=0.0)


def requests(ledger: Ledger, device: str = "d1", version: str = "2.0.0", since: float = 0) -> int:
    health = ledger.health(device, "digits", version, since)
    return health.requests if health else 0


def test_what_devices_report_adds_up(ledger: Ledger) -> None:
    feature = FeatureCounts(expected=(0.5, 0.5), counts=(3, 7))
    one = window(errors=1, latency={100: 9}, features={"input:x": feature})
    taken = ledger.take([("d1", batch("d1", one, one)), ("d2", batch("d2", one))], now=NOW)
    assert (taken.records, taken.duplicates, taken.refused) == (3, 0, 0)
    health = ledger.health("d1", "digits", "2.0.0")
    assert health is not None
    assert (health.requests, health.errors) == (20, 2)
    assert health.latency == LatencySketch({100: 18})
    assert health.drift["input:x"].counts == (6, 14)
    fleet = ledger.fleet_health("digits", "2.0.0", since=NOW - 60)
    assert {device: item.requests for device, item in fleet.items()} == {"d1": 20, "d2": 10}
    assert ledger.versions(since=NOW - 60) == (("digits", "2.0.0"),)


def test_a_record_counts_once_also_after_a_restart(ledger: Ledger, database: Database) -> None:
    message = batch("d1", window(), window())
    ledger.take([("d1", message), ("d1", message)], now=NOW)
    again = Ledger(database, look_seconds=0.0)
    taken = again.take([("d1", message), ("d1", batch("d1", window(), first=3))], now=NOW + 1)
    assert (taken.records, taken.duplicates) == (1, 2)
    assert requests(again) == 30
    # A device that has lost its store begins another stream.
    again.take([("d1", batch("d1", window(), stream="f" * 16))], now=NOW + 2)
    assert requests(again) == 40


def test_what_came_before_a_rollout_does_not_count_for_it(ledger: Ledger) -> None:
    ledger.take([("d1", batch("d1", window(errors=10)))], now=NOW + 5)
    told = NOW + 7
    assert ledger.health("d1", "digits", "2.0.0", told) is None
    ledger.take([("d1", batch("d1", window(), first=2))], now=NOW + 9)
    health = ledger.health("d1", "digits", "2.0.0", told)
    assert health is not None
    assert (health.requests, health.errors) == (10, 0)
    assert requests(ledger) == 20


def test_two_who_write_do_not_undo_each_other(ledger: Ledger, database: Database) -> None:
    other = Ledger(database, look_seconds=0.0)
    for number in range(1, 6):
        message = batch("d1", window(), first=number)
        # A broker delivers to both.
        for one in (ledger, other):
            one.take([("d1", message)], now=NOW)
    assert requests(ledger) == requests(other) == 50


def test_what_a_rollout_waits_for_counts_at_another_replica_too(
    ledger: Ledger, database: Database
) -> None:
    other = Ledger(database, look_seconds=0.0)
    ledger.take([("d1", batch("d1", window(errors=10)))], now=NOW + 5)
    told = NOW + 7
    assert ledger.health("d1", "digits", "2.0.0", told) is None
    # The one that drives the rollout writes down from when on, with whatever it takes in next.
    ledger.take([("d2", batch("d2", window()))], now=NOW + 8)
    other.take([("d1", batch("d1", window(), first=2))], now=NOW + 9)
    health = ledger.health("d1", "digits", "2.0.0", told)
    assert health is not None
    assert (health.requests, health.errors) == (10, 0)


def test_feedback_is_counted(database: Database) -> None:
    ledger = Ledger(database, look_seconds=0)
    ledger.take([("d1", batch("d1", window()))], now=NOW)
    assert ledger.health("d1", "digits", "2.0.0") is not None
    for answers, at in (((7, 2), NOW), ((0, 1), NOW + 1)):
        with database.write() as session:
            count_feedback(session, {("d1", "digits", "2.0.0"): answers}, now=at)
    ledger.take([("d1", batch("d1", window()))], now=NOW + 2)
    health = ledger.health("d1", "digits", "2.0.0")
    assert health is not None
    assert (health.feedback, health.right, health.requests) == (10, 7, 10)


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (batch("d2", window()), "wrong device"),
        (b"\x00\xff", "no batch"),
        (b"[" * 50_000, "no batch"),
        (b'{"device":"d1"}', "no batch"),
        (b'{"device":"d1","stream":"x","dropped":0,"records":[]}', "no batch"),
        (b" " * 100_000, "no batch"),
    ],
)
def test_a_lie_is_refused_and_counted(ledger: Ledger, message: bytes, fault: str) -> None:
    taken = ledger.take([("d1", message), ("d3", batch("d3", window()))], now=NOW)
    assert (taken.refused, taken.records) == (1, 1)
    assert ledger.faults() == {"d1": {fault: 1}}
    assert requests(ledger, "d2") == 0


@pytest.mark.parametrize(
    ("lie", "fault"),
    [
        (window(requests=5, errors=6), "contradiction"),
        (window(requests=5, insane=6), "contradiction"),
        (window(requests=5, latency={3: 6}), "contradiction"),
        (window(requests=10**12), "implausible"),
        # Years in which nobody could have asked it so much.
        (window(requests=10**12, start=0.0), "implausible"),
        (window(requests=20_000 * 86_400 + 1, start=NOW - 7 * 86_400), "implausible"),
    ],
)
def test_counts_that_cannot_be_are_left_out(ledger: Ledger, lie: Window, fault: str) -> None:
    ledger.take([("d1", batch("d1", lie, window()))], now=NOW)
    assert ledger.faults() == {"d1": {fault: 1}}
    assert requests(ledger) == 10


@pytest.mark.parametrize("end", [20.0, NOW + 86_400 * 365 * 20])
def test_a_wrong_clock_is_counted_and_not_believed(ledger: Ledger, end: float) -> None:
    ledger.take([("d1", batch("d1", window(end=end)))], now=NOW)
    assert ledger.faults() == {"d1": {"wrong time": 1}}
    assert ledger.fleet_health("digits", "2.0.0", since=NOW - 60)["d1"].requests == 10
    assert ledger.versions(since=NOW + 7_200) == ()


def test_a_window_longer_than_an_agent_makes_is_counted_and_holds_no_more_than_a_day(
    ledger: Ledger,
) -> None:
    # A device without a battery for its clock: its first window begins in 1970.
    ledger.take([("d1", batch("d1", window(start=0.0)))], now=NOW)
    # One that slept for three days.
    ledger.take([("d2", batch("d2", window(start=NOW - 3 * 86_400)))], now=NOW)
    assert ledger.faults() == {"d1": {"wrong time": 1}, "d2": {"wrong time": 1}}
    assert (requests(ledger, "d1"), requests(ledger, "d2")) == (10, 10)


def test_who_was_offline_for_weeks_loses_nothing_and_is_blamed_for_nothing(
    ledger: Ledger, tmp_path: Path
) -> None:
    from edgekit_agent.telemetry.store import TelemetryStore

    store = TelemetryStore(tmp_path / "telemetry.db", device="d1", most_bytes=20_000)
    minutes = 28 * 24 * 60
    for minute in range(0, minutes, 20):
        end = NOW - 60 * (minutes - minute)
        store.add(window(requests=60_000, start=end - 20 * 60, end=end))
    longest = 0.0
    while waiting := store.next_batch():
        records = parse_batch(waiting.message, where="a test").records
        longest = max(longest, *(item.end - item.start for _, item in records))
        ledger.take([("d1", waiting.message)], now=NOW)
        store.acknowledge(waiting.number)
    store.close()
    # It had to merge them for want of room, as far as agents do.
    assert 80_000 < longest <= 86_400 + 20 * 60
    assert ledger.faults() == {}
    assert requests(ledger) == 60_000 * minutes // 20


def test_gigabytes_are_not_even_parsed(database: Database) -> None:
    ledger = Ledger(database, screen=Screen(Allowance(bytes_per_hour=20_000, versions_per_hour=3)))
    flood = [("d1", b"x" * 15_000)] * 50
    assert ledger.take([*flood, ("d2", batch("d2", window()))], now=NOW).records == 1
    assert ledger.faults() == {"d1": {"flood": 49, "no batch": 1}}
    # The next hour begins anew.
    assert ledger.take([("d1", batch("d1", window()))], now=NOW + 3_601).records == 1
    many = [window(version=f"2.0.{n}") for n in range(10)]
    ledger.take([("d3", batch("d3", *many))], now=NOW)
    assert len(ledger.versions(since=NOW - 60)) == 3
    assert ledger.faults()["d3"] == {"too many versions": 1}


def test_who_makes_up_devices_fills_no_table(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.fleet.telemetry.ledger._MAX_FAULTY", 5)
    ledger.take([(f"made-up-{n}", b"nonsense") for n in range(100)], now=NOW)
    assert len(ledger.faults()) == 6
    assert ledger.faults()[""] == {"no batch": 95}


def test_hours_and_versions_of_the_fleet_stand_apart(ledger: Ledger, database: Database) -> None:
    light = FeatureCounts(expected=(0.5, 0.5), counts=(7, 3))
    one = window(errors=1, latency={50: 10}, features={"input:light": light})
    ledger.take([("d1", batch("d1", one, one)), ("d2", batch("d2", one))], now=NOW)
    ledger.take([("d1", batch("d1", one, one))], now=NOW + 1)
    ledger.take([("d1", batch("d1", window(version="3.0.0"), first=3))], now=NOW + 3_600)
    hours = hourly_counts(database, since=NOW)
    assert {
        version: [(h.hour - int(NOW) // 3600, h.requests, h.errors) for h in of]
        for (_, version), of in hours.items()
    } == {"2.0.0": [(0, 30, 3)], "3.0.0": [(1, 10, 0)]}
    counts = recent_counts(database, since=NOW)["digits", "2.0.0"]
    assert (counts.latency, counts.features["input:light"].counts) == ({50: 30}, (21, 9))
    assert set(recent_counts(database, since=NOW + 3_600)) == {("digits", "3.0.0")}


def test_names_that_no_bundle_has_are_left_out(ledger: Ledger, database: Database) -> None:
    odd = FeatureCounts(expected=(1.0,), counts=(10,))
    counts = ModelCounts(requests=1)
    lies = [
        Window(start=NOW, end=NOW, bundle=bundle, version=version, model=counts)
        for bundle, version in (("../etc", "1.0.0"), ("a\0b", "1.0.0"), ("digits", "newest"))
    ]
    kept = window(features={"input:\0\ud800": odd})
    gauges = Window(start=NOW - 10, end=NOW, device=DeviceGauges(cpu_share=0.5))
    taken = ledger.take([("d1", batch("d1", *lies, kept, gauges))], now=NOW)
    assert taken.records == 5
    assert ledger.faults() == {"d1": {"implausible": 3}}
    assert ledger.versions(since=NOW) == (("digits", "2.0.0"),)
    assert recent_counts(database, since=NOW)["digits", "2.0.0"].requests == 10
    health = ledger.health("d1", "digits", "2.0.0")
    assert health is not None
    assert list(health.drift) == ["input:\0\ud800"]


def test_writers_at_once_lose_nothing_in_any_order(database: Database) -> None:
    """As replicas do that share a subscription: each takes some of a device's batches."""
    ledgers = [Ledger(database, look_seconds=0.0) for _ in range(3)]

    def write(mine: int) -> None:
        for number in range(15 - mine, 0, -3):
            for device in ("d1", "d2"):
                ledgers[mine].take([(device, batch(device, window(), first=number))], now=NOW)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [requests(ledger, "d1") for ledger in ledgers] == [150, 150, 150]
    assert recent_counts(database, since=NOW)["digits", "2.0.0"].requests == 300


@given(st.lists(st.integers(1, 40), max_size=80))
def test_numbers_count_once_in_any_order(came: list[int]) -> None:
    numbers = Numbers()
    new = [number for number in came if numbers.add(number)]
    assert sorted(new) == sorted(set(came))
    assert numbers.last == max(came, default=0)


def test_gaps_are_bounded() -> None:
    numbers = Numbers()
    for number in range(2, 4 * MAX_GAPS, 2):
        assert numbers.add(number)
    assert len(numbers.gaps) == MAX_GAPS
    assert not numbers.add(1)
    assert numbers.add(4 * MAX_GAPS - 3)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_what_was_reported_as_taken_is_there(database: Database) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from edgekit.fleet.store.database import open_database\n"
        "from edgekit.fleet.telemetry.ledger import Ledger\n"
        "from tests.edgekit.fleet.telemetry.test_telemetry_ledger import NOW, batch, window\n"
        "ledger = Ledger(open_database(sys.argv[1]))\n"
        "for number in range(1, 100_000):\n"
        "    ledger.take([('d1', batch('d1', window(), first=number))], now=NOW)\n"
        "    print(number, flush=True)\n"
    )
    root = Path(__file__).resolve().parents[4]
    address = database.engine.url.render_as_string(hide_password=False)
    process = subprocess.Popen(
        [sys.executable, "-c", code, address, str(root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    last = max([20, *map(int, process.communicate()[0].split())])
    ledger = Ledger(database, look_seconds=0.0)
    counted = requests(ledger) // 10
    assert counted in (last, last + 1)
    # Delivered again, as the broker does with what was not acknowledged, nothing counts twice.
    ledger.take([("d1", batch("d1", *[window()] * (last + 2)))], now=NOW)
    assert requests(ledger) // 10 == last + 2


latencies = st.lists(st.floats(0.0005, 10_000.0), min_size=1, max_size=60)


@given(latencies, latencies)
def test_sketches_add_up_and_quantiles_hold(first: list[float], second: list[float]) -> None:
    def sketch(values: list[float]) -> LatencySketch:
        counts: dict[int, int] = {}
        for value in values:
            counts[bucket_of(value)] = counts.get(bucket_of(value), 0) + 1
        return LatencySketch(counts)

    merged = merge_latencies([sketch(first), sketch(second)])
    assert merged == sketch(first + second)
    values = sorted(first + second)
    for share in (0.5, 0.9, 0.99):
        exact = values[max(0, math.ceil(share * len(values)) - 1)]
        assert merged.quantile_ms(share) == pytest.approx(max(exact, 0.001), rel=0.05)


def test_a_reference_of_ones_own_hides_nothing() -> None:
    honest = FeatureCounts(expected=(0.5, 0.5), counts=(1, 99))
    lie = FeatureCounts(expected=(0.9, 0.1), counts=(900, 100))
    merged = merge_features([{"input:x": lie}, {"input:x": honest}, {"input:x": honest}])
    assert merged["input:x"].expected == (0.5, 0.5)
    assert merged["input:x"].counts == (2, 198)


@st.composite
def reports(draw: st.DrawFn) -> Health:
    requests = draw(st.integers(0, 50))
    references = st.sampled_from([(0.5, 0.5), (0.9, 0.1)])
    counts = st.tuples(st.integers(0, 20), st.integers(0, 20))
    return Health(
        requests=requests,
        errors=draw(st.integers(0, requests)),
        latency=LatencySketch(draw(st.dictionaries(st.integers(0, 5), st.integers(1, 9)))),
        drift={
            name: FeatureCounts(
                expected=draw(references), counts=draw(counts), nonfinite=draw(st.integers(0, 3))
            )
            for name in draw(st.sets(st.sampled_from(["input:x", "input:y"])))
        },
        feedback=draw(st.integers(0, 5)),
    )


@given(st.lists(st.dictionaries(st.sampled_from("abcde"), st.none() | reports()), max_size=6))
def test_a_sum_that_is_kept_up_to_date_is_the_sum(turns: list[dict[str, Health | None]]) -> None:
    kept = HealthSum()
    for turn in turns:
        found = kept.update(turn.items())
        wanted = merge_health(item for item in turn.values() if item is not None)
        assert replace(found, drift={}) == replace(wanted, drift={})
        assert found.drift.keys() == wanted.drift.keys()
        for name, feature in found.drift.items():
            # Of two references that are equally common either may be taken.
            assert (feature.total, feature.nonfinite) == (
                wanted.drift[name].total,
                wanted.drift[name].nonfinite,
            ) or feature.expected != wanted.drift[name].expected
    assert kept.update([]) == Health()
