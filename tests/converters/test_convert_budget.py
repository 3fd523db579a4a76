"""A budget is kept by repairs, in the engines of both formats; or the run says that it is not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from edgekit_converters import intake, shortcomings, tuning
from edgekit_converters.accuracy import AccuracyBudget
from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.convert import ConversionReport, ConversionRequest, Precision, convert_model
from edgekit_converters.goal import AccuracyGoal
from edgekit_converters.litert.layout import BorderLayout
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.ranges import DEFAULT_METHOD, RangeMethod
from edgekit_converters.tuning import RepeatedBatches
from edgekit_runtime.bundle.archive import write_bundle
from edgekit_runtime.bundle.manifest import MANIFEST_NAME, Step, parse_manifest
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.session import open_session
from tests.converters.repair.small_networks import Trained, broken, trained
from tests.simulators.tiny_bundles import affine_bundle

ONNX, LITERT = ModelFormat.ONNX, ModelFormat.LITERT
HALF_A_POINT = AccuracyBudget(drop=0.005)


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """A network and its data as a user has them."""

    model: Path
    calibration: Path
    evaluation: Path


def _saved(network: Trained, folder: Path) -> Files:
    files = Files(folder / "net.onnx", folder / "calibration.npz", folder / "evaluation.npz")
    onnx.save_model(network.model, str(files.model))
    np.savez(files.calibration, x=np.concatenate([batch["x"] for batch in network.calibration]))
    images = np.concatenate([batch["x"] for batch in network.evaluation])
    np.savez(files.evaluation, x=images, labels=network.labels)
    return files


@pytest.fixture
def fragile(tmp_path: Path) -> Files:
    """A trained network that plain int8 breaks."""
    return _saved(broken()[0], tmp_path)


@pytest.fixture
def sturdy(tmp_path: Path) -> Files:
    """One that it does not."""
    return _saved(trained(spread=0.0), tmp_path)


def _convert(files: Files, output: Path, **changes: Any) -> ConversionReport:
    progress = changes.pop("progress", lambda _: None)
    options: dict[str, Any] = {
        "targets": (ONNX, LITERT), "precisions": (Precision.INT8,),
        "calibration": files.calibration, "evaluation": files.evaluation,
        # What others do by default: it loses the most, and takes the least time.
        "goal": AccuracyGoal(budget=HALF_A_POINT), "range_method": RangeMethod.MIN_MAX, **changes,
    }  # fmt: skip
    request = ConversionRequest(source=files.model, output=output, **options)
    return convert_model(request, progress=progress)


def test_a_network_that_int8_breaks_is_mended_in_both_formats(
    fragile: Files, tmp_path: Path
) -> None:
    report = _convert(fragile, tmp_path / "out")
    (scheme,) = report.schemes
    assert not report.shortfall
    assert scheme.tuned.repairs
    for plain in scheme.tuned.plain:
        assert plain.paired is not None
        assert plain.paired.drop > 0.2
    for artifact in report.artifacts:
        paired = artifact.paired
        assert paired is not None
        assert paired.drop <= 0.005
        assert paired.samples == len(np.load(fragile.evaluation)["labels"])
        # What is published is what was judged.
        with np.load(fragile.evaluation) as data:
            scores = next(iter(open_session(Path(artifact.path)).run({"x": data["x"]}).values()))
            assert float(np.mean(scores.argmax(axis=1) == data["labels"])) == paired.after
    assert scheme.diagnosis is not None
    named = {layer.noise.node for layer in scheme.diagnosis.culprits}
    assert {second for _, second in broken()[1]} <= named
    written = json.loads((tmp_path / "out" / "net.report.json").read_text())
    assert written == report.to_json()
    (quantization,) = written["quantization"]
    assert quantization["met"] is True
    assert quantization["plan"]["ranges"]
    assert quantization["search"]["best"]["repairs"] == list(scheme.tuned.repairs)
    assert quantization["diagnosis"]["culprits"]
    page = (Path(__file__).parents[2] / "docs" / "converting.md").read_text()
    described = page.split("## The report")[1]
    parts = [written, written["artifacts"][0], written["artifacts"][0]["accuracy"], quantization]
    for key in (key for part in parts for key in part):
        assert f"{key}`" in described or f"[{key}]`" in described or f"`{key}[]`" in described, key


def test_a_depthwise_network_stays_within_a_point_at_full_int8(tmp_path: Path) -> None:
    files = _saved(trained(spread=2.6), tmp_path)
    goal = AccuracyGoal(budget=AccuracyBudget(drop=0.01))
    report = _convert(files, tmp_path / "out", goal=goal)
    (scheme,) = report.schemes
    for plain, artifact in zip(scheme.tuned.plain, report.artifacts, strict=True):
        assert plain.paired is not None
        assert plain.paired.drop >= 0.03
        assert artifact.paired is not None
        assert artifact.paired.drop <= 0.01
    plan = scheme.tuned.plan
    assert plan is not None
    assert (plan.scheme, plan.keep_float, plan.wide) == (Scheme.INT8, frozenset(), frozenset())


def test_what_keeps_the_budget_is_left_as_it_is(sturdy: Files, tmp_path: Path) -> None:
    report = _convert(sturdy, tmp_path / "out", precisions=(Precision.INT8, Precision.FLOAT16))
    assert [scheme.tuned.search for scheme in report.schemes] == [None, None]
    assert not report.shortfall
    plain = _convert(sturdy, tmp_path / "plain", goal=AccuracyGoal())
    assert plain.artifacts[0].sha256 == report.artifacts[0].sha256


def test_what_a_user_fixed_stays_fixed(fragile: Files, tmp_path: Path) -> None:
    first = onnx.load(str(fragile.model)).graph.node[0].name
    report = _convert(
        fragile, tmp_path / "out", precisions=(Precision.MIXED,), keep_float=(first,), io="int8"
    )
    plan = report.schemes[0].tuned.plan
    assert plan is not None
    assert first in plan.keep_float
    assert plan.io == "int8"
    for artifact in report.artifacts:
        assert open_session(Path(artifact.path)).inputs[0].dtype == "int8"
        assert artifact.paired is not None
        assert artifact.paired.drop <= 0.005


def test_channels_last_are_repaired_alike(fragile: Files, tmp_path: Path) -> None:
    report = _convert(fragile, tmp_path / "out", layout=BorderLayout.NHWC)
    assert not report.shortfall
    onnx_file, litert_file = report.artifacts
    assert (dict(onnx_file.axes), dict(litert_file.axes)) == ({}, {"x": (0, 2, 3, 1)})
    assert open_session(Path(litert_file.path)).inputs[0].shape == (None, 8, 8, 1)


def test_a_file_without_an_onnx_form_is_judged_and_not_repaired(
    fragile: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "net.tflite"
    made: dict[str, Any] = {
        "targets": (LITERT,), "goal": AccuracyGoal(), "range_method": DEFAULT_METHOD,
    }  # fmt: skip
    _convert(fragile, source, precisions=(Precision.FLOAT32,), **made)

    def refuse(*_: object) -> None:
        raise UnsupportedModelError("it has an operator that ONNX lacks")

    monkeypatch.setattr(intake, "import_source", refuse)
    steps: list[str] = []
    report = _convert(
        dataclasses.replace(fragile, model=source), tmp_path / "out", targets=(LITERT,),
        progress=steps.append,
    )  # fmt: skip
    assert "no repair can be tried: the file has no ONNX form" in steps
    assert report.shortfall.startswith("int8 loses")
    assert report.schemes[0].tuned.plan is None
    assert report.to_json()["quantization"][0]["plan"] is None  # type: ignore[index]


# Data to judge by.


def test_without_evaluation_data_answers_are_compared_on_samples_held_out(
    fragile: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    batches = CalibrationSet.batches

    def watched(self: CalibrationSet) -> Any:
        seen.append(self.count)
        return batches(self)

    monkeypatch.setattr(CalibrationSet, "batches", watched)
    report = _convert(fragile, tmp_path / "out", evaluation=None)
    evaluation = report.evaluation
    assert evaluation is not None
    assert (evaluation.metric, evaluation.origin) == ("agreement", "held-out calibration samples")
    total = len(np.load(fragile.calibration)["x"])
    assert set(seen) == {evaluation.samples, total - evaluation.samples}
    assert not report.shortfall
    assert all(a.agreement is not None and a.agreement >= 0.995 for a in report.artifacts)
    assert all(artifact.accuracy is None for artifact in report.artifacts)


def test_labels_of_the_calibration_data_serve_where_they_are_asked_for(
    sturdy: Files, tmp_path: Path
) -> None:
    labelled = dataclasses.replace(sturdy, calibration=sturdy.evaluation)
    goal = AccuracyGoal(metric="top1", budget=HALF_A_POINT)
    report = _convert(labelled, tmp_path / "out", evaluation=None, goal=goal)
    assert report.evaluation is not None
    assert report.evaluation.metric == "top1"
    assert report.artifacts[0].accuracy is not None


def test_too_few_samples_to_hold_some_out(sturdy: Files, tmp_path: Path) -> None:
    np.savez(sturdy.calibration, x=np.load(sturdy.calibration)["x"][:6])
    report = _convert(sturdy, tmp_path / "out", evaluation=None)
    assert report.evaluation is not None
    assert (report.evaluation.samples, report.evaluation.origin) == (6, "calibration samples")
    assert any("looks better than it is" in warning for warning in report.warnings)
    assert any("only 6 calibration sample" in warning for warning in report.warnings)


def test_evaluation_data_that_was_calibrated_with(sturdy: Files, tmp_path: Path) -> None:
    with np.load(sturdy.evaluation) as data:
        images, labels = data["x"], data["labels"]
    np.savez(sturdy.calibration, x=images[:60])
    np.savez(sturdy.evaluation, x=images[20:], labels=labels[20:])
    report = _convert(sturdy, tmp_path / "out")
    assert any(w.startswith(f"40 of the {len(images) - 20} eval") for w in report.warnings)


@pytest.mark.parametrize("kind", ["calibration", "evaluation"])
def test_data_that_is_preprocessed_otherwise(kind: str, sturdy: Files, tmp_path: Path) -> None:
    with np.load(sturdy.evaluation) as data:
        images, labels = data["x"], data["labels"]
    np.savez(tmp_path / "bytes.npz", x=images * 255, labels=labels)
    report = _convert(
        sturdy, tmp_path / "out", goal=AccuracyGoal(), **{kind: tmp_path / "bytes.npz"}
    )
    (told,) = [text for text in report.warnings if "with all values divided by 255" in text]
    assert f"of the {kind} samples as they are" in told


def test_evaluation_data_in_a_table_with_names_of_classes(sturdy: Files, tmp_path: Path) -> None:
    with np.load(sturdy.evaluation) as data:
        rows = data["x"].reshape(len(data["x"]), -1)[:80]
        names = [f"digit {label}" for label in data["labels"][:80]]
    lines = [",".join([*(f"x.{at}" for at in range(64)), "label"])]
    lines += [",".join([*map(str, row), name]) for row, name in zip(rows, names, strict=True)]
    (tmp_path / "evaluation.csv").write_text("\n".join(lines))
    report = _convert(sturdy, tmp_path / "out", evaluation=tmp_path / "evaluation.csv")
    assert any("digit 0 = 0, digit 1 = 1, digit 2 = 2, ..." in w for w in report.warnings)
    assert all(a.accuracy is not None and a.accuracy > 0.9 for a in report.artifacts)


def _bundle(path: Path, *steps: Step) -> Path:
    files = affine_bundle("digits", "1.0.0", 2.0)
    manifest = parse_manifest(files.pop(MANIFEST_NAME), where="test")
    write_bundle(path, dataclasses.replace(manifest, preprocessing=steps), files)
    return path


def test_folders_of_images_with_a_bundles_preprocessing(sturdy: Files, tmp_path: Path) -> None:
    with np.load(sturdy.evaluation) as data:
        for number, (image, label) in enumerate(zip(data["x"][:120], data["labels"], strict=False)):
            file = tmp_path / "images" / str(label) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 * image[0]).astype(np.uint8)).save(file)
    step = Step(op="affine", tensor="x", parameters={"scale": 1 / 255})
    options: dict[str, Any] = {
        "calibration": tmp_path / "images", "evaluation": tmp_path / "images",
        "goal": AccuracyGoal(),
    }  # fmt: skip
    bare = _convert(sturdy, tmp_path / "bare", **options)
    assert any("no preprocessing.json" in warning for warning in bare.warnings)
    assert any("with all values divided by 255" in warning for warning in bare.warnings)
    bundle = _bundle(tmp_path / "digits.ekb", step)
    report = _convert(sturdy, tmp_path / "out", preprocessing=bundle, **options)
    assert not any("preprocess" in warning for warning in report.warnings)
    assert all(a.accuracy is not None and a.accuracy > 0.9 for a in report.artifacts)
    with pytest.raises(UsageError, match="the bundle has no preprocessing"):
        _convert(sturdy, tmp_path / "x", preprocessing=_bundle(tmp_path / "none.ekb"), **options)
    with pytest.raises(UsageError, match="folders of images or sound"):
        _convert(sturdy, tmp_path / "x", preprocessing=bundle)


@pytest.mark.parametrize(
    ("metric", "labels", "share"),
    [
        ("mae", "scores", False),
        ("mse", "scores", False),
        ("top5", "classes", True),
        ("agreement", None, True),
        (None, None, True),
        ("tests.converters.test_convert_budget:largest_error", "scores", False),
    ],
)
def test_other_metrics(
    metric: str | None, labels: str | None, share: bool, sturdy: Files, tmp_path: Path
) -> None:
    with np.load(sturdy.evaluation) as data:
        images, classes = data["x"], data["labels"]
    scores = next(iter(open_session(sturdy.model).run({"x": images}).values()))
    given = {"scores": {"labels": scores + 0.5}, "classes": {"labels": classes}, None: {}}
    np.savez(sturdy.evaluation, x=images, **given[labels])
    goal = AccuracyGoal(metric=metric)
    report = _convert(sturdy, tmp_path / "out", goal=goal)
    for artifact in report.artifacts:
        assert artifact.paired is not None
        assert artifact.paired.metric == (metric or "agreement")
        expected = 1.0 if share else 0.25 if metric == "mse" else 0.5
        assert artifact.paired.before == pytest.approx(expected, rel=0.1)
        assert artifact.paired.after != artifact.paired.before or share


def test_an_error_where_there_was_none_is_null_in_json(sturdy: Files, tmp_path: Path) -> None:
    images = np.load(sturdy.evaluation)["x"]
    (scores,) = open_session(sturdy.model).run({"x": images[:64]}).values()
    np.savez(sturdy.evaluation, x=images[:64], labels=scores)
    report = _convert(sturdy, tmp_path / "out", goal=AccuracyGoal(metric="mae"))
    assert report.artifacts[0].paired is not None
    assert report.artifacts[0].paired.drop == np.inf
    text = json.dumps(report.to_json(), allow_nan=False)
    assert json.loads(text)["artifacts"][0]["accuracy"]["drop"] is None


def largest_error(answers: Any, labels: Any) -> float:
    """A metric of a user's: smaller is better."""
    return float(np.abs(next(iter(answers.values())) - labels).max())


