"""The parts of a version beside, each alone: comparing, travelling, handing over."""

from __future__ import annotations

import errno
import json
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_agent.machine import ShadowEnded
from edgekit_agent.plans import ModelPlan
from edgekit_agent.shadow.counting import Comparison, Meaning
from edgekit_agent.shadow.frames import Frame, can_travel, receive_frame, send_frame
from edgekit_agent.shadow.place import close_place, find_place, open_place, shadow_folder
from edgekit_agent.shadow.plans import Beside
from edgekit_agent.shadow.tap import Tap, Taps
from edgekit_agent.shadow.watchers import Watchers
from edgekit_runtime.orders import ShadowOrder

PLAIN = Meaning(task="regression", labels={})
CLASSES = Meaning(task="classification", labels={})
CATS = Meaning(task="classification", labels={"y": ("cat", "dog")})
DOGS = Meaning(task="classification", labels={"y": ("dog", "cat")})


def compare(
    served: Any, answer: Any, *, meaning: Meaning = PLAIN, candidate: Meaning = PLAIN
) -> Comparison:
    made = Comparison(run="r", active="1.0.0", tolerance=0.05, candidate=candidate)
    made.add(
        {"y": np.asarray(served)},
        {"y": np.asarray(answer)},
        meaning=meaning,
        latency_ms=2.0,
        active_latency_ms=1.0,
    )
    return made


@pytest.mark.parametrize(
    ("served", "answer", "meaning", "candidate", "agrees"),
    [
        pytest.param([[10.0, 0.0]], [[10.4, 0.3]], PLAIN, PLAIN, True, id="within tolerance"),
        pytest.param([[10.0, 0.0]], [[10.6, 0.0]], PLAIN, PLAIN, False, id="beyond tolerance"),
        pytest.param([[0.0, 0.0]], [[0.0, 0.0]], PLAIN, PLAIN, True, id="nothing at all"),
        pytest.param([[0.6, 0.4]], [[0.9, 0.1]], CLASSES, CLASSES, True, id="same class"),
        pytest.param([[0.6, 0.4]], [[0.4, 0.6]], CLASSES, CLASSES, False, id="other class"),
        pytest.param([[0.6, 0.4]], [[0.4, 0.6]], CATS, DOGS, True, id="same name elsewhere"),
        pytest.param([[0.6, 0.4]], [[0.6, 0.4]], CATS, DOGS, False, id="same place, other name"),
        pytest.param([[0.6, 0.4]], [[0.5, 0.3, 0.2]], CATS, CATS, True, id="a class more"),
        pytest.param([3], [3], PLAIN, PLAIN, True, id="same number"),
        pytest.param([100], [101], PLAIN, PLAIN, False, id="other number"),
        pytest.param(["cat"], ["cat"], PLAIN, PLAIN, True, id="same word"),
        pytest.param(["cat"], ["dog"], PLAIN, PLAIN, False, id="other word"),
        pytest.param([1.0, 2.0], [1.0], PLAIN, PLAIN, False, id="other shape"),
    ],
)
def test_what_agrees(
    served: Any, answer: Any, meaning: Meaning, candidate: Meaning, *, agrees: bool
) -> None:
    counts = compare(served, answer, meaning=meaning, candidate=candidate).counts
    assert (counts.compared, counts.agreed) == (1, int(agrees))


def test_differences_are_measured_for_each_output() -> None:
    counts = compare([[4.0, -8.0]], [[5.0, -8.0]]).counts
    assert counts.outputs["y"].largest == 1.0
    assert counts.outputs["y"].relative == 0.125
    assert sum(counts.outputs["y"].gaps.values()) == 1
    assert sum(counts.latency.values()) == 1
    assert max(counts.latency) > max(counts.active_latency)


def test_an_output_that_only_one_of_them_has_is_no_agreement() -> None:
    made = Comparison(run="r", active="1.0.0", tolerance=1.0, candidate=PLAIN)
    served = {"y": np.ones(2), "z": np.ones(2)}
    made.add(served, {"y": np.ones(2)}, meaning=PLAIN, latency_ms=1.0, active_latency_ms=1.0)
    assert (made.counts.compared, made.counts.agreed) == (1, 0)


