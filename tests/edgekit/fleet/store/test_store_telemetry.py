from __future__ import annotations

import threading

import pytest
from sqlalchemy import func, select

from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.tables import TelemetryRow
from edgekit.fleet.store.telemetry import hourly_counts, recent_counts, store_batches
from edgekit_runtime.telemetry import (
    DeviceGauges,
    FeatureCounts,
    ModelCounts,
    TelemetryBatch,
    Window,
)

NOW = 1_790_000_000.0


def window(
    requests: int = 10, *, bundle: str = "digits", version: str = "1.0.0", at: float = NOW
) -> Window:
    light = FeatureCounts(expected=(0.5, 0.5), counts=(requests, 0))
    model = ModelCounts(
        requests=requests, errors=1, latency={50: requests}, features={"input:light": light}
    )
    return Window(start=at - 60, end=at, bundle=bundle, version=version, model=model)


def batch(device: str, *windows: Window, first: int = 1, stream: str = "0" * 16) -> TelemetryBatch:
    records = tuple(enumerate(windows, start=first))
    return TelemetryBatch(device=device, stream=stream, dropped=0, records=records)


@pytest.fixture
def devices(database: Database) -> Database:
    for name in ("d1", "d2"):
        Inventory(database, actor="test").add(name)
    return database


def test_windows_are_added_up_once(devices: Database) -> None:
    sent = [batch("d1", window(10), window(20)), batch("d2", window(5))]
    assert store_batches(devices, sent, now=NOW) == 3
    assert store_batches(devices, sent, now=NOW) == 0
    assert store_batches(devices, [batch("d1", window(1), first=3)], now=NOW) == 1
    counts = recent_counts(devices, since=NOW)["digits", "1.0.0"]
    assert (counts.requests, counts.errors, counts.latency) == (36, 4, {50: 36})
    assert counts.features["input:light"].counts == (36, 0)
    (hour,) = hourly_counts(devices, since=NOW)["digits", "1.0.0"]
    assert (hour.hour, hour.requests, hour.errors) == (int(NOW) // 3600, 36, 4)


def test_hours_and_versions_stand_apart(devices: Database) -> None:
    store_batches(devices, [batch("d1", window())], now=NOW)
    other = batch("d1", window(version="2.0.0"), first=2)
    store_batches(devices, [other], now=NOW + 3600)
    hours = hourly_counts(devices, since=NOW)
    assert {key: [h.hour - int(NOW) // 3600 for h in of] for key, of in hours.items()} == {
        ("digits", "1.0.0"): [0],
        ("digits", "2.0.0"): [1],
    }
    assert set(recent_counts(devices, since=NOW + 3600)) == {("digits", "2.0.0")}


def test_what_no_device_of_the_fleet_can_mean_is_left_out(devices: Database) -> None:
    lies = [
        batch("ghost", window()),
        batch("d1", window(bundle="../etc"), window(version="newest")),
        batch("d1", window(bundle="a\0b"), first=9),
    ]
    assert store_batches(devices, lies, now=NOW) == 0
    assert recent_counts(devices, since=0) == {}


def test_a_wrong_clock_decides_nothing(devices: Database) -> None:
    sent = [batch("d1", window(at=60.0), window(at=NOW + 10**9))]
    assert store_batches(devices, sent, now=NOW) == 2
    with devices.read() as session:
        rows = session.execute(select(TelemetryRow.started, TelemetryRow.ended)).all()
    assert [tuple(row) for row in rows] == [(NOW, NOW), (NOW, NOW)]
    assert recent_counts(devices, since=NOW)["digits", "1.0.0"].requests == 20


def test_the_devices_own_figures_and_odd_names_are_kept(devices: Database) -> None:
    odd = FeatureCounts(expected=(1.0,), counts=(3,))
    model = ModelCounts(requests=3, features={"input:\0\ud800": odd})
    sent = batch(
        "d1",
        Window(start=NOW - 60, end=NOW, device=DeviceGauges(cpu_share=0.5)),
        Window(start=NOW - 60, end=NOW, bundle="digits", version="1.0.0", model=model),
    )
    assert store_batches(devices, [sent], now=NOW) == 2
    assert recent_counts(devices, since=NOW)["digits", "1.0.0"].requests == 3


def test_writers_at_once_lose_nothing(devices: Database) -> None:
    def write(stream: int) -> None:
        for number in range(1, 6):
            sent = [batch("d1", window(1), first=number, stream=f"{stream:016x}")]
            store_batches(devices, sent, now=NOW)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recent_counts(devices, since=NOW)["digits", "1.0.0"].requests == 20
    with devices.read() as session:
        assert session.scalar(select(func.count()).select_from(TelemetryRow)) == 20
