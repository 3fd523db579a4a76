"""Arrays in files: the same samples as when they are read whole, a part at a time."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.calibration import source as source_module
from edgekit_converters.calibration import survey as survey_module
from edgekit_converters.input_ranges import InputRange
from edgekit_converters.samples import read_samples
from edgekit_runtime.errors import UsageError
from edgekit_runtime.tensors import TensorSpec

IMAGE = TensorSpec(name="image", dtype="float32", shape=(None, 1, 4, 4))
STATE = TensorSpec(name="state", dtype="float32", shape=(None, 3))
TOKENS = TensorSpec(name="tokens", dtype="int64", shape=(None, 5))


@pytest.fixture
def tiny_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three images, and an excerpt of at most eight."""
    monkeypatch.setattr(source_module, "_CHUNK_BYTES", 3 * 76)
    monkeypatch.setattr(survey_module, "_EXCERPT_BYTES", 8 * 76)
    monkeypatch.setattr(survey_module, "_LARGE_SAMPLES", 1)


def _arrays(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(count)
    return {
        "image": rng.normal(size=(count, 1, 4, 4)).astype(np.float32),
        "state": rng.normal(size=(count, 3)).astype(np.float32),
        "labels": rng.integers(0, 4, count),
    }


def _all(calibration: CalibrationSet, name: str = "image") -> Any:
    batches = [batch[name] for batch in calibration.batches()]
    assert {len(batch) for batch in batches} == {calibration.batch_size}
    together = np.concatenate(batches)
    # A short last batch repeats its last sample.
    assert (together[calibration.count :] == together[calibration.count - 1]).all()
    return together[: calibration.count]


@pytest.mark.usefixtures("tiny_memory")
@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 16, 17, 100])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_stream_holds_what_the_file_holds(count: int, save: Any, tmp_path: Path) -> None:
    arrays = _arrays(count)
    save(tmp_path / "a.npz", **arrays)
    found = CalibrationSet.load(tmp_path / "a.npz", [IMAGE, STATE])
    assert found.count == count
    assert found.samples.sha256 == read_samples(
        tmp_path / "a.npz", [IMAGE, STATE], kind="x"
    ).sha256  # fmt: skip
    for name in ("image", "state"):
        np.testing.assert_array_equal(_all(found, name), arrays[name])


@pytest.mark.usefixtures("tiny_memory")
@pytest.mark.parametrize("count", [5, 8, 9, 64, 65, 1000])
def test_the_excerpt_is_spread_evenly(count: int, tmp_path: Path) -> None:
    arrays = _arrays(count)
    np.savez(tmp_path / "a.npz", **arrays)
    samples = CalibrationSet.load(tmp_path / "a.npz", [IMAGE, STATE]).samples
    stride = 1
    while len(range(0, count, stride)) > 8:
        stride *= 2
    np.testing.assert_array_equal(samples.arrays["image"], arrays["image"][::stride])
    np.testing.assert_array_equal(samples.labels, arrays["labels"][::stride])
    assert samples.count == len(arrays["labels"][::stride])


@pytest.mark.usefixtures("tiny_memory")
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_in_either_order(order: Any, tmp_path: Path) -> None:
    array = np.asarray(_arrays(20)["image"], order=order)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(_all(CalibrationSet.load(tmp_path / "a.npy", [IMAGE])), array)


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=8), size=st.integers(1, 7))
def test_chunks_of_any_size_become_batches(counts: list[int], size: int) -> None:
    from edgekit_converters.calibration.calibration_set import _regrouped

    class Counting:
        doubts = ()

        def chunks(self) -> Any:
            start = 0
            for count in counts:
                values = np.arange(start, start + count, dtype=np.float32)
                yield source_module.Chunk(arrays={"x": values})
                start += count

        def sha256(self) -> None:
            return None

    batches = [batch["x"] for batch in _regrouped(Counting(), size)]
    assert all(len(batch) == size for batch in batches)
    together = np.concatenate(batches)
    assert together[: sum(counts)].tolist() == list(range(sum(counts)))
    assert len(batches) == -(-sum(counts) // size)


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _arrays(7)["image"])
    fixed = TensorSpec(name="image", dtype="float32", shape=(2, 1, 4, 4))
    found = CalibrationSet.load(tmp_path / "a.npy", [fixed])
    assert (found.batch_size, len(list(found.batches()))) == (2, 4)


