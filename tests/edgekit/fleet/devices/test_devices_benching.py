"""What a device measured, beside what was predicted, and what is learnt from both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgekit.cli import edgekit
from edgekit.fleet.devices.benching import (
    calibrate_device,
    held_version,
    measurements_of,
    predict_measured,
    profile_name,
    read_measured,
)
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.requests import Asked, RequestBook
from edgekit.fleet.folder import Fleet
from edgekit.fleet.release import release_bundle
from edgekit.fleet.service import benching as service_benching
from edgekit.fleet.store.database import Database, open_fleet_database
from edgekit_benchmarks.profile import load_profiles
from edgekit_runtime.errors import EdgekitError, GateFailedError, UsageError
from edgekit_runtime.reports import BundleState, DeviceState, Phase, ShadowPhase, ShadowState
from edgekit_runtime.requests import DeviceReply, RequestKind
from tests.simulators.convolving_models import write_convolving
from tests.simulators.tiny_bundles import GOLDEN, affine_model, write_measured_bundle

VARIANT = "plain"
ANSWER = {
    "bundle": "meter",
    "version": "1.0.0",
    "variant": VARIANT,
    "runtime": "onnxruntime",
    "runtime_version": "1.32.0",
    "threads": 1,
    "board": "Raspberry Pi 4 Model B Rev 1.4",
    "median_ms": 0.25,
    "peak_bytes": 80_000_000,
}


@pytest.fixture(autouse=True)
def _private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_PROFILES", str(tmp_path / "profiles"))


@pytest.fixture
def database(fleet: Fleet) -> Any:
    """The fleet's own, as the command opens it."""
    opened = open_fleet_database(fleet)
    yield opened
    opened.close()


@pytest.fixture
def released(fleet: Fleet, tmp_path: Path) -> Path:
    """The model of a released bundle; two versions of it, and another bundle."""
    model = write_convolving(tmp_path / "model.onnx")
    for name, version, data in (
        ("meter", "1.0.0", model.read_bytes()),
        ("meter", "2.0.0", model.read_bytes()),
        ("tiny", "1.0.0", affine_model(2.0)),
    ):
        bundle = tmp_path / f"{name}-{version}.ekb"
        write_measured_bundle(bundle, name, version, data, inputs=GOLDEN, outputs=GOLDEN)
        release_bundle(fleet, bundle)
    return model


@pytest.fixture
def book(database: Database, released: Path) -> RequestBook:
    serving = BundleState(phase=Phase.ACTIVE, active="1.0.0", variant=VARIANT)
    bundles = {"meter": serving, "tiny": serving}
    state = DeviceState(device="Oven_7", online=True, bundles=bundles)
    Inventory(database, actor="test").hear([state])
    return RequestBook(database, actor="test")


def answer(book: RequestBook, **changes: Any) -> Asked:
    asked = book.ask("Oven_7", RequestKind.BENCH, {"bundle": "meter"})
    reply = DeviceReply(device="Oven_7", number=asked.number, ok=True, result=ANSWER | changes)
    (done,) = book.take([reply])
    return done


def test_a_model_is_found_by_name_version_file_and_bundle(
    book: RequestBook, fleet: Fleet, released: Path, tmp_path: Path
) -> None:
    device = Inventory(book.database, actor="test").get("Oven_7")
    for model in ("meter", "meter@1.0.0", str(released), str(tmp_path / "meter-1.0.0.ekb")):
        assert held_version(fleet, device, model) == ("meter", "1.0.0")
    other = tmp_path / "other.onnx"
    other.write_bytes(affine_model(3.0))
    for model, why in (
        ("meter@2.0.0", "does not hold meter 2.0.0"),
        ("nothing", "no bundle 'nothing'"),
        (str(other), "made of the file other.onnx"),
        (str(tmp_path / "meter-2.0.0.ekb"), "made of the file meter-2.0.0.ekb"),
    ):
        with pytest.raises(UsageError, match=why) as caught:
            held_version(fleet, device, model)
        assert caught.value.where == "it holds meter 1.0.0, tiny 1.0.0"
        assert "edgekit release add" in str(caught.value.fix)


