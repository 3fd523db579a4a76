"""What is odd about data that can be used all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.calibration.mistakes import likely_mistake
from edgekit_converters.samples import Samples
from edgekit_runtime.session import RuntimeInfo
from edgekit_runtime.tensors import TensorSpec

IMAGE = TensorSpec(name="image", dtype="float32", shape=(None, 3, 8, 8))
RNG = np.random.default_rng(4)


def _warnings(tmp_path: Path, spec: TensorSpec = IMAGE, **arrays: Any) -> tuple[str, ...]:
    np.savez(tmp_path / "a.npz", **arrays)
    return CalibrationSet.load(tmp_path / "a.npz", [spec]).warnings


def _images(count: int = 40) -> Any:
    return RNG.random((count, 3, 8, 8), np.float32)


def test_data_as_it_should_be(tmp_path: Path) -> None:
    assert _warnings(tmp_path, image=_images(), labels=np.arange(40) % 4) == ()
    assert _warnings(tmp_path, image=_images(), labels=RNG.random(40)) == ()
    assert _warnings(tmp_path, image=_images(), labels=np.eye(4)[np.arange(40) // 10]) == ()


def test_few_samples(tmp_path: Path) -> None:
    (warning,) = _warnings(tmp_path, image=_images(31))
    assert "only 31" in warning


def test_one_class(tmp_path: Path) -> None:
    (warning,) = _warnings(tmp_path, image=_images(), y=np.full((40, 1), 7))
    assert "one class" in warning


def test_sorted_by_class(tmp_path: Path) -> None:
    (warning,) = _warnings(tmp_path, image=_images(), labels=np.arange(40) // 10)
    assert "sorted by their 4 classes" in warning


def test_constant_inputs(tmp_path: Path) -> None:
    same, constant = _warnings(tmp_path, image=np.full((40, 3, 8, 8), 0.5))
    assert "all 40 calibration samples are the same" in same
    assert "holds 0.5 and nothing else for the input 'image'" in constant


def test_the_same_sample_again_and_again(tmp_path: Path) -> None:
    (warning,) = _warnings(tmp_path, image=np.repeat(_images(1), 40, axis=0))
    assert "are the same" in warning


def test_bytes_for_a_float_model(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (40, 3, 8, 8), np.uint8)
    (warning,) = _warnings(tmp_path, image=pixels)
    assert "from 0 to 255" in warning
    bytes_taken = TensorSpec(name="image", dtype="uint8", shape=(None, 3, 8, 8))
    assert _warnings(tmp_path, bytes_taken, image=pixels) == ()
    ages = TensorSpec(name="image", dtype="float32", shape=(None, 3))
    assert _warnings(tmp_path, ages, image=RNG.integers(0, 120, (40, 3))) == ()


def test_overlap_with_other_data(tmp_path: Path) -> None:
    images = _images(50)
    np.savez(tmp_path / "a.npz", image=images[:40])
    np.savez(tmp_path / "b.npz", image=images[30:].astype(np.float64))
    calibration = CalibrationSet.load(tmp_path / "a.npz", [IMAGE])
    evaluation = CalibrationSet.load(tmp_path / "b.npz", [IMAGE], kind="evaluation")
    assert calibration.overlap(evaluation.digests) == 10


class _Colours:
    """Knows red from blue and from dark in pictures whose values go from `low` to `high`."""

    def __init__(self, low: float, high: float) -> None:
        self.inputs = (IMAGE,)
        self.outputs = (TensorSpec(name="scores", dtype="float32", shape=(None, 3)),)
        self.runtime = RuntimeInfo(name="fake", version="0", threads=1)
        self._low, self._high = low, high

    def run(self, inputs: Any) -> Any:
        means = (inputs["image"].mean((2, 3)) - self._low) / (self._high - self._low)
        fits = 1 - 20 * np.abs(means[:, [0, 2]] - 0.8)
        return {"scores": np.concatenate([fits, np.full((len(means), 1), -0.5)], 1)}

    def close(self) -> None:
        pass


def _pictures(low: float, high: float, *, swap: bool = False) -> Samples:
    labels = np.arange(60) % 3
    pixels = RNG.uniform(0, 0.1, (60, 3, 8, 8))
    pixels[labels == 0, 0] += 0.75
    pixels[labels == 1, 2] += 0.75
    if swap:
        pixels = pixels[:, ::-1]
    pixels[0, 0, 0, 0], pixels[1, 0, 0, 0] = 0, 1
    array = (low + pixels * (high - low)).astype(np.float32)
    return Samples(path=Path("a"), sha256="", arrays={"image": array}, labels=labels, count=60)


@pytest.mark.parametrize(
    ("trained", "given", "swap", "said"),
    [
        ((0, 1), (0, 1), False, None),
        ((0, 1), (0, 255), False, "divided by 255"),
        ((-1, 1), (0, 255), False, "0..255 brought to -1..1"),
        ((0, 255), (0, 1), False, "multiplied by 255"),
        ((-1, 1), (0, 1), False, "0..1 brought to -1..1"),
        ((0, 1), (-1, 1), False, "-1..1 brought to 0..1"),
        ((0, 1), (0, 1), True, "red and blue swapped"),
    ],
)
def test_a_likely_mistake_is_told_by_the_answers(
    trained: Any, given: Any, *, swap: bool, said: str | None
) -> None:
    found = likely_mistake(_Colours(*trained), _pictures(*given, swap=swap))
    assert (found is None) if said is None else (found is not None and said in found)


def test_no_labels_no_guess() -> None:
    samples = _pictures(0, 255)
    for labels in (None, RNG.random(60), np.array(["a"] * 60)):
        other = Samples(path=samples.path, sha256="", arrays=samples.arrays, labels=labels,
                        count=60)  # fmt: skip
        assert likely_mistake(_Colours(0, 1), other) is None