def test_what_was_not_answered_is_counted() -> None:
    made = Comparison(run="r", active="1.0.0", tolerance=1.0, candidate=PLAIN)
    made.fail(insane=True)
    made.fail(insane=False)
    made.drop(3)
    counts = made.counts
    assert (counts.compared, counts.insane, counts.failed, counts.dropped) == (2, 1, 1, 3)


@given(st.data())
def test_arrays_travel(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["float32", "int64", "bool", "uint8", "complex64", "U3"]))
    shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
    array = np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)
    here, there = socket.socketpair()
    with here, there:
        send_frame(here, Frame({"dropped": 2}, {"input:x": array, "output:y": array.T}))
        found = receive_frame(there)
    assert found.head == {"dropped": 2}
    assert found.arrays["input:x"].dtype == array.dtype
    np.testing.assert_array_equal(found.arrays["input:x"], array)
    np.testing.assert_array_equal(found.arrays["output:y"], array.T)


@pytest.mark.parametrize(
    "head",
    [
        b"no json",
        b"[]",
        b'{"head": {}, "arrays": [["x", "O", [1]]]}',
        b'{"head": {}, "arrays": [["x", "f4", [-1]]]}',
        b'{"head": {}, "arrays": [["x", "f4", [1000000000]]]}',
        b'{"head": {}, "arrays": [["x", "no type", [1]]]}',
    ],
)
def test_what_is_no_message_is_refused(head: bytes) -> None:
    here, there = socket.socketpair()
    with there:
        here.sendall(len(head).to_bytes(4, "big") + head)
        here.close()
        with pytest.raises(OSError):  # noqa: PT011 - each is another fault of the line
            receive_frame(there)
    assert not can_travel({"x": np.array([object()])})


def test_a_place_is_found_wherever_it_lies_and_not_when_nobody_is_there(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 50) / "shadow"
    assert find_place(folder, "double") is None
    with open_place(folder, "double"):
        channel = find_place(folder, "double")
        assert channel is not None
        channel.close()
    # It was killed: what is left leads nowhere, and is replaced.
    assert find_place(folder, "double") is None
    with open_place(folder, "double"):
        close_place(folder, "double")
        assert find_place(folder, "double") is None


class OtherEnd:
    """What runs beside, as far as a server sees it."""

    def __init__(self, channel: socket.socket, **hello: Any) -> None:
        self.channel = channel
        channel.settimeout(30)
        usual = {"active": "digest", "rate": 1.0, "max_per_second": 1e9}
        channel.sendall(json.dumps(usual | hello).encode() + b"\n")


def wait_until(holds: Any) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError("it never held")


@contextmanager
def tapped(**hello: Any) -> Iterator[tuple[Tap, OtherEnd]]:
    here, there = socket.socketpair()
    output = SimpleNamespace(name="y", labels=("cat", "dog"))
    model = SimpleNamespace(
        plan=SimpleNamespace(digest="digest"),
        manifest=SimpleNamespace(task="classification", outputs=(output,)),
    )
    tap = Tap(model, here, chance=random.Random(0))  # type: ignore[arg-type]  # noqa: S311
    with there:
        yield tap, OtherEnd(there, **hello)
    wait_until(lambda: tap.ended)


def test_requests_are_handed_over_as_they_were() -> None:
    with tapped() as (tap, end):
        assert receive_frame(end.channel).head == {
            "task": "classification",
            "labels": {"y": ["cat", "dog"]},
        }
        wait_until(lambda: tap._rate > 0)
        memory = np.ones(3, np.float32)
        tap.offer({"x": memory}, {"y": memory * 2}, 1.5)
        # The next request is read into the same memory.
        memory[:] = 7
        frame = receive_frame(end.channel)
        assert frame.head == {"latency_ms": 1.5, "dropped": 0}
        np.testing.assert_array_equal(frame.arrays["input:x"], np.ones(3))
        np.testing.assert_array_equal(frame.arrays["output:y"], np.full(3, 2.0))


