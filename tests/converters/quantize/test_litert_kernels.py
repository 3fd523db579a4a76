"""Every operator of the table of integer kernels, run with them: it computes what floats do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.litert.emit import emit
from edgekit_converters.litert.model_file import read_model, text_of
from edgekit_converters.litert.program import Operator, Program, Tensor
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.plan import QuantizationPlan, Range
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.to_litert.operators import rules
from edgekit_converters.quantize.write_litert import quantize_flat, write_litert
from tests.converters.quantize.flat_files import operators_of, run_flat
from tests.converters.quantize.measured import min_max_ranges, run_onnx, sqnr_db

node = helper.make_node
F = np.float32
SHAPE = (1, 6, 6, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Nodes between a convolution that makes "c", 8 channels of 6 by 6, and one that reads "o"."""

    nodes: list[Any]
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    channels: int = 8
    least_db: float = 26.0


def w(*shape: int, seed: int = 1, scale: float = 0.3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(F)


def one(op: str, *more: str, outputs: tuple[str, ...] = ("o",), **attributes: Any) -> Any:
    return node(op, ["c", *more], list(outputs), name="tested", **attributes)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values)


CASES = {
    "CONV_2D": Case(nodes=[one("Conv", "k", "b")], constants={"k": w(8, 8, 3, 3), "b": w(8)}),
    "DEPTHWISE_CONV_2D": Case(
        nodes=[one("Conv", "k", "b", group=8)], constants={"k": w(8, 1, 3, 3), "b": w(8)}
    ),
    "FULLY_CONNECTED": Case(
        nodes=[
            one("Reshape", "s", outputs=("r",)),
            node("MatMul", ["r", "k"], ["m"]),
            node("Add", ["m", "b"], ["a"]),
            node("Reshape", ["a", "t"], ["o"]),
        ],
        constants={"s": ints(8, 36), "t": ints(1, 8, 5, 4), "k": w(36, 20), "b": w(20)},
    ),
    "BATCH_MATMUL": Case(
        nodes=[node("Transpose", ["c"], ["t"], perm=[0, 1, 3, 2]), one("MatMul", "t")]
    ),
    "ADD": Case(nodes=[node("Relu", ["c"], ["r"]), one("Add", "r")]),
    "SUB": Case(nodes=[node("Relu", ["c"], ["r"]), one("Sub", "r")]),
    "MUL": Case(nodes=[node("Relu", ["c"], ["r"]), one("Mul", "r")]),
    "MEAN": Case(nodes=[one("ReduceMean", axes=[3])]),
    "SUM": Case(nodes=[one("ReduceSum", "axes")], constants={"axes": ints(3)}),
    "RELU": Case(nodes=[node("MaxPool", ["c"], ["p"], kernel_shape=[1, 2]),
                        node("Concat", ["p", "p"], ["j"], axis=1),
                        node("Relu", ["j"], ["o"])], channels=16),
    "RELU6": Case(nodes=[node("Concat", ["c", "c"], ["j"], axis=1),
                         node("Clip", ["j", "zero", "six"], ["o"])],
                  constants={"zero": F(0), "six": F(6)}, channels=16),
    "LEAKY_RELU": Case(nodes=[one("LeakyRelu", alpha=0.1)]),
    "PRELU": Case(nodes=[one("PRelu", "slope")], constants={"slope": w(8, 1, 1)}),
    "ELU": Case(nodes=[one("Elu")]),
    "HARD_SWISH": Case(nodes=[one("HardSwish")]),
    "GELU": Case(nodes=[one("Gelu")]),
    "LOGISTIC": Case(nodes=[one("Sigmoid")]),
    "SOFTMAX": Case(nodes=[one("Softmax", axis=1)], least_db=24),
    "TANH": Case(nodes=[one("Tanh")]),
    "AVERAGE_POOL_2D": Case(nodes=[one("AveragePool", kernel_shape=[2, 2])]),
    "MAX_POOL_2D": Case(nodes=[one("MaxPool", kernel_shape=[2, 2])]),
    "REDUCE_MAX": Case(nodes=[one("ReduceMax", axes=[3])]),
    "REDUCE_MIN": Case(nodes=[one("ReduceMin", axes=[3])]),
    "RESHAPE": Case(nodes=[one("Reshape", "s")], constants={"s": ints(1, 8, 9, 4)}),
    "TRANSPOSE": Case(nodes=[node("Conv", ["c", "k"], ["n"]), one("Transpose", perm=[0, 2, 1, 3])],
                      constants={"k": w(8, 8, 1, 1)}, channels=6),
    "SLICE": Case(nodes=[one("Slice", "a", "b", "axes")],
                  constants={"a": ints(1), "b": ints(5), "axes": ints(3)}),
    "STRIDED_SLICE": Case(nodes=[one("Slice", "a", "b", "axes", "step")],
                          constants={"a": ints(0), "b": ints(6), "axes": ints(3), "step": ints(2)}),
    "SPLIT": Case(nodes=[one("Split", axis=1, outputs=("p", "q")), node("Mul", ["p", "q"], ["o"])],
                  channels=4),
    "SPLIT_V": Case(nodes=[one("Split", "sizes", axis=1, outputs=("p", "o"))],
                    constants={"sizes": ints(3, 5)}, channels=5),
    "GATHER": Case(nodes=[one("Gather", "ids", axis=1)], constants={"ids": ints(3, 1, 4)},
                   channels=3),
    "PAD": Case(nodes=[one("Pad", "pads")], constants={"pads": ints(0, 0, 1, 2, 0, 0, 2, 1)}),
    "PADV2": Case(nodes=[one("Pad", "pads", "fill")],
                  constants={"pads": ints(0, 0, 1, 2, 0, 0, 2, 1), "fill": F(0.7)}),
    "MIRROR_PAD": Case(nodes=[one("Pad", "pads", mode="reflect")],
                       constants={"pads": ints(0, 0, 1, 2, 0, 0, 2, 1)}),
    "TILE": Case(nodes=[one("Tile", "times")], constants={"times": ints(1, 1, 2, 1)}),
    "DEPTH_TO_SPACE": Case(nodes=[one("DepthToSpace", blocksize=2)], channels=2),
    "SPACE_TO_DEPTH": Case(nodes=[one("SpaceToDepth", blocksize=2)], channels=32),
    "RESIZE_BILINEAR": Case(nodes=[one("Resize", "", "scales", mode="linear")],
                            constants={"scales": np.array([1, 1, 2, 2], F)}),
    "RESIZE_NEAREST_NEIGHBOR": Case(
        nodes=[one("Resize", "", "scales", mode="nearest",
                   coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        constants={"scales": np.array([1, 1, 2, 2], F)}),
    "CONCATENATION": Case(nodes=[node("Relu", ["c"], ["r"]), one("Concat", "r", axis=1)],
                          channels=16),
    "MAXIMUM": Case(nodes=[node("Conv", ["x", "k"], ["d"]), one("Max", "d")],
                    constants={"k": w(8, 8, 1, 1, seed=3)}),
    "MINIMUM": Case(nodes=[node("Conv", ["x", "k"], ["d"]), one("Min", "d")],
                    constants={"k": w(8, 8, 1, 1, seed=3)}),
    "SELECT_V2": Case(nodes=[node("Conv", ["x", "k"], ["d"]),
                             node("Where", ["mask", "c", "d"], ["o"])],
                      constants={"k": w(8, 8, 1, 1, seed=3), "mask": w(8, 6, 6) > 0}),
}  # fmt: skip


def tensor(name: str, *shape: int, data: NDArray[Any] | None = None) -> Tensor:
    dtype = "float32" if data is None else data.dtype.name
    return Tensor(name=name, dtype=dtype, shape=shape, data=data)


def numbers(*values: int) -> Tensor:
    data = np.array(values, np.int32)
    return tensor(f"numbers{values}", len(values), data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """An operator on what a convolution makes, 6 by 6 of 8 channels, as files of others have it."""

    shape: tuple[int, ...]
    more: tuple[Tensor, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    position: int = 0
    twice: bool = False


# The converter does not write these for a graph of the form above.
BY_HAND = {
    "SQUEEZE": ByHand(shape=(6, 6, 8), options={"squeezeDims": [0]}),
    "EXPAND_DIMS": ByHand(shape=(1, 1, 6, 6, 8), more=(numbers(0),)),
    "PACK": ByHand(shape=(1, 2, 6, 6, 8), options={"axis": 1, "valuesCount": 2}, twice=True),
    "UNPACK": ByHand(shape=(6, 6, 8), options={"axis": 0, "num": 1}),
    "BROADCAST_TO": ByHand(shape=(3, 6, 6, 8), more=(numbers(3, 6, 6, 8),)),
    "REVERSE_V2": ByHand(shape=SHAPE, more=(numbers(2),)),
    "TRANSPOSE_CONV": ByHand(
        shape=(1, 12, 12, 5),
        more=(
            numbers(1, 12, 12, 5),
            tensor("filters", 5, 2, 2, 8, data=w(5, 2, 2, 8)),
            tensor("biases", 5, data=w(5)),
        ),
        options={"padding": "SAME", "strideH": 2, "strideW": 2},
        position=2,
    ),
}


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT16X8])
@pytest.mark.parametrize("code", BY_HAND)
def test_operators_that_only_others_write(code: str, scheme: Scheme, tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    case = BY_HAND[code]
    x, c, o = tensor("x", *SHAPE), tensor("c", *SHAPE), tensor("o", *case.shape)
    size = int(np.prod(case.shape))
    r, y = tensor("r", 1, size), tensor("y", 1, 4)
    operands: list[Tensor | None] = [*case.more]
    operands.insert(case.position, c)
    conv = {"padding": "SAME", "strideH": 1, "strideW": 1}
    before = tensor("before", 8, 1, 1, 8, data=w(8, 1, 1, 8))
    after = tensor("after", 4, size, data=w(4, size, scale=0.05))
    program = Program(
        name="main",
        inputs=[x],
        outputs=[y],
        operators=[
            Operator(
                code="CONV_2D",
                inputs=[x, before, tensor("b", 8, data=w(8))],
                outputs=[c],
                options={**conv, "dilationHFactor": 1, "dilationWFactor": 1},
            ),
            Operator(
                code=code,
                inputs=operands + ([c] if case.twice else []),
                outputs=[o],
                options=case.options,
            ),
            Operator(code="RESHAPE", inputs=[o, numbers(1, size)], outputs=[r]),
            Operator(code="FULLY_CONNECTED", inputs=[r, after], outputs=[y]),
        ],
        located={},
    )
    content = emit(program, description="", where="test")
    path = tmp_path / "float.tflite"
    path.write_bytes(content)
    feeds = {"x": w(*SHAPE, scale=1)}
    expected = run_flat(path, feeds)["y"]
    model = read_model(schema, content)
    found = {text_of(t.name): n for n, t in enumerate(model.subgraphs[0].tensors)}
    spans = {"x": 4.0, "c": 4.0, "o": 6.0, "y": float(np.abs(expected).max())}
    ranges = {found[name]: Range(low=-span, high=span) for name, span in spans.items()}
    quantized, _ = quantize_flat(
        schema, model, QuantizationPlan(scheme=scheme), ranges=ranges, keep=frozenset(),
        wide=frozenset(), where="test", bytes_before=len(content),
    )  # fmt: skip
    path.write_bytes(quantized)
    (tested,) = (op for op in operators_of(path) if op.code == code)
    if rules()[code].has(16) or scheme is Scheme.INT8:
        assert tested.outputs == ("int8" if scheme is Scheme.INT8 else "int16",)
    else:
        assert tested.outputs == ("float32",)
    for plain in (False, True):
        assert sqnr_db(expected, run_flat(path, feeds, plain=plain)["y"]) > 15, plain


def test_no_operator_of_the_table_is_left_out() -> None:
    assert set(CASES) | set(BY_HAND) == set(rules())


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT16X8])
@pytest.mark.parametrize("code", CASES)
def test_integers_compute_what_floats_do(
    make_model: Any, tmp_path: Path, code: str, scheme: Scheme
) -> None:
    case = CASES[code]
    model = make_model(
        [
            node("Conv", ["x", "before"], ["c"], name="before"),
            *case.nodes,
            node("Conv", ["o", "after"], ["y"], name="after"),
        ],
        {"x": [1, 8, 6, 6]},
        ["y"],
        {"before": w(8, 8, 1, 1), "after": w(4, case.channels, 1, 1), **case.constants},
        opset=20 if code == "GELU" else 17,
    )
    normalised = normalise(model, where="test")
    compiled = compile_to_litert(normalised, where="test")
    feeds = {"x": w(1, 8, 6, 6, scale=1)}
    plan = QuantizationPlan(scheme=scheme, ranges=min_max_ranges(normalised, [feeds]))
    path = tmp_path / "quantized.tflite"
    write_litert(compiled, plan, path, where="test", normalised=normalised)
    # The last one puts the output into ONNX's order of axes.
    operators = operators_of(path)[:-1]
    kinds = {types for op in operators if op.code == code for types in op.outputs}
    if rules()[code].has(16) or scheme is Scheme.INT8:
        assert kinds == {"int8" if scheme is Scheme.INT8 else "int16"}, operators
    else:
        assert kinds == {"float32"}
    expected = run_onnx(normalised, feeds)["y"]
    for plain in (False, True):
        computed = run_flat(path, feeds, plain=plain)["y"]
        least = case.least_db + (8 if scheme is Scheme.INT16X8 else 0)
        assert sqnr_db(expected, computed) > least, plain
