"""What other quantizers do wrongly without a word, on models as people have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converters.tflite_builder import TfliteBuilder
from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.litert import file_statistics, write_litert_file
from edgekit_converters.quantize.plan import QuantizationPlan, matching_nodes
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.write_litert import write_litert
from edgekit_converters.quantize.write_onnx import write_onnx
from edgekit_converters.ranges import DEFAULT_METHOD, collect_ranges
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.session import open_session
from tests.converters.quantize.flat_files import operators_of, run_flat, tree_of, types_of
from tests.converters.quantize.measured import run_onnx, sqnr_db

node = helper.make_node
F = np.float32
Both = Callable[..., dict[str, tuple[Path, tuple[str, ...]]]]
SHARES = {
    Scheme.FP16: 0.6, Scheme.INT8: 0.4, Scheme.INT8_DYNAMIC: 0.5, Scheme.INT8_WEIGHTS: 0.4,
    Scheme.INT16X8: 0.4, Scheme.INT4_WEIGHTS: 0.35, Scheme.MIXED: 0.4,
}  # fmt: skip


def w(*shape: int, seed: int = 1, scale: float = 0.3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(F)


@pytest.fixture
def write_both(tmp_path: Path) -> Both:
    """Quantize a model in both formats from one calibration; the remarks beside each file."""

    def write(
        model: Any, scheme: Scheme, batches: Any, *, keep_float: tuple[str, ...] = ()
    ) -> dict[str, tuple[Path, tuple[str, ...]]]:
        seen = collect_ranges(model, batches) if scheme.needs_ranges else {}
        plan = QuantizationPlan(
            scheme=scheme,
            ranges={name: value.range(DEFAULT_METHOD) for name, value in seen.items()},
            keep_float=matching_nodes(model, keep_float),
        )
        onnx_path, flat_path = tmp_path / "m.onnx", tmp_path / "m.tflite"
        compiled = compile_to_litert(model, where="test")
        return {
            "onnx": (onnx_path, write_onnx(model, plan, onnx_path, where="test")),
            "litert": (
                flat_path,
                write_litert(compiled, plan, flat_path, where="test", normalised=model),
            ),
        }

    return write


def outputs_of(files: dict[str, tuple[Path, tuple[str, ...]]], feeds: Any) -> list[Any]:
    return [run_onnx(files["onnx"][0], feeds)["y"], run_flat(files["litert"][0], feeds)["y"]]


def old_file(*, deprecated: bool) -> bytes:
    """A convolution and a dense layer, as converters of 2020 wrote them."""
    build = TfliteBuilder()
    image = build.tensor("image", [1, 8, 8, 8])
    stored = [
        build.constant(name, array)
        for name, array in (
            ("filters", w(32, 3, 3, 8)), ("filters_bias", w(32, seed=2)),
            ("dense", w(10, 1152, seed=3)), ("dense_bias", w(10, seed=4)),
        )
    ]  # fmt: skip
    middle, scores = build.tensor("middle", [1, 6, 6, 32]), build.tensor("scores", [1, 10])
    convolution = {"padding": 1, "strideH": 1, "strideW": 1, "fusedActivationFunction": 1}
    build.operator("CONV_2D", [image, *stored[:2]], [middle], "Conv2DOptions", **convolution)
    build.operator("FULLY_CONNECTED", [middle, *stored[2:]], [scores], "FullyConnectedOptions")
    if deprecated:
        for code in build.model.operatorCodes:
            code.builtinCode = 0
    content = build.content([image], [scores])
    assert not build.model.signatureDefs
    return content


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("deprecated", [True, False])
def test_files_from_before_2021_without_a_signature_are_quantized(
    scheme: Scheme, deprecated: bool, tmp_path: Path
) -> None:
    source, target = tmp_path / "old.tflite", tmp_path / "new.tflite"
    source.write_bytes(old_file(deprecated=deprecated))
    batches = [{"image": w(1, 8, 8, 8, seed=seed, scale=1)} for seed in range(16)]
    seen = file_statistics(source, batches, where="test") if scheme.needs_ranges else {}
    ranges = {name: value.range(DEFAULT_METHOD) for name, value in seen.items()}
    plan = QuantizationPlan(scheme=scheme, ranges=ranges)
    remarks = write_litert_file(source, plan, target, where="test")
    assert target.stat().st_size < SHARES[scheme] * source.stat().st_size
    feeds = {"image": w(1, 8, 8, 8, seed=99, scale=1)}
    expected = open_session(source).run(feeds)["scores"]
    least_db = 12 if scheme is Scheme.INT4_WEIGHTS else 26
    assert sqnr_db(expected, open_session(target).run(feeds)["scores"]) > least_db
    assert sqnr_db(expected, run_flat(target, feeds)["scores"]) > least_db
    stored = types_of(target)
    assert {stored["image"], stored["scores"]} == {"float32"}
    codes = tree_of(target).operatorCodes
    assert all(code.deprecatedBuiltinCode == code.builtinCode for code in codes)
    if scheme is Scheme.INT8_DYNAMIC:
        # Convolutions with dynamic activations are slower than floats.
        (conv,) = (op for op in operators_of(target) if op.code == "CONV_2D")
        assert set(conv.inputs) == {"float32"}
    elif scheme.needs_ranges:
        assert not remarks


def branch(name: str, seed: int) -> Any:
    return helper.make_graph(
        [node("MatMul", ["h", name], [f"{name}_m"]), node("Relu", [f"{name}_m"], [f"{name}_y"])],
        name,
        [],
        [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(w(64, 64, seed=seed), name)],
    )


@pytest.mark.parametrize("scheme", Scheme)
def test_models_that_live_inside_of_an_if(
    scheme: Scheme, make_model: Any, write_both: Both
) -> None:
    choice = {"then_branch": branch("a", 1), "else_branch": branch("b", 2)}
    nodes = [
        node("Tanh", ["x"], ["h"]),
        node("ReduceSum", ["x"], ["total"], keepdims=0),
        node("Greater", ["total", "zero"], ["is"]),
        node("If", ["is"], ["y"], name="choose", **choice),
    ]
    model = normalise(make_model(nodes, {"x": [1, 64]}, ["y"], {"zero": F(0)}), where="test")
    batches = [{"x": w(1, 64, seed=seed, scale=1)} for seed in range(8)]
    files = write_both(model, scheme, batches)
    signs = set()
    for feeds in batches[:4]:
        signs.add(bool(feeds["x"].sum() > 0))
        expected = run_onnx(model, feeds)["y"]
        for found in outputs_of(files, feeds):
            assert sqnr_db(expected, found) > (14 if scheme is Scheme.INT4_WEIGHTS else 28)
    assert signs == {True, False}
    for path, remarks in files.values():
        if scheme.needs_ranges:
            assert any("only stores the weights" in remark for remark in remarks)
        if scheme is Scheme.FP16 and path.suffix == ".onnx":
            assert "If 'choose' computes in float32, from weights in float16" in remarks
        assert path.stat().st_size < (0.7 if scheme is Scheme.FP16 else 0.5) * model.ByteSize()


@pytest.mark.parametrize("constant", [0.0, 5.0, -3.0])
@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT16X8])
def test_inputs_and_layers_that_never_change(
    scheme: Scheme, constant: float, make_model: Any, write_both: Both
) -> None:
    """A flag that is always set, and a layer that is dead on all calibration data."""
    nodes = [
        node("Gemm", ["x", "a", "ab"], ["h"], transB=1),
        node("Gemm", ["flag", "d", "db"], ["g"], transB=1),
        node("Relu", ["g"], ["dead"]),
        node("Add", ["h", "dead"], ["sum"]),
        node("Relu", ["sum"], ["r"]),
        node("Gemm", ["r", "b"], ["y"], transB=1),
    ]
    sign = F(np.sign(constant) or 1)
    constants = {
        "a": w(32, 16), "ab": w(32, seed=2), "d": -sign * np.abs(w(32, 4, seed=3)),
        "db": np.full(32, -1, F), "b": w(8, 32, seed=4),
    }  # fmt: skip
    model = normalise(
        make_model(nodes, {"x": ["n", 16], "flag": ["n", 4]}, ["y"], constants), where="test"
    )
    flag = np.full((16, 4), constant, F)
    batches = [{"x": w(16, 16, seed=seed, scale=1), "flag": flag} for seed in range(4)]
    files = write_both(model, scheme, batches)
    expected = run_onnx(model, batches[0])["y"]
    for found in outputs_of(files, batches[0]):
        assert sqnr_db(expected, found) > 28


@pytest.mark.parametrize("scheme", Scheme)
def test_all_of_a_type_stay_float_in_both_formats(
    scheme: Scheme, make_model: Any, write_both: Both
) -> None:
    nodes = [
        node("Conv", ["x", "a"], ["c"], name="first"),
        node("Relu", ["c"], ["r"]),
        node("Flatten", ["r"], ["f"]),
        node("Gemm", ["f", "b"], ["y"], name="last", transB=1),
    ]
    constants = {"a": w(16, 8, 3, 3), "b": w(12, 16 * 16)}
    model = normalise(make_model(nodes, {"x": [1, 8, 6, 6]}, ["y"], constants), where="test")
    batches = [{"x": w(1, 8, 6, 6, seed=seed, scale=1)} for seed in range(8)]
    files = write_both(model, scheme, batches, keep_float=("gemm",))
    expected = run_onnx(model, batches[0])["y"]
    for found in outputs_of(files, batches[0]):
        assert sqnr_db(expected, found) > 28
    (dense,) = (op for op in operators_of(files["litert"][0]) if op.code == "FULLY_CONNECTED")
    assert set(dense.inputs) == {"float32"}
    whole = 4 * constants["b"].size
    for path, _ in files.values():
        # Its weights are floats in the file too.
        assert path.stat().st_size > whole
        assert path.stat().st_size < whole + 4 * constants["a"].size


def test_nothing_is_written_where_nothing_can_change(make_model: Any, write_both: Both) -> None:
    model = normalise(
        make_model([node("Softmax", ["x"], ["y"])], {"x": [1, 8]}, ["y"]), where="test"
    )
    for scheme in set(Scheme) - {Scheme.FP16}:
        with pytest.raises(UnsupportedModelError, match=f"{scheme} changed nothing"):
            write_both(model, scheme, [{"x": w(1, 8)}])