def test_one_that_does_not_read_costs_inputs_and_never_waits() -> None:
    with tapped() as (tap, end):
        receive_frame(end.channel)
        wait_until(lambda: tap._rate > 0)
        large = np.zeros(1 << 20, np.uint8)
        for _ in range(50):
            # Would never return if it waited: nobody reads.
            tap.offer({"x": large}, {}, 1.0)
        assert tap._queue.full()
        missing = tap._dropped
        taken, lost = 0, 0
        while taken + lost + missing < 50:
            lost += receive_frame(end.channel).head["dropped"]
            taken += 1
        assert taken <= 10
        tap.offer({"x": large[:1]}, {}, 1.0)
        last = receive_frame(end.channel)
        assert last.arrays["input:x"].size == 1
        assert last.head["dropped"] == missing


def test_no_more_are_handed_over_than_may_be() -> None:
    with tapped(max_per_second=0.001) as (tap, end):
        receive_frame(end.channel)
        wait_until(lambda: tap._rate > 0)
        for _ in range(10):
            tap.offer({"x": np.ones(1)}, {}, 1.0)
        assert tap._dropped == 9


def test_chance_decides_and_nothing_is_handed_over_before_it_is_known_how_often() -> None:
    here, there = socket.socketpair()
    with there:
        tap = Tap(SimpleNamespace(plan=SimpleNamespace(digest="digest")), here)  # type: ignore[arg-type]
        tap.offer({"x": np.ones(1)}, {}, 1.0)
        assert tap._queue.empty()
        assert tap._dropped == 0
    wait_until(lambda: tap.ended)
    with tapped(rate=0.25) as (tap, end):
        receive_frame(end.channel)
        wait_until(lambda: tap._rate > 0)
        for _ in range(1000):
            # Larger than may travel: chosen, counted, and not sent.
            tap.offer({"x": np.broadcast_to(np.uint8(0), (65 << 20,))}, {}, 1.0)
        assert 200 <= tap._dropped <= 300


def test_what_runs_beside_another_version_is_left_alone() -> None:
    with tapped(active="another") as (tap, end):
        wait_until(lambda: tap.ended)
        assert end.channel.recv(1) == b""


def test_no_memory_for_a_copy_costs_an_input_and_no_answer() -> None:
    class Lean:
        dtype, nbytes = np.dtype("f4"), 4

        def copy(self) -> None:
            raise MemoryError

    with tapped(rate=1.0) as (tap, _):
        wait_until(lambda: tap._rate == 1.0)
        tap.offer({"x": Lean()}, {}, 1.0)  # type: ignore[dict-item]
        assert tap._dropped == 1


def test_what_runs_beside_waits_while_the_server_can_have_no_more_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    model: Any = SimpleNamespace(tap=None)
    with open_place(shadow_folder(tmp_path), "double"):
        Taps(tmp_path).look({"double": model})
    assert model.tap is None


def test_nothing_is_found_while_no_more_files_can_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with open_place(tmp_path, "double"):
        monkeypatch.setattr(socket, "socket", none)
        assert find_place(tmp_path, "double") is None


def test_a_device_that_cannot_start_one_says_so_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    plan = ModelPlan(
        bundle="double", version="2", digest="d", folder="f", variant="v", runtime="r", threads=1
    )
    order = ShadowOrder(version="2", digest="0" * 64, length=1, run="r1")
    beside = Beside(candidate=plan, active=plan, order=order, seconds=0.0)
    watchers = Watchers(tmp_path, wake=lambda: None, free_bytes=lambda: None)
    monkeypatch.setattr(subprocess, "Popen", none)
    before = len(list(Path("/proc/self/fd").iterdir()))
    told = watchers.tick({"double": beside}, 0.0)
    assert told == [
        (
            "double",
            ShadowEnded(
                digest="d", reason="this device cannot start it: Resource temporarily unavailable"
            ),
        )
    ]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
