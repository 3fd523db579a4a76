from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.telemetry.drift import merge_features
from edgekit.fleet.telemetry.ledger import Keeping, Ledger
from edgekit.fleet.telemetry.screening import Allowance, Screen
from edgekit.fleet.telemetry.sketches import LatencySketch, bucket_of, merge_latencies
from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.telemetry import FeatureCounts, ModelCounts, Window, pack_batch

NOW = 1_800_000_000.0
STREAM = "0123456789abcdef"


def window(
    *, requests: int = 10, errors: int = 0, version: str = "2.0.0", end: float = NOW, **more: object
) -> Window:
    counts = ModelCounts(requests=requests, errors=errors, **more)  # type: ignore[arg-type]
    return Window(start=end - 10, end=end, bundle="digits", version=version, model=counts)


def batch(device: str, *windows: Window, first: int = 1, stream: str = STREAM) -> bytes:
    rows = [
        (first + place, json.dumps(item.to_json()).encode()) for place, item in enumerate(windows)
    ]
    return pack_batch(device, stream, 0, rows)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "telemetry.db")
    yield made
    made.close()


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


def test_a_record_counts_once_also_after_a_restart(ledger: Ledger, tmp_path: Path) -> None:
    message = batch("d1", window(), window())
    ledger.take([("d1", message), ("d1", message)], now=NOW)
    ledger.close()
    again = Ledger(tmp_path / "telemetry.db")
    taken = again.take([("d1", message), ("d1", batch("d1", window(), first=3))], now=NOW + 1)
    assert (taken.records, taken.duplicates) == (1, 2)
    assert requests(again) == 30
    # A device that has lost its store begins another stream.
    again.take([("d1", batch("d1", window(), stream="f" * 16))], now=NOW + 2)
    assert requests(again) == 40
    again.close()


def test_what_came_before_a_rollout_does_not_count_for_it(ledger: Ledger) -> None:
    ledger.take([("d1", batch("d1", window(errors=10)))], now=NOW + 5)
    told = NOW + 7
    assert ledger.health("d1", "digits", "2.0.0", told) is None
    ledger.take([("d1", batch("d1", window(), first=2))], now=NOW + 9)
    health = ledger.health("d1", "digits", "2.0.0", told)
    assert health is not None
    assert (health.requests, health.errors) == (10, 0)
    assert requests(ledger) == 20


def test_two_who_write_do_not_undo_each_other(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path / "telemetry.db")
    for number in range(1, 6):
        message = batch("d1", window(), first=number)
        # A broker delivers to both.
        for one in (ledger, other):
            one.take([("d1", message)], now=NOW)
    assert requests(ledger) == requests(other) == 50
    other.close()


def test_feedback_is_counted(ledger: Ledger) -> None:
    ledger.take([("d1", batch("d1", window()))], now=NOW)
    ledger.add_feedback("d1", "digits", "2.0.0", right=7, wrong=2, now=NOW)
    ledger.add_feedback("d1", "digits", "2.0.0", right=0, wrong=1, now=NOW + 1)
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


def test_gigabytes_are_not_even_parsed(tmp_path: Path) -> None:
    ledger = Ledger(
        tmp_path / "t.db", screen=Screen(Allowance(bytes_per_hour=20_000, versions_per_hour=3))
    )
    flood = [("d1", b"x" * 15_000)] * 50
    assert ledger.take([*flood, ("d2", batch("d2", window()))], now=NOW).records == 1
    assert ledger.faults() == {"d1": {"flood": 49, "no batch": 1}}
    # The next hour begins anew.
    assert ledger.take([("d1", batch("d1", window()))], now=NOW + 3_601).records == 1
    many = [window(version=f"2.0.{n}") for n in range(10)]
    ledger.take([("d3", batch("d3", *many))], now=NOW)
    assert len(ledger.versions(since=NOW - 60)) == 3
    assert ledger.faults()["d3"] == {"too many versions": 1}
    ledger.close()


def test_who_makes_up_devices_fills_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.fleet.telemetry.ledger._MAX_FAULTY", 5)
    ledger = Ledger(tmp_path / "t.db")
    ledger.take([(f"made-up-{n}", b"nonsense") for n in range(100)], now=NOW)
    assert len(ledger.faults()) == 6
    assert ledger.faults()[""] == {"no batch": 95}
    ledger.close()


def test_old_counts_are_rolled_up_and_in_the_end_deleted(ledger: Ledger) -> None:
    for hour in range(5):
        ledger.take(
            [
                ("d1", batch("d1", window(), first=hour + 1)),
                ("d2", batch("d2", window(), first=hour + 1)),
            ],
            now=NOW + hour * 3_600,
        )
    later = NOW + 60 * 3_600
    assert ledger.expire(Keeping(device_hours=58.0), now=later) in (4, 6)
    rolled = sum(item.requests for item in ledger.history("digits", "2.0.0").values())
    left = sum(h.requests for h in ledger.fleet_health("digits", "2.0.0", since=0).values())
    assert rolled + left == 100
    ledger.expire(Keeping(device_hours=1.0), now=later)
    assert requests(ledger) == 0
    assert sum(i.requests for i in ledger.history("digits", "2.0.0").values()) == 100
    ledger.expire(Keeping(device_hours=1.0, fleet_days=2.0), now=NOW + 86_400 * 10)
    assert ledger.history("digits", "2.0.0") == {}


def test_a_device_can_be_forgotten(ledger: Ledger) -> None:
    ledger.take([("d1", batch("d1", window())), ("d2", batch("d2", window()))], now=NOW)
    ledger.take([("d1", b"nonsense")], now=NOW)
    ledger.forget("d1")
    assert ledger.faults() == {}
    assert set(ledger.fleet_health("digits", "2.0.0", since=0)) == {"d2"}


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.db").write_bytes(b"no database at all, but long enough" * 100)
    with pytest.raises(EnvironmentLackError, match="cannot be kept"):
        Ledger(tmp_path / "t.db")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_what_was_reported_as_taken_is_there(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from edgekit.fleet.telemetry.ledger import Ledger\n"
        "from tests.edgekit.fleet.telemetry.test_telemetry_ledger import NOW, batch, window\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "for number in range(1, 100_000):\n"
        "    ledger.take([('d1', batch('d1', window(), first=number))], now=NOW)\n"
        "    print(number, flush=True)\n"
    )
    root = Path(__file__).resolve().parents[4]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "t.db"), str(root)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    last = max([20, *map(int, process.communicate()[0].split())])
    ledger = Ledger(tmp_path / "t.db")
    counted = requests(ledger) // 10
    assert counted in (last, last + 1)
    # Delivered again, as the broker does with what was not acknowledged, nothing counts twice.
    ledger.take([("d1", batch("d1", *[window()] * (last + 2)))], now=NOW)
    assert requests(ledger) // 10 == last + 2
    ledger.close()


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
