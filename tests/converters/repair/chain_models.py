"""Two layers with something between them, and the tools to judge what was made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.plan import QuantizationPlan
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.ranges import RangeMethod, RangeStatistics, collect_ranges

CHANNELS = 8


def chain_model(
    between: tuple[Any, ...], *, depthwise: bool = True, apart: float = 100.0, ends: int = 1
) -> Any:
    """Conv 1x1, what is between (values h0, h1, ...), and a Conv, its channels' ranges apart."""
    rng = np.random.default_rng(1)
    factors = np.geomspace(1 / apart, 1, CHANNELS).astype(np.float32)
    first = rng.normal(size=(CHANNELS, 3, 1, 1)).astype(np.float32) * factors[:, None, None, None]
    shape = (CHANNELS, 1, 3, 3) if depthwise else (4, CHANNELS, 1, 1)
    second = rng.normal(size=shape).astype(np.float32)
    second /= factors.reshape((-1, 1, 1, 1) if depthwise else (1, -1, 1, 1))
    count = len(between)
    outputs = [f"h{count}"] if ends > 1 else []
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1", "b1"], ["h0"], name="first"),
            *between,
            helper.make_node(
                "Conv",
                [f"h{count}", "w2"],
                ["y"],
                name="second",
                group=CHANNELS if depthwise else 1,
            ),
        ],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs),
        ],
        [
            numpy_helper.from_array(first, "w1"),
            numpy_helper.from_array(factors * 0.1, "b1"),
            numpy_helper.from_array(second, "w2"),
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
            numpy_helper.from_array(np.array(6, np.float32), "six"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return normalise(onnx.shape_inference.infer_shapes(model), where="chain")


def images(count: int = 4, seed: int = 2, scale: float = 1.0) -> list[dict[str, NDArray[Any]]]:
    """Batches of the input `x`."""
    rng = np.random.default_rng(seed)
    return [{"x": (scale * rng.normal(size=(4, 3, 6, 6))).astype(np.float32)} for _ in range(count)]


def int8_plan(
    model: Any, batches: Any, method: RangeMethod = RangeMethod.MIN_MAX
) -> QuantizationPlan:
    """Plain int8, its ranges by one method."""
    return plan_of(collect_ranges(model, batches), method)


def plan_of(
    statistics: Any, method: RangeMethod = RangeMethod.MIN_MAX, scheme: Scheme = Scheme.INT8
) -> QuantizationPlan:
    """A plan with the ranges that were seen."""
    found: dict[str, RangeStatistics] = dict(statistics)
    ranges = {name: seen.range(method) for name, seen in found.items()}
    return QuantizationPlan(scheme=scheme, ranges=ranges, saturates=False)


def sqnr_db(expected: NDArray[Any], computed: NDArray[Any]) -> float:
    """The power of the signal over that of the error, in decibels."""
    noise = np.square(expected - computed).mean()
    return float(10 * np.log10(np.square(expected).mean() / max(noise, 1e-30)))