def test_what_runs_beside_is_held_too(book: RequestBook, fleet: Fleet, tmp_path: Path) -> None:
    inventory = Inventory(book.database, actor="test")
    for phase, held in ((ShadowPhase.FETCHING, False), (ShadowPhase.WATCHING, True)):
        beside = ShadowState(run="r", version="2.0.0", phase=phase)
        bundle = BundleState(phase=Phase.ACTIVE, active="1.0.0", variant=VARIANT, shadow=beside)
        inventory.hear([DeviceState(device="Oven_7", online=True, bundles={"meter": bundle})])
        device = inventory.get("Oven_7")
        assert held_version(fleet, device, "meter") == ("meter", "1.0.0")
        for model in ("meter@2.0.0", str(tmp_path / "meter-2.0.0.ekb")):
            if held:
                assert held_version(fleet, device, model) == ("meter", "2.0.0")
            else:
                with pytest.raises(UsageError, match="cannot measure that"):
                    held_version(fleet, device, model)


def test_an_older_agent_that_measures_what_serves_is_not_believed(book: RequestBook) -> None:
    asked = book.ask("Oven_7", RequestKind.BENCH, {"bundle": "meter", "version": "2.0.0"})
    book.take([DeviceReply(device="Oven_7", number=asked.number, ok=True, result=ANSWER)])
    done = book.get("Oven_7", asked.number)
    with pytest.raises(GateFailedError, match=r"version: is not 2\.0\.0, which was asked"):
        read_measured(done, book.answer("Oven_7", asked.number))


@pytest.mark.parametrize(
    "changes",
    [
        {"median_ms": 0},
        {"median_ms": "quick"},
        {"median_ms": float("nan")},
        {"threads": 0},
        {"bundle": 7},
        {"variant": "x" * 500},
        {"peak_bytes": -1},
    ],
)
def test_a_device_that_answers_nonsense_is_named(book: RequestBook, changes: Any) -> None:
    done = answer(book, **changes)
    (name,) = changes
    with pytest.raises(GateFailedError, match=f"Oven_7 answered nonsense: .*{name}"):
        read_measured(done, book.answer("Oven_7", done.number))
    assert list(measurements_of(book.database, "Oven_7")) == []


def test_a_device_that_could_not_says_why(book: RequestBook) -> None:
    asked = book.ask("Oven_7", RequestKind.BENCH, {"bundle": "meter"})
    refusal = DeviceReply(
        device="Oven_7", number=asked.number, ok=False, result={"error": "it ran out of memory"}
    )
    (done,) = book.take([refusal])
    with pytest.raises(GateFailedError, match="ran out of memory"):
        read_measured(done, book.answer("Oven_7", done.number))


def test_a_profile_is_learnt_from_all_that_a_device_measured(
    book: RequestBook, fleet: Fleet
) -> None:
    answer(book, median_ms=9.0)
    newest = answer(book)
    measured = list(measurements_of(book.database, "Oven_7"))
    assert [item.median_ms for item in measured] == [0.25, 9.0]
    made = calibrate_device(fleet, measured, base="raspberrypi4")
    assert (made.profile, made.base) == ("raspberrypi4-oven-7", "raspberrypi4")
    (anchor,) = made.anchors
    # One model, however often: the newest measurement of it.
    assert (anchor.models, anchor.runtime_version, anchor.threads) == (1, "1.32.0", 1)
    (profile,) = load_profiles("raspberrypi4-oven-7")
    (before,) = predict_measured(fleet, measured[0], ["raspberrypi4"])[1]
    (after,) = predict_measured(fleet, measured[0], [profile.name])[1]
    assert after.latency_ms == pytest.approx(0.25)
    assert anchor.factor == pytest.approx(0.25 / before.latency_ms, rel=0.05)
    assert after.low_ms < 0.25 < after.high_ms
    origin = profile.calibrations[0].sources[0]
    assert origin.startswith("measured on the device Oven_7 of the fleet plant-7, ")
    assert str(newest.number) in origin
    # What was retired since, or never was, keeps nobody from learning from the rest.
    gone = replace(measured[1], version="0.9.0")
    other = replace(measured[1], variant="of another bundle")
    made = calibrate_device(fleet, [measured[0], gone, other], base="raspberrypi4")
    assert made.anchors == (anchor,)
    with pytest.raises(UsageError, match=r"meter 0\.9\.0 is not released"):
        calibrate_device(fleet, [gone, measured[0]], base="raspberrypi4")
    # Learnt from the learnt profile, it is the same again: no factor counts twice.
    again = calibrate_device(fleet, measured, base=made.profile)
    assert (again.profile, again.path) == (made.profile, made.path)
    assert again.anchors[0].factor == pytest.approx(anchor.factor)
    assert load_profiles(made.profile)[0].title == profile.title