largest_error.lower_is_better = True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("labels", "metric", "reason"),
    [
        (None, "top1", "needs labels"),
        (np.array([0.5, 1.0, 2.0]), None, "no class numbers"),
        (np.zeros((3, 2), np.int64), None, "no class numbers"),
        (np.array([0, 1, 10]), None, "10 classes"),
        (np.array([0, 1]), None, "different numbers of samples"),
        (np.array([0, 1, 2]), "accuracy", "no metric 'accuracy'"),
    ],
)
def test_labels_that_do_not_fit(
    labels: Any, metric: str | None, reason: str, sturdy: Files, tmp_path: Path
) -> None:
    images = np.load(sturdy.evaluation)["x"][:3]
    np.savez(sturdy.evaluation, x=images, **({} if labels is None else {"labels": labels}))
    with pytest.raises(UsageError, match=reason) as caught:
        _convert(sturdy, tmp_path / "out", goal=AccuracyGoal(metric=metric))
    assert caught.value.fix
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["calibration", "evaluation"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x": np.full((4, 1, 8, 8), np.nan, np.float32)}, "NaN or infinity"),
        ({"x": np.full((4, 1, 8, 8), np.inf, np.float32)}, "NaN or infinity"),
        ({"x": np.zeros((0, 1, 8, 8), np.float32)}, "no samples"),
        ({"x": np.zeros((4, 8, 8, 1), np.float32)}, "channels are last"),
        ({"x": np.zeros((4, 1, 8, 8)), "z": np.zeros((4, 3))}, "no input 'z'"),
        ({"z": np.zeros((4, 3)), "w": np.zeros((4, 3))}, "no array for the input 'x'"),
    ],
)
def test_data_that_does_not_fit(
    kind: str, change: dict[str, Any], reason: str, sturdy: Files, tmp_path: Path
) -> None:
    np.savez(tmp_path / "bad.npz", **change)
    with pytest.raises(UsageError, match=f"the {kind} data.*{reason}"):
        _convert(sturdy, tmp_path / "out", **{kind: tmp_path / "bad.npz"})


