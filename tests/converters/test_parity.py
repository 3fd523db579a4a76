"""When two models count as the same, and when not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit_converters.difference import difference, relative_error
from edgekit_converters.parity import Probe, compare
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.session import RuntimeInfo
from edgekit_runtime.tensors import TensorSpec

F = np.float32
Function = Callable[[Any], Any]


class Model:
    """A session that computes a function of one input."""

    def __init__(self, function: Function, outputs: tuple[int | None, ...] = ()) -> None:
        self._function = function
        self.inputs = (TensorSpec(name="x", dtype="float32", shape=(None, 4)),)
        self.outputs = (TensorSpec(name="y", dtype="float32", shape=outputs),)
        self.runtime = RuntimeInfo(name="fake", version="0", threads=1)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"y": np.asarray(self._function(inputs["x"]))}

    def close(self) -> None:
        pass


def _probe(*values: float, label: str = "some") -> Probe:
    return Probe(label=label, inputs={"x": np.array([values], dtype=F)})


def _compare(source: Function, artifact: Function, *probes: Probe, **options: Any) -> Any:
    return compare(Model(source), Model(artifact), probes, **options)


# One array against another.


def test_relative_to_the_largest_magnitude() -> None:
    found = difference(np.array([100, 1], dtype=F), np.array([100, 2], dtype=F))
    assert (found.absolute, found.relative) == (1.0, 0.01)


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=8))
def test_an_array_is_equal_to_itself(values: list[float]) -> None:
    array = np.array([*values, np.nan, np.inf, -np.inf], dtype=F)
    assert relative_error(array, array.copy()) == 0.0


@pytest.mark.parametrize(
    ("expected", "computed", "fault"),
    [
        ([1, 2], [1, np.nan], "has NaN where the source has numbers,"),
        ([np.nan, np.nan], [1, np.nan], "has numbers where the source has NaN,"),
        ([1, np.inf], [1, 3e38], "has an infinity where the source has a number,"),
        ([1, 3e38], [1, np.inf], "has an infinity where"),
        ([np.inf], [-np.inf], "has an infinity where"),
        ([np.nan], [np.inf], "has numbers where the source has NaN"),
    ],
)
def test_nan_and_infinity_stand_in_the_same_places(
    expected: Any, computed: Any, fault: str
) -> None:
    found = difference(np.array(expected, dtype=F), np.array(computed, dtype=F))
    assert found.relative == math.inf
    assert fault in found.fault


def test_what_is_beside_nan_and_infinity_is_still_compared() -> None:
    expected = np.array([np.nan, np.inf, 2.0], dtype=F)
    computed = np.array([np.nan, np.inf, 1.0], dtype=F)
    assert relative_error(expected, computed) == 0.5


def test_shapes_and_types_are_the_same() -> None:
    one = np.ones((1, 3), dtype=F)
    assert "has shape [3], the source's has [1, 3]" in difference(one, one[0]).fault
    other = difference(one, one.astype(np.float64))
    assert "is float64, the source's is float32" in other.fault
    assert other.relative == math.inf


@pytest.mark.parametrize(
    ("expected", "computed", "largest"),
    [
        (np.array([5, 7]), np.array([5, 8]), 1.0),
        (np.array([True, False]), np.array([True, True]), 1.0),
        (np.array([2**62]), np.array([2**62 + 1]), 1.0),
        (np.array([0, 255], np.uint8), np.array([0, 0], np.uint8), 255.0),
    ],
)
def test_whole_numbers_are_equal_each_of_them(expected: Any, computed: Any, largest: float) -> None:
    found = difference(expected, computed)
    assert found.absolute == largest
    assert found.relative == math.inf
    assert f"differs in 1 of {expected.size} elements" in found.fault
    assert difference(expected, expected.copy()).relative == 0.0


def test_complex_numbers_are_compared_in_both_parts() -> None:
    expected = np.array([1 + 10j, 2 - 1j], dtype=np.complex64)
    assert relative_error(expected, expected + np.complex64(1j)) == pytest.approx(0.1)


def test_large_arrays_are_compared_in_blocks_as_a_whole() -> None:
    expected = np.ones(700_000, dtype=F)
    expected[600_000] = 100
    computed = expected.copy()
    computed[3] = 2
    found = difference(expected, computed)
    assert (found.absolute, found.relative, found.noise) == (1.0, 0.01, 1.0)
    assert found.signal == 700_000 - 1 + 100**2
    computed[650_000] = np.nan
    assert difference(expected, computed).fault == "has NaN where the source has numbers,"


def test_nothing_is_equal_to_nothing() -> None:
    assert relative_error(np.zeros((0, 3), F), np.zeros((0, 3), F)) == 0.0


# Two models on probes.


def test_the_worst_probe_is_named() -> None:
    found = _compare(
        lambda x: x, lambda x: np.where(x > 5, x + 1, x), _probe(1, 2, label="small"),
        _probe(8, 10, label="large"), _probe(3, 4, label="middle"),
    )  # fmt: skip
    assert found.worst.label == "large"
    assert found.probes == 3
    assert found.outputs[0].max_relative_error == pytest.approx(0.1)
    assert found.outputs[0].sqnr_db == pytest.approx(10 * math.log10(194 / 2), abs=1e-3)
    assert found.complaint(1e-4) == (
        "output 'y' is off by 0.1 relative, allowed 0.0001, on the probe 'large'"
    )


def test_a_fault_in_words_is_part_of_the_complaint() -> None:
    found = _compare(lambda x: x, lambda x: x[0], _probe(1))
    assert found.complaint(1e-4) == (
        "output 'y' has shape [1], the source's has [1, 1], on the probe 'some'"
    )
    assert found.outputs[0].to_json() == {
        "name": "y", "max_abs_error": None, "max_relative_error": None, "sqnr_db": None,
        "worst_probe": "some", "fault": "has shape [1], the source's has [1, 1],",
        "dtype": "float32",
    }  # fmt: skip


def _refuse_above(limit: float, function: Function = lambda x: x) -> Function:
    def run(x: Any) -> Any:
        if x.max() > limit:
            raise UnsupportedModelError("index out of range", where="m")
        return function(x)

    return run


def test_probes_that_the_source_refuses_are_left_out() -> None:
    assert _compare(_refuse_above(5), lambda x: x, _probe(1), _probe(9)).probes == 1


def test_an_artifact_that_refuses_what_the_source_takes_has_failed() -> None:
    found = _compare(lambda x: x, _refuse_above(5), _probe(1), _probe(9, label="nine"))
    assert found.max_relative_error == math.inf
    assert found.complaint(1e-4) == "the engine fails on the probe 'nine': index out of range"
    assert found.worst.label == "nine"


def test_a_source_that_refuses_everything() -> None:
    with pytest.raises(UnsupportedModelError, match="could not be tried: index out of") as caught:
        _compare(_refuse_above(-1e9), lambda x: x, _probe(1))
    assert "--calibration" in str(caught.value.fix)


def test_a_source_that_computes_nothing_for_an_output() -> None:
    with pytest.raises(UnsupportedModelError, match="computes no array for its output 'y'") as it:
        compare(_Nothing(lambda x: x), Model(lambda x: x), [_probe(1)], where="m.onnx")
    assert it.value.where == "m.onnx"


def test_a_probe_that_contradicts_the_sources_own_outputs_is_left_out() -> None:
    """What an input says about a shape may not be what the model declares."""
    source = Model(lambda x: x[:, : int(x[0, 0])], outputs=(None, 2))
    probes = [_probe(2, 5, 7), _probe(1, 5, 7)]
    found = compare(source, Model(lambda x: x[:, :2]), probes, tolerance=1e-4)
    assert found.probes == 1
    assert found.within(1e-4)
    with pytest.raises(UnsupportedModelError, match=r"has shape \[1, 1\] and is declared as"):
        compare(source, source, probes[1:])


def test_only_in_edge_cases_the_source_may_be_undefined() -> None:
    def logarithm(x: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.log(x)

    values = np.array([[1, -1]], dtype=F)
    edge = Probe(label="edge", inputs={"x": values}, edge=True)
    everyday = Probe(label="everyday", inputs={"x": values})
    source, artifact = Model(logarithm), Model(lambda x: logarithm(np.abs(x)))
    assert compare(source, artifact, [edge], tolerance=1e-4).within(1e-4)
    assert not compare(source, artifact, [everyday], tolerance=1e-4).within(1e-4)
    # The other way round it is wrong in every case.
    assert not compare(artifact, source, [edge], tolerance=1e-4).within(1e-4)


def test_where_the_source_overflows_in_an_edge_case_nothing_is_proven() -> None:
    def overflown(x: Any) -> Any:
        return np.array([[np.inf, 3.0]], dtype=F) + 0 * x

    edge = Probe(label="edge", inputs={"x": np.ones((1, 2), F)}, edge=True)
    everyday = Probe(label="everyday", inputs={"x": np.zeros((1, 2), F)})
    source = Model(lambda x: overflown(x) if x[0, 0] else x)
    artifact = Model(lambda x: overflown(x) + F(1) if x[0, 0] else x)
    found = compare(source, artifact, [everyday, edge], tolerance=1e-4)
    assert found.set_aside == ("edge",)
    assert found.within(1e-4)


def test_denormals_may_count_as_zeros_and_as_nothing_else() -> None:
    denormal = _probe(1e-40, 1.5, label="denormal")

    def flushed(x: Any) -> Any:
        return np.ceil(np.where(np.abs(x) < 1e-38, F(0), x))

    assert _compare(np.ceil, flushed, denormal, tolerance=1e-4).within(1e-4)
    assert not _compare(np.ceil, lambda x: flushed(x) + 1, denormal, tolerance=1e-4).within(1e-4)
    assert not _compare(np.ceil, flushed, denormal).within(1e-4)


class _Nothing(Model):
    def run(self, inputs: Any) -> Any:
        return {"y": None}


def test_no_probe_at_all() -> None:
    with pytest.raises(UnsupportedModelError, match="there was no input"):
        _compare(lambda x: x, lambda x: x)


def test_half_precision_is_allowed_its_last_bits() -> None:
    def half(x: Any) -> Any:
        return x.astype(np.float16)

    found = _compare(half, lambda x: half(x) * np.float16(1.003), _probe(1, 2))
    assert found.outputs[0].dtype == "float16"
    assert found.max_relative_error > 1e-3
    assert found.within(1e-4)
    wrong = _compare(half, lambda x: half(x) * np.float16(1.01), _probe(1, 2))
    assert not wrong.within(1e-4)
    assert "allowed 0.00781" in wrong.complaint(1e-4)
    assert not _compare(lambda x: x, lambda x: x * F(1.003), _probe(1, 2)).within(1e-4)


# Probes on which the source contradicts itself.


def _normalise(x: Any, *, up: bool = False) -> Any:
    """What is constant has no deviation, but for the rounding of its mean, here made large."""
    mean = x.mean(axis=-1, keepdims=True, dtype=x.dtype)
    centred = x - (np.nextafter(mean, F(np.inf)) if up else mean)
    return centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + F(1e-12))


def test_what_depends_on_the_last_bits_is_set_aside() -> None:
    constant = Probe(label="constant", inputs={"x": np.ones((1, 7), dtype=F)})
    usual = Probe(label="usual", inputs={"x": np.arange(7, dtype=F).reshape(1, 7)})

    def other(x: Any) -> Any:
        return _normalise(x, up=True)

    strict = _compare(_normalise, other, usual, usual, constant)
    assert strict.max_relative_error > 0.01
    found = _compare(_normalise, other, usual, usual, constant, tolerance=1e-4)
    assert found.set_aside == ("constant",)
    assert found.probes == 2
    assert found.max_relative_error < 1e-4


def test_the_larger_of_two_nearly_equal_scores_may_be_either() -> None:
    def winner(x: Any) -> Any:
        return x.argmax(axis=-1)

    def other(x: Any) -> Any:
        return (x + np.array([1e-7, 0, 0], dtype=F)).argmax(axis=-1)

    tie = _probe(1.0, 1.0 + 2**-23, 0.0, label="tie")
    clear = _probe(1.0, 2.0, 0.0, label="clear")
    found = _compare(winner, other, clear, tie, tolerance=1e-4)
    assert found.set_aside == ("tie",)
    # What is clear must be right.
    wrong = _compare(winner, lambda x: x.argmin(axis=-1), clear, tie, tolerance=1e-4)
    assert wrong.worst.label == "clear"
    assert wrong.max_relative_error == math.inf


def test_an_error_larger_than_rounding_explains_is_an_error() -> None:
    found = _compare(
        lambda x: x * 1000 % 1,
        lambda x: x * 1000 % 1 + F(0.3),
        _probe(0.1234, 0.2567),
        tolerance=1e-4,
    )
    assert found.set_aside == ()
    assert found.max_relative_error > 0.1


def test_another_shape_is_never_set_aside() -> None:
    found = _compare(_normalise, lambda x: _normalise(x)[0], _probe(1, 1, 1), tolerance=1e-4)
    assert found.set_aside == ()
    assert found.max_relative_error == math.inf


def test_zeros_have_no_last_bits() -> None:
    found = _compare(np.sign, lambda x: np.sign(x) + 1, _probe(0, 0), tolerance=1e-4)
    assert found.max_relative_error > 1


def test_more_probes_set_aside_than_compared_prove_nothing() -> None:
    def chaotic(x: Any) -> Any:
        return np.sin(x * F(1e9))

    probes = [_probe(0.3, 0.7), _probe(0.1, 0.9), _probe(0, 0)]
    with pytest.raises(UnsupportedModelError, match="depends on the last bits of its inputs"):
        _compare(chaotic, lambda x: np.sin((x * F(1 + 2**-22)) * F(1e9)), *probes, tolerance=1e-4)