@pytest.mark.parametrize(
    ("board", "device", "name"),
    [
        ("raspberrypi4", "oven-001", "raspberrypi4-oven-001"),
        ("raspberrypi4-oven-001", "oven-001", "raspberrypi4-oven-001"),
        ("pixel1", "A.b__C-", "pixel1-a-b-c"),
    ],
)
def test_profiles_are_named_after_board_and_device(board: str, device: str, name: str) -> None:
    assert profile_name(board, device) == name


class Command:
    """`edgekit bench --device`, and a device that answers as it is told."""

    def __init__(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: dict[str, Any] | None = dict(ANSWER)
        self._fleet = fleet
        monkeypatch.setattr(service_benching, "attend", self._attend)

    def _attend(
        self, _fleet: Fleet, database: Database, asked: Sequence[Asked], **_: Any
    ) -> tuple[Asked, ...]:
        book = RequestBook(database, actor="test")
        if self.answer is not None:
            book.take(
                DeviceReply(device=i.device, number=i.number, ok=True, result=self.answer)
                for i in asked
            )
        return tuple(book.get(item.device, item.number) for item in asked)

    def __call__(self, *arguments: str, fails: type[EdgekitError] | None = None) -> str:
        options = ("--device", "Oven_7", "--fleet", str(self._fleet.path))
        done = CliRunner().invoke(edgekit, ["bench", *arguments, *options])
        if fails is None:
            assert done.exit_code == 0, (done.output, done.exception)
            return done.stdout
        assert isinstance(done.exception, fails), (done.output, done.exception)
        return f"{done.stdout}\n{done.exception}"


@pytest.fixture
def bench(book: RequestBook, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(fleet, monkeypatch)


def test_measured_stands_beside_predicted_and_the_board_is_guessed(bench: Command) -> None:
    text = bench("meter")
    assert "measured on that device" in text
    assert "0.25 ms" in text
    assert "Raspberry Pi 4 Model B" in text
    assert "--profile raspberrypi4-oven-7" in text
    document = json.loads(bench("meter", "--json"))
    assert document["device"] == "Oven_7"
    (prediction,) = document["models"][0]["predictions"]
    assert prediction["holds"] == (prediction["low_ms"] <= 0.25 <= prediction["high_ms"])
    kept = json.loads(bench("meter", "--json", "--no-calibrate"))
    assert kept["calibrated"] is None


def test_without_a_known_board_nothing_is_predicted(bench: Command) -> None:
    bench.answer = ANSWER | {"board": ""}
    text = bench("meter")
    assert "no profile is known of its board" in text
    assert "Wrote" not in text


def test_what_was_measured_is_shown_though_it_cannot_be_predicted(bench: Command) -> None:
    bench.answer = ANSWER | {"threads": 64}
    text = bench("meter")
    assert "0.25 ms" in text
    assert "nothing can be predicted: " in text
    assert "threads is 64" in text


def test_from_what_a_call_costs_no_profile_is_made(bench: Command) -> None:
    bench.answer = ANSWER | {"bundle": "tiny"}
    text = bench("tiny")
    assert "Raspberry Pi 4 Model B" in text
    assert "No profile is made: nothing can be learnt from models as small as these" in text
    document = json.loads(bench("tiny", "--json"))
    assert (document["calibrated"], document["note"][:7]) == (None, "nothing")


def test_limits_make_it_a_gate(bench: Command) -> None:
    bench("meter", "--max-latency-ms", "1", "--max-memory-mb", "90")
    text = bench("meter", "--max-latency-ms", "0.1", "--max-memory-mb", "70", fails=GateFailedError)
    assert "0.25 ms, above 0.1" in text
    assert "80.0 MB, above 70 MB" in text


def test_a_device_that_is_silent_is_named_with_the_request(bench: Command) -> None:
    bench.answer = None
    text = bench("meter", "--wait", "1", fails=EdgekitError)
    assert "Oven_7 did not answer within 1 seconds; it was not there to be asked" in text


def test_what_means_nothing_for_a_device_is_refused_before_it_is_asked(
    bench: Command, book: RequestBook
) -> None:
    text = bench("meter", "--sustained", "10s", "--threads", "4", fails=UsageError)
    assert "--threads, --sustained are" in text
    assert "family" in bench("meter", "--profile", "raspberrypi", fails=UsageError)
    assert "no device profile" in bench("meter", "--profile", "toaster", fails=UsageError)
    assert book.of("Oven_7") == ()