def test_constant_inputs_and_one_class_are_told(sturdy: Files, tmp_path: Path) -> None:
    np.savez(sturdy.calibration, x=np.ones((40, 1, 8, 8), np.float32), labels=np.full(40, 3))
    report = _convert(sturdy, tmp_path / "out", goal=AccuracyGoal())
    for words in ("are the same", "of one class", "1 and nothing else"):
        assert any(words in warning for warning in report.warnings), words


@pytest.mark.parametrize(
    ("count", "labels", "words"),
    [(1, [3], "only 1 calibration sample"), (60, [0] * 20 + [1] * 40, "sorted by their 2 classes")],
)
def test_few_or_sorted_samples_are_told(
    count: int, labels: list[int], words: str, sturdy: Files, tmp_path: Path
) -> None:
    images = np.load(sturdy.calibration)["x"][:count]
    np.savez(sturdy.calibration, x=images, labels=np.array(labels))
    report = _convert(sturdy, tmp_path / "out", goal=AccuracyGoal())
    assert any(words in warning for warning in report.warnings)
    assert all(a.accuracy is not None and a.accuracy > 0.5 for a in report.artifacts)


# Goals that are missed.


@pytest.mark.parametrize("keep", [True, False])
def test_a_goal_that_is_missed(*, keep: bool, fragile: Files, tmp_path: Path) -> None:
    # int4 has no repairs; int8 has no time for any.
    goal = AccuracyGoal(budget=AccuracyBudget(drop=0.0), search_seconds=1e-9, keep_best=keep)
    precisions = (Precision.INT8, Precision.INT16X8)
    report = _convert(fragile, tmp_path / "out", precisions=precisions, goal=goal)
    assert "int8: the budget of 0 points of top1 does not hold" in report.shortfall
    assert "the time was over" in report.shortfall
    search = report.schemes[0].tuned.search
    assert search is not None
    assert len(search.attempts) == 1
    assert report.published is keep
    assert (tmp_path / "out").exists() is keep
    assert all(artifact.paired is not None for artifact in report.artifacts)
    assert report.to_json()["shortfall"] == report.shortfall


