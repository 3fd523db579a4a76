"""Golden samples: what differs is caught, by how much is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_runtime.bundle.golden import (
    compare,
    load_arrays,
    prove,
    run_variant,
    samples_of,
    save_arrays,
)
from edgekit_runtime.bundle.manifest import Binding, GoldenOutputs
from edgekit_runtime.errors import GateFailedError, InvalidBundleError
from edgekit_runtime.session import open_session
from runtime.models import INPUTS, WEIGHTS, linear_bundle, linear_model

VARIANT = linear_bundle(b"model")[0].variants[0]
EXPECTED = {"scores": INPUTS @ WEIGHTS}


def test_the_right_model_is_proven(tmp_path: Path) -> None:
    session = open_session(linear_model(tmp_path / "m.onnx"))
    (result,) = prove(session, VARIANT, {"x": INPUTS}, EXPECTED)
    assert result.samples == len(INPUTS)
    assert result.failed == 0


def test_other_weights_are_refused_with_the_size_of_the_difference(tmp_path: Path) -> None:
    weights = WEIGHTS.copy()
    weights[0, 0] += 0.5
    session = open_session(linear_model(tmp_path / "m.onnx", weights))
    with pytest.raises(GateFailedError, match=r"scores: 3 of 4 samples differ, by up to 2 "):
        prove(session, VARIANT, {"x": INPUTS}, EXPECTED)


def test_missing_golden_outputs_prove_nothing(tmp_path: Path) -> None:
    session = open_session(linear_model(tmp_path / "m.onnx"))
    with pytest.raises(InvalidBundleError):
        prove(session, VARIANT, {"x": INPUTS}, {})
    with pytest.raises(InvalidBundleError):
        prove(session, VARIANT, {"x": INPUTS[:2]}, EXPECTED)
    with pytest.raises(InvalidBundleError):
        prove(session, VARIANT, {"x": INPUTS[:0]}, {"scores": EXPECTED["scores"][:0]})


@given(error=st.floats(-1, 1, width=32), atol=st.floats(0, 0.5), rtol=st.floats(0, 0.1))
def test_the_tolerance_is_what_it_says(error: float, atol: float, rtol: float) -> None:
    wanted = np.array([[3.0]])
    golden = GoldenOutputs(file="g", atol=atol, rtol=rtol)
    (result,) = compare({"y": wanted}, {"y": wanted + error}, golden)
    assert (result.failed == 0) == (abs((3.0 + error) - 3.0) <= atol + rtol * 3.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_number_never_matches(value: float) -> None:
    golden = GoldenOutputs(file="g", atol=1e30, rtol=0.0)
    (result,) = compare({"y": np.zeros((2, 1))}, {"y": np.array([[0.0], [value]])}, golden)
    assert result.failed == 1
    assert result.max_abs_error == np.inf


def test_bindings_rename_and_transpose() -> None:
    class Turned:
        def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            assert inputs["in:0"].shape == (1, 4, 5, 3)
            return {"out:0": inputs["in:0"] * 2}

    binding = {"image": Binding(tensor="in:0", transpose=(0, 2, 3, 1))}
    outputs = {"image": Binding(tensor="out:0", transpose=(0, 2, 3, 1))}
    from dataclasses import replace

    variant = replace(VARIANT, inputs=binding, outputs=outputs)
    image = np.random.default_rng(0).normal(size=(1, 3, 4, 5))
    result = run_variant(Turned(), variant, {"image": image})  # type: ignore[arg-type]
    np.testing.assert_array_equal(result["image"], image * 2)


def test_arrays_survive_and_are_reproducible() -> None:
    arrays = {"b": np.arange(6).reshape(2, 3), "a": np.float32([1.5])}
    data = save_arrays(arrays)
    assert save_arrays(dict(reversed(arrays.items()))) == data
    loaded = load_arrays(data, where="test")
    assert {name: array.tolist() for name, array in loaded.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }


def test_arrays_from_outside_never_run_code(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InvalidBundleError):
        load_arrays((tmp_path / "evil.npz").read_bytes(), where="test")
    with pytest.raises(InvalidBundleError):
        load_arrays(b"PK\x03\x04 broken", where="test")


def test_samples_are_batches_of_one() -> None:
    samples = list(samples_of({"x": INPUTS}))
    assert [sample["x"].shape for sample in samples] == [(1, 3)] * len(INPUTS)