@pytest.mark.usefixtures("tiny_memory")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad: float, tmp_path: Path) -> None:
    images = _arrays(30)["image"]
    images[23, 0, 2, 1] = bad
    np.save(tmp_path / "a.npy", images)
    with pytest.raises(UsageError, match="'image' holds NaN or infinity, first in sample 24"):
        CalibrationSet.load(tmp_path / "a.npy", [IMAGE])


def test_whole_numbers_that_the_model_cannot_take(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(50).reshape(10, 5))
    ranges = {"tokens": InputRange(low=0, high=49)}
    assert CalibrationSet.load(tmp_path / "a.npy", [TOKENS], ranges=ranges).count == 10
    with pytest.raises(UsageError, match="'tokens' holds 0 to 49, the model takes 0 to 48"):
        CalibrationSet.load(
            tmp_path / "a.npy", [TOKENS], ranges={"tokens": InputRange(low=0, high=48)}
        )


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=np.zeros((3, 1, 4, 5)), other=np.zeros((4, 3)))
    with pytest.raises(UsageError) as caught:
        CalibrationSet.load(tmp_path / "a.npz", [IMAGE, STATE])
    for part in ("no array for the input 'state'", "no input 'other'", "[3, 1, 4, 5]",
                 "different numbers of samples: [3, 4]"):  # fmt: skip
        assert part in caught.value.what


@pytest.mark.parametrize(
    ("shape", "spec_shape", "hint"),
    [
        ((5, 8, 9, 3), (None, 3, 8, 9), "channels are last .* transpose by (0, 3, 1, 2)"),
        ((5, 3, 8, 9), (None, 8, 9, 3), "channels are first .* transpose by (0, 2, 3, 1)"),
        ((3, 8, 9), (None, 3, 8, 9), "axis of samples is missing"),
        ((5, 40, 7), (None, 7, 40), "transpose by (0, 2, 1)"),
    ],
)
def test_axes_in_a_likely_wrong_order(
    shape: tuple[int, ...], spec_shape: tuple[Any, ...], hint: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    spec = TensorSpec(name="image", dtype="float32", shape=spec_shape)
    pattern = hint.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(UsageError, match=pattern):
        CalibrationSet.load(tmp_path / "a.npy", [spec])


@pytest.mark.parametrize("count", [0, 1])
def test_empty_and_one_sample(count: int, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((count, 1, 4, 4), np.float32) * np.arange(4))
    if count:
        (warning,) = CalibrationSet.load(tmp_path / "a.npy", [IMAGE]).warnings
        assert "only 1 calibration sample" in warning
    else:
        with pytest.raises(UsageError, match="holds no samples"):
            CalibrationSet.load(tmp_path / "a.npy", [IMAGE])


def _damaged(kind: str, path: Path) -> None:
    np.savez(path, image=_arrays(40)["image"])
    whole = path.read_bytes()
    if kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "flipped":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif kind == "npy cut":
        np.save(path.with_suffix(".npy"), _arrays(40)["image"])
        path.write_bytes(path.with_suffix(".npy").read_bytes()[:-9])
    elif kind == "lying header":
        with zipfile.ZipFile(path, "w") as archive:
            head = path.with_suffix(".npy")
            np.save(head, _arrays(40)["image"])
            archive.writestr("image.npy", head.read_bytes().replace(b"(40,", b"(90,"))
    elif kind == "objects":
        np.savez(path, image=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "no array":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("image.npy", b"hello")
    else:
        path.write_bytes({"empty": b"", "text": b"not an archive"}[kind])


@pytest.mark.parametrize(
    "kind",
    ["cut", "flipped", "npy cut", "lying header", "objects", "no array", "empty", "text"],
)
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    _damaged(kind, path)
    with pytest.raises(UsageError, match=r"readable calibration data|the file is empty"):
        CalibrationSet.load(path, [IMAGE])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        CalibrationSet.load(tmp_path / "absent.npz", [IMAGE])


def test_one_label_for_all(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=_arrays(4)["image"], labels=3)
    with pytest.raises(UsageError, match="one label a sample"):
        CalibrationSet.load(tmp_path / "a.npz", [IMAGE])
