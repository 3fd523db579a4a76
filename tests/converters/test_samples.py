from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.evaluation import EvaluationSet, evaluate_top1, predict_classes
from edgekit_converters.samples import Samples, batch_size, read_samples
from edgekit_runtime.errors import UsageError
from edgekit_runtime.session import RuntimeInfo
from edgekit_runtime.tensors import TensorSpec

IMAGE = TensorSpec(name="image", dtype="float32", shape=(None, 1, 4, 4))
STATE = TensorSpec(name="state", dtype="float32", shape=(None, 3))


def _save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def _images(count: int = 3) -> Any:
    return np.zeros((count, 1, 4, 4), dtype=np.float32)


def test_one_array_serves_one_input_whatever_its_name(tmp_path: Path) -> None:
    samples = read_samples(
        _save(tmp_path / "a.npz", x=_images(), labels=np.arange(3)), [IMAGE], kind="test"
    )
    assert list(samples.arrays) == ["image"]
    assert samples.count == 3
    assert samples.labels is not None


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _images(5))
    assert read_samples(tmp_path / "a.npy", [IMAGE], kind="test").count == 5


def test_types_that_fit_are_converted(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.npz", x=np.full((2, 1, 4, 4), 255, dtype=np.uint8))
    array = read_samples(path, [IMAGE], kind="test").arrays["image"]
    assert array.dtype == np.float32
    assert array.max() == 255


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    bad = np.full((3, 1, 4, 5), np.nan, dtype=np.float32)
    path = _save(tmp_path / "a.npz", image=bad, other=np.zeros((4, 3)))
    with pytest.raises(UsageError) as caught:
        read_samples(path, [IMAGE, STATE], kind="calibration")
    for part in ("no array for the input 'state'", "no input 'other'", "[3, 1, 4, 5]", "NaN",
                 "different numbers of samples: [3, 4]"):  # fmt: skip
        assert part in caught.value.what
    assert caught.value.where == str(path)
    assert "image: float32[samples, 1, 4, 4]" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((0, 1, 4, 4), dtype=np.float32), "no samples"),
        (np.full((2, 1, 4, 4), np.inf, dtype=np.float32), "infinity"),
        (np.zeros((2, 1, 4, 4), dtype=np.complex64), "complex64"),
        (np.float32(3), "shape"),
        (np.array(["a", "b"]), "shape"),
    ],
)
def test_arrays_that_do_not_fit(array: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=reason):
        read_samples(_save(tmp_path / "a.npz", image=array), [IMAGE], kind="test")


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", b"PK\x03\x04 cut off", b"\x93NUMPY cut off"]
)
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        read_samples(path, [IMAGE], kind="test")


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="no readable"):
        read_samples(path, [IMAGE], kind="test")


@given(count=st.integers(1, 40), size=st.integers(1, 9))
def test_batches_hold_every_sample_once(count: int, size: int) -> None:
    array = np.arange(count, dtype=np.float32)
    samples = Samples(path=Path("x"), sha256="", arrays={"x": array}, labels=None, count=count)
    seen = []
    for batch, valid in samples.batches(size):
        assert len(batch["x"]) == size
        seen += batch["x"][:valid].tolist()
    assert seen == array.tolist()


def test_a_fixed_batch_is_kept() -> None:
    assert batch_size([IMAGE], preferred=16) == 16
    assert batch_size([TensorSpec(name="x", dtype="float32", shape=(1, 4))], preferred=16) == 1


def test_doubtful_calibration_data_is_used_with_a_warning(tmp_path: Path) -> None:
    images = np.random.default_rng(1).random((5, 1, 4, 4), np.float32)
    path = _save(tmp_path / "a.npz", x=images, y=np.full(5, 7))
    few, single = CalibrationSet.load(path, [IMAGE]).warnings
    assert "only 5" in few
    assert "one class" in single


class _Fake:
    """A session that answers with its input."""

    def __init__(self, shape: tuple[int | None, ...], dtype: str = "float32") -> None:
        self.inputs = (TensorSpec(name="x", dtype=dtype, shape=shape),)
        self.outputs = self.inputs
        self.runtime = RuntimeInfo(name="fake", version="0", threads=1)

    def run(self, inputs: Any) -> Any:
        return inputs

    def close(self) -> None:
        pass


def _evaluate(scores: Any, labels: Any, tmp_path: Path) -> Any:
    session = _Fake((None, *scores.shape[1:]))
    path = _save(tmp_path / "e.npz", x=scores, labels=labels)
    return evaluate_top1(session, EvaluationSet.load(path, session.inputs))


def test_top1(tmp_path: Path) -> None:
    scores = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 3]]
    result = _evaluate(scores, np.array([0, 1, 2, 3, 0]), tmp_path)
    assert result.value == pytest.approx(0.8)
    assert result.samples == 5
    assert len(result.dataset_sha256) == 64


def test_one_score_is_a_probability(tmp_path: Path) -> None:
    scores = np.array([[0.2], [0.9], [0.6]], dtype=np.float32)
    assert _evaluate(scores, np.array([0, 1, 0]), tmp_path).value == pytest.approx(2 / 3)


def test_integer_outputs_are_classes(tmp_path: Path) -> None:
    session = _Fake((None,), "int64")
    path = _save(tmp_path / "e.npz", x=np.array([3, 1]))
    samples = read_samples(path, session.inputs, kind="test")
    assert predict_classes(session, samples).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (None, "no labels"),
        (np.array([0.5, 1, 2]), "class numbers"),
        (np.zeros((3, 2), dtype=int), "class numbers"),
        (np.array([0, 1, 9]), "4 classes"),
        (np.array([0, 1, -1]), "4 classes"),
    ],
)
def test_labels_that_do_not_fit(labels: Any, reason: str, tmp_path: Path) -> None:
    scores = np.eye(4, dtype=np.float32)[:3]
    arrays = {"x": scores} if labels is None else {"x": scores, "labels": labels}
    session = _Fake((None, 4))
    with pytest.raises(UsageError, match=reason):
        evaluate_top1(
            session, EvaluationSet.load(_save(tmp_path / "e.npz", **arrays), session.inputs)
        )