def test_a_scheme_without_repairs_is_judged(fragile: Files, tmp_path: Path) -> None:
    goal = AccuracyGoal(metric="mse", budget=AccuracyBudget(drop=0.0))
    with np.load(fragile.evaluation) as data:
        images = data["x"]
    scores = next(iter(open_session(fragile.model).run({"x": images}).values()))
    np.savez(fragile.evaluation, x=images, labels=scores + 0.01)
    report = _convert(
        fragile, tmp_path / "out", precisions=(Precision.INT4_WEIGHTS,), goal=goal,
        calibration=None, range_method=DEFAULT_METHOD,
    )  # fmt: skip
    assert report.shortfall.startswith("int4-weights loses")
    assert "0 % of the float model's mse" in report.shortfall
    assert not report.published


def test_ctrl_c_keeps_the_best_so_far(fragile: Files, tmp_path: Path) -> None:
    def interrupting(text: str) -> None:
        if text.startswith("3:"):
            raise KeyboardInterrupt

    goal = AccuracyGoal(budget=AccuracyBudget(drop=0.0))
    report = _convert(fragile, tmp_path / "out", goal=goal, progress=interrupting)
    (scheme,) = report.schemes
    assert scheme.tuned.interrupted
    assert scheme.tuned.search is not None
    assert len(scheme.tuned.search.attempts) == 3
    assert report.published
    best = min(attempt.drop for attempt in scheme.tuned.search.attempts)
    assert scheme.tuned.search.best.drop == best < 0.2
    for artifact in report.artifacts:
        assert Path(artifact.path).is_file()
        assert artifact.paired is not None
        assert artifact.paired.drop == pytest.approx(best, abs=0.02)


