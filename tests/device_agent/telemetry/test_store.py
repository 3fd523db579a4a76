"""The telemetry store: nothing counted twice, nothing lost in silence, whatever comes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_agent.telemetry.store import DAY_SECONDS, HOUR_SECONDS, TelemetryStore
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.telemetry import (
    MAX_BATCH_BYTES,
    DeviceGauges,
    FeatureCounts,
    ModelCounts,
    Window,
    parse_batch,
)

COUNTS = FeatureCounts(expected=(0.5, 0.5), counts=(1, 2))


def window(minute: int, *, bundle: str = "double", requests: int = 1) -> Window:
    model = ModelCounts(requests=requests, latency={7: requests}, features={"input:x": COUNTS})
    start = 1e9 + 60.0 * minute
    return Window(start=start, end=start + 60, bundle=bundle, version="1.0.0", model=model)


def open_store(folder: Path, *, most_bytes: int = 1 << 20) -> TelemetryStore:
    return TelemetryStore(folder / "telemetry.db", device="d1", most_bytes=most_bytes)


class Receiver:
    """The other end: counts every record once."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()
        self.requests = 0
        self.windows = 0
        self.dropped = 0

    def take(self, message: bytes) -> None:
        assert len(message) <= MAX_BATCH_BYTES
        batch = parse_batch(message, where="test")
        self.dropped = batch.dropped
        for sequence, found in batch.records:
            if (batch.stream, sequence) not in self.seen:
                self.seen.add((batch.stream, sequence))
                self.windows += found.windows
                self.requests += found.model.requests if found.model else 0

    def drain(self, store: TelemetryStore) -> None:
        while (batch := store.next_batch()) is not None:
            self.take(batch.message)
            store.acknowledge(batch.number)


def test_what_was_stored_arrives_once(tmp_path: Path) -> None:
    store, receiver = open_store(tmp_path), Receiver()
    for minute in range(1200):
        store.add(window(minute))
    first = store.next_batch()
    assert first
    receiver.take(first.message)
    # The answer got lost, and then the power.
    store.close()
    store = open_store(tmp_path)
    again = store.next_batch()
    assert again == first
    receiver.drain(store)
    assert (receiver.requests, receiver.windows, receiver.dropped) == (1200, 1200, 0)
    assert store.next_batch() is None
    store.close()


def test_hours_and_days_come_before_anything_is_dropped(tmp_path: Path) -> None:
    store, receiver = open_store(tmp_path, most_bytes=20_000), Receiver()
    minutes = 3 * DAY_SECONDS // 60
    for minute in range(0, minutes, 5):
        store.add(window(minute), window(minute, bundle="other"))
    spans = sorted(row[0] for row in store._database.execute("SELECT level FROM rows"))
    assert {0, 1} <= set(spans)
    assert store.dropped == 0
    receiver.drain(store)
    assert receiver.requests == 2 * minutes // 5
    store.close()


def test_what_is_dropped_is_the_oldest_and_counted(tmp_path: Path) -> None:
    store, receiver = open_store(tmp_path, most_bytes=3000), Receiver()
    days = 40
    for hour in range(0, days * 24, 4):
        store.add(window(hour * 60))
    assert store.dropped > 0
    receiver.drain(store)
    assert receiver.windows + receiver.dropped == days * 6
    store.close()


def test_windows_on_their_way_are_not_merged(tmp_path: Path) -> None:
    store, receiver = open_store(tmp_path, most_bytes=20_000), Receiver()
    for minute in range(40):
        store.add(window(minute))
    batch = store.next_batch()
    assert batch
    for minute in range(40, 1000):
        store.add(window(minute))
    assert store.next_batch() == batch
    receiver.take(batch.message)
    receiver.take(batch.message)
    store.acknowledge(batch.number)
    receiver.drain(store)
    assert (receiver.requests, receiver.dropped) == (1000, 0)
    store.close()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 5000)),
            st.tuples(st.sampled_from(["send", "lose", "restart"]), st.just(0)),
        ),
        max_size=40,
    )
)
def test_every_window_is_received_once_or_counted_as_dropped(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store, receiver, added = open_store(folder, most_bytes=2000), Receiver(), 0
    for step, minute in steps:
        if step == "add":
            store.add(window(minute), window(minute, bundle="other"))
            added += 2
        elif step == "restart":
            store.close()
            store = open_store(folder, most_bytes=2000)
        elif batch := store.next_batch():
            receiver.take(batch.message)
            if step == "send":
                store.acknowledge(batch.number)
    store.add(window(0))
    receiver.drain(store)
    # What was dropped after it had been received is counted on both sides.
    assert receiver.windows <= added + 1 <= receiver.windows + receiver.dropped
    if not receiver.dropped:
        assert receiver.windows == added + 1
    store.close()


def test_a_damaged_store_is_begun_anew(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(window(0))
    first = store.next_batch()
    store.close()
    path = tmp_path / "telemetry.db"
    path.write_bytes(b"not a database" * 300)
    store = open_store(tmp_path)
    assert store.was_damaged
    store.add(window(1))
    second = store.next_batch()
    assert first
    assert second
    streams = {parse_batch(batch.message, where="").stream for batch in (first, second)}
    assert len(streams) == 2
    store.close()


def test_gauges_merge_to_the_worst_and_the_mean(tmp_path: Path) -> None:
    one = DeviceGauges(
        cpu_share=0.2, memory_used_bytes=5, temperature_c=None, disk_free_bytes=9, samples=3
    )
    two = DeviceGauges(cpu_share=0.6, memory_used_bytes=4, temperature_c=61.5, disk_free_bytes=7)
    assert one.merge(two) == DeviceGauges(
        cpu_share=0.3, memory_used_bytes=5, temperature_c=61.5, disk_free_bytes=7, samples=4
    )
    store = open_store(tmp_path)
    store.add(Window(start=0, end=HOUR_SECONDS, device=one.merge(two)))
    batch = store.next_batch()
    assert batch
    ((_, found),) = parse_batch(batch.message, where="").records
    assert found.device == one.merge(two)
    store.close()


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (b"{", "no JSON"),
        (b"[" * 5000, "no JSON"),
        (b" " * (MAX_BATCH_BYTES + 2000), "larger than"),
        (b'{"device":"d/1","stream":"x","dropped":-1,"records":7}', "device:.*stream:.*dropped"),
        (
            b'{"device":"d","stream":"0123456789abcdef","dropped":0,"records":[{"sequence":0,'
            b'"window":{"start":5,"end":1,"model":{"latency":[[900,1]],"features":{"x":'
            b'{"expected":[1],"counts":[1.5,2]}}}}}]}',
            "sequence:.*end:.*bundle:.*version:.*latency:.*requests",
        ),
    ],
)
def test_a_batch_that_is_none_is_refused_with_all_its_faults(message: bytes, fault: str) -> None:
    with pytest.raises(VerificationError, match=fault):
        parse_batch(message, where="test")


@given(st.binary(max_size=200))
def test_no_bytes_bring_the_reader_down(data: bytes) -> None:
    with pytest.raises(VerificationError):
        parse_batch(data, where="test")
