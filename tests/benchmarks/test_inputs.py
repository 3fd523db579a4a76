"""Inputs that fit a model: made up, or read from the user's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_benchmarks.inputs import load_inputs, make_inputs, resolve_shapes
from edgekit_runtime.errors import UsageError
from edgekit_runtime.tensors import TensorQuantization, TensorSpec

IMAGE = TensorSpec(name="image", dtype="float32", shape=(None, 1, 8, 8))
TOKENS = TensorSpec(name="tokens", dtype="int64", shape=(None, None))
BYTES = TensorSpec(
    name="pixels",
    dtype="int8",
    shape=(1, 64),
    quantization=TensorQuantization(scale=0.1, zero_point=-3),
)


def test_a_free_first_axis_is_a_batch_of_one() -> None:
    assert resolve_shapes([IMAGE, BYTES], {}) == {"image": (1, 1, 8, 8), "pixels": (1, 64)}


def test_a_given_shape_wins() -> None:
    assert resolve_shapes([TOKENS], {"tokens": (2, 16)}) == {"tokens": (2, 16)}


def test_every_fault_of_the_shapes_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        resolve_shapes([TOKENS, IMAGE], {"image": (1, 3, 8, 8), "typo": (1,)})
    assert "no input 'typo'" in caught.value.what
    assert "[1, 3, 8, 8] does not fit 'image'" in caught.value.what
    assert "'tokens' [?, ?] along axis [1] is free" in caught.value.what


@given(
    dtype=st.sampled_from(["float32", "float64", "float16", "int8", "uint8", "int32", "bool"]),
    shape=st.lists(st.integers(1, 5), max_size=4).map(tuple),
)
def test_made_up_values_fit(dtype: str, shape: tuple[int, ...]) -> None:
    spec = TensorSpec(name="x", dtype=dtype, shape=shape)
    values = make_inputs([spec], {"x": shape})["x"]
    assert values.dtype.name == dtype
    assert values.shape == shape


def test_made_up_bytes_cover_their_range_and_indices_stay_small() -> None:
    index = TensorSpec(name="i", dtype="int64", shape=(1000,))
    many = TensorSpec(name="b", dtype="int8", shape=(5000,))
    values = make_inputs([index, many], {"i": (1000,), "b": (5000,)})
    assert set(np.unique(values["i"])) == {0, 1}
    assert (values["b"].min(), values["b"].max()) == (-128, 127)


def test_made_up_values_are_the_same_each_time() -> None:
    shapes = {"image": (1, 1, 8, 8)}
    first, second = (make_inputs([IMAGE], shapes)["image"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_text_cannot_be_made_up() -> None:
    with pytest.raises(UsageError, match="type string cannot be made up"):
        make_inputs([TensorSpec(name="s", dtype="string", shape=(1,))], {"s": (1,)})


def test_the_first_samples_of_a_file_are_taken(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).random((30, 1, 8, 8)).astype(np.float32)
    path = tmp_path / "samples.npz"
    np.savez(path, image=samples, labels=np.zeros(30))
    loaded = load_inputs(path, [IMAGE], {"image": (2, 1, 8, 8)})
    assert set(loaded) == {"image"}
    np.testing.assert_array_equal(loaded["image"], samples[:2])


def test_one_array_serves_one_input_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.zeros((3, 1, 8, 8)))
    loaded = load_inputs(path, [IMAGE], {"image": (1, 1, 8, 8)})
    assert loaded["image"].dtype == np.float32


def test_every_fault_of_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, image=np.zeros((3, 2, 8, 8), np.float32), pixels=np.zeros((1, 64)))
    specs = [IMAGE, BYTES, TOKENS]
    shapes = {"image": (1, 1, 8, 8), "pixels": (1, 64), "tokens": (1, 4)}
    with pytest.raises(UsageError) as caught:
        load_inputs(path, specs, shapes)
    assert "'image' has shape [3, 2, 8, 8], not [1, 1, 8, 8]" in caught.value.what
    assert "'pixels' is float64, not int8" in caught.value.what
    assert "no array for the input 'tokens'" in caught.value.what


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut short", b"not an archive at all"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "samples.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="no readable inputs"):
        load_inputs(path, [IMAGE], {"image": (1, 1, 8, 8)})