def test_ctrl_c_before_any_repair_keeps_the_plain_scheme(
    fragile: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "search", interrupted)
    report = _convert(fragile, tmp_path / "out")
    assert report.schemes[0].tuned.interrupted
    assert report.published
    assert report.shortfall.startswith("int8 loses")
    assert all(Path(artifact.path).is_file() for artifact in report.artifacts)


def test_a_search_that_cannot_begin_leaves_the_plain_scheme(
    fragile: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise UnsupportedModelError("no engine runs it")

    monkeypatch.setattr(tuning, "search", refused)
    monkeypatch.setattr(shortcomings, "diagnose", refused)
    steps: list[str] = []
    goal = AccuracyGoal(budget=HALF_A_POINT, keep_best=True)
    report = _convert(fragile, tmp_path / "out", goal=goal, progress=steps.append)
    assert "no repair can be tried: no engine runs it" in steps
    assert report.shortfall.startswith("int8 loses")
    assert any("could not be diagnosed" in warning for warning in report.warnings)
    assert all(Path(artifact.path).is_file() for artifact in report.artifacts)


# Devices.


class Board:
    """Floats take a millisecond a node, integers `integer_ms`; it notes what it was asked."""

    name = "a board"

    def __init__(self, integer_ms: float) -> None:
        self._integer_ms = integer_ms
        self.asked: list[Collection[str]] = []

    def latency_ms(self, model: Path, target: ModelFormat, *, integers: Collection[str]) -> float:
        assert target in {ONNX, LITERT}
        nodes = onnx.load(str(model)).graph.node
        self.asked.append(integers)
        return sum(self._integer_ms if node.name in integers else 1.0 for node in nodes)

    def kind(self, model: Path, target: ModelFormat) -> str:
        assert model.is_file()
        return f"predicted for {target.value}"


def test_latency_is_predicted_by_what_computes_in_integers(sturdy: Files, tmp_path: Path) -> None:
    board = Board(0.25)
    precisions = (Precision.INT8, Precision.INT8_WEIGHTS, Precision.FLOAT32)
    report = _convert(sturdy, tmp_path / "out", precisions=precisions, device=board)
    made = onnx.load(str(tmp_path / "out" / "net.onnx")).graph.node
    nodes = len(made)
    by_precision = {artifact.precision: artifact for artifact in report.artifacts}
    assert by_precision[Precision.INT8_WEIGHTS].latency_ms == nodes
    integers = max(board.asked, key=len)
    assert {node.name for node in made if node.op_type in {"Conv", "Gemm"}} <= set(integers)
    assert by_precision[Precision.INT8].latency_ms == nodes - 0.75 * len(integers)
    assert by_precision[Precision.FLOAT32].latency_ms is None
    assert report.device == "a board"
    assert by_precision[Precision.INT8].latency_kind == "predicted for tflite"
    assert not any("no faster than float" in warning for warning in report.warnings)


def test_int8_that_is_slower_than_float_is_told(sturdy: Files, tmp_path: Path) -> None:
    report = _convert(sturdy, tmp_path / "out", device=Board(1.5))
    slow = [warning for warning in report.warnings if "no faster than float on a board" in warning]
    assert len(slow) == 2
    assert "(predicted for onnx)" in slow[0]


def test_the_best_trade_below_a_latency(fragile: Files, tmp_path: Path) -> None:
    board = Board(0.25)
    nothing = AccuracyBudget(drop=0.0)
    goal = AccuracyGoal(budget=nothing, max_latency_ms=1.0, search_seconds=1e-9)
    report = _convert(fragile, tmp_path / "out", goal=goal, device=board)
    assert "is predicted to take" in report.shortfall
    assert "of the 1 ms allowed" in report.shortfall
    nodes = len(onnx.load(str(fragile.model)).graph.node)
    goal = AccuracyGoal(budget=nothing, max_latency_ms=float(nodes), search_seconds=1e-9)
    report = _convert(fragile, tmp_path / "out", goal=goal, device=board)
    assert f"0 points of top1 within {nodes} ms does not hold" in report.shortfall
    goal = AccuracyGoal(budget=HALF_A_POINT, max_latency_ms=0.6 * nodes)
    report = _convert(fragile, tmp_path / "kept", goal=goal, device=board)
    assert not report.shortfall
    search = report.schemes[0].tuned.search
    assert search is not None
    assert all(attempt.latency_ms is not None for attempt in search.attempts)
    assert all(a.latency_ms is not None and a.latency_ms <= 0.6 * nodes for a in report.artifacts)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precisions": (Precision.FLOAT32,)}, "nothing is quantized"),
        (
            {"calibration": None, "evaluation": None, "precisions": (Precision.FLOAT16,)},
            "there is none",
        ),
        ({"goal": AccuracyGoal(search_seconds=0.0)}, "takes time"),
        ({"goal": AccuracyGoal(max_latency_ms=3.0)}, "none is named"),
        (
            {"goal": AccuracyGoal(max_latency_ms=3.0), "device": Board(1.0)},
            "an accuracy that may be lost",
        ),
        (
            {
                "goal": AccuracyGoal(max_latency_ms=-1.0, budget=HALF_A_POINT),
                "device": Board(1.0),
            },
            "a positive latency",
        ),
    ],
)
def test_goals_that_contradict_themselves(
    changes: dict[str, Any], reason: str, sturdy: Files, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        _convert(sturdy, tmp_path / "out", **changes)
    assert caught.value.fix


def test_what_old_engines_compute_wrongly_is_told(sturdy: Files, tmp_path: Path) -> None:
    precisions = (Precision.INT8, Precision.INT8_DYNAMIC, Precision.INT4_WEIGHTS)
    report = _convert(sturdy, tmp_path / "out", precisions=precisions, goal=AccuracyGoal())
    told = [w.split(":")[0] for w in report.warnings if "tflite-runtime 2.14" in w]
    assert told == ["net-int8-dynamic.tflite", "net-int4-weights.tflite"]


def test_batches_are_read_again_and_again(sturdy: Files) -> None:
    specs = open_session(sturdy.model).inputs
    batches = RepeatedBatches(CalibrationSet.load(sturdy.calibration, specs))
    first, second = list(batches), list(batches)
    assert len(first) == len(second) == len(batches) == 16
    np.testing.assert_array_equal(first[3]["x"], second[3]["x"])
    assert first[3] not in batches
