"""Small whole models, each with another part of ONNX in it, for mutations to start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converters.onnx_files import model_of

node = helper.make_node


def _weights(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).normal(scale=0.5, size=shape).astype(np.float32)


def _whole(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _convolutional() -> Any:
    return model_of(
        [
            node("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
            node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"], name="norm1"),
            node("Relu", ["n1"], ["r1"], name="relu1"),
            node("MaxPool", ["r1"], ["p1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["p1", "w2", "b2"], ["c2"], name="conv2", group=4, strides=[1, 1],
                 dilations=[1, 1], kernel_shape=[3, 3], auto_pad="SAME_UPPER"),
            node("Clip", ["c2", "low", "high"], ["k2"], name="clip2"),
            node("ConvTranspose", ["k2", "w3"], ["t3"], name="up3", strides=[2, 2]),
            node("Resize", ["t3", "", "scales"], ["z4"], name="resize4", mode="nearest",
                 coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
            node("GlobalAveragePool", ["z4"], ["a5"], name="pool5"),
            node("Flatten", ["a5"], ["f6"], name="flatten6"),
            node("Gemm", ["f6", "w6", "b6"], ["d6"], name="dense6", transB=1),
            node("Softmax", ["d6"], ["y"], name="softmax", axis=1),
        ],
        inputs={"x": ["n", 3, 8, 8]},
        constants={
            "w1": _weights(4, 3, 3, 3), "g": _weights(4), "b": _weights(4), "m": _weights(4),
            "v": np.ones(4, np.float32), "w2": _weights(4, 1, 3, 3), "b2": _weights(4),
            "low": np.float32(0), "high": np.float32(6), "w3": _weights(4, 2, 2, 2),
            "scales": np.array([1, 1, 2, 2], np.float32), "w6": _weights(5, 2), "b6": _weights(5),
        },
    )  # fmt: skip


def _attention() -> Any:
    nodes = [
        node("Gather", ["table", "ids"], ["e"], name="embedding"),
        node("LayerNormalization", ["e", "g", "b"], ["n"], name="norm", axis=-1),
        *(node("MatMul", ["n", f"w{part}"], [part], name=f"project_{part}") for part in "qkv"),
        *(node("Reshape", [part, "heads"], [f"{part}h"], name=f"split_{part}") for part in "qkv"),
        *(node("Transpose", [f"{part}h"], [f"{part}t"], name=f"heads_{part}", perm=[0, 2, 1, 3])
          for part in "qkv"),
        node("Transpose", ["kt"], ["kk"], name="keys", perm=[0, 1, 3, 2]),
        node("MatMul", ["qt", "kk"], ["s"], name="scores"),
        node("Div", ["s", "root"], ["sd"], name="scale"),
        node("Softmax", ["sd"], ["p"], name="softmax", axis=-1),
        node("MatMul", ["p", "vt"], ["o"], name="mix"),
        node("Transpose", ["o"], ["ot"], name="back", perm=[0, 2, 1, 3]),
        node("Reshape", ["ot", "flat"], ["of"], name="join"),
        node("Slice", ["of", "zero", "one", "axis"], ["first"], name="first"),
        node("Squeeze", ["first", "axis"], ["sq"], name="squeeze"),
        node("Erf", ["sq"], ["erf"], name="erf"),
        node("ReduceMean", ["erf"], ["r"], name="mean", axes=[-1], keepdims=1),
        node("Concat", ["r", "sq"], ["y"], name="concat", axis=-1),
    ]  # fmt: skip
    return model_of(
        nodes,
        inputs={"ids": [1, 4]},
        dtype=TensorProto.INT64,
        constants={
            "table": _weights(11, 8), "g": _weights(8), "b": _weights(8), "wq": _weights(8, 8),
            "wk": _weights(8, 8), "wv": _weights(8, 8), "heads": _whole(0, 0, 2, 4),
            "flat": _whole(0, 0, 8), "root": np.float32(2), "zero": _whole(0), "one": _whole(1),
            "axis": _whole(1),
        },
    )  # fmt: skip


def _recurrent() -> Any:
    return model_of(
        [
            node("LSTM", ["x", "w", "r", "b"], ["o", "h", ""], name="lstm", hidden_size=4,
                 direction="bidirectional"),
            node("Squeeze", ["h", "axis"], ["hs"], name="squeeze"),
            node("GRU", ["hs", "gw", "gr"], ["go"], name="gru", hidden_size=3,
                 linear_before_reset=1),
            node("Pad", ["go", "pads"], ["gp"], name="pad", mode="constant"),
            node("TopK", ["gp", "k"], ["y", "i"], name="topk", axis=-1),
        ],
        inputs={"x": [5, 2, 3]},
        constants={
            "w": _weights(2, 16, 3), "r": _weights(2, 16, 4), "b": _weights(2, 32),
            "axis": np.array([], np.int64), "gw": _weights(1, 9, 4), "gr": _weights(1, 9, 3),
            "pads": _whole(0, 0, 0, 0, 0, 0, 0, 1), "k": _whole(2),
        },
    )  # fmt: skip


def _control_flow() -> Any:
    then = helper.make_graph(
        [node("Relu", ["x"], ["t"], name="inner_relu")], "then", [],
        [helper.make_tensor_value_info("t", 1, [2, 3])],
    )  # fmt: skip
    other = helper.make_graph(
        [node("Constant", [], ["e"], value=numpy_helper.from_array(_weights(2, 3)))], "else", [],
        [helper.make_tensor_value_info("e", 1, [2, 3])],
    )  # fmt: skip
    body = helper.make_graph(
        [node("Add", ["acc", "x"], ["out"]), node("Identity", ["going"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("going", 9, []),
            helper.make_tensor_value_info("acc", 1, [2, 3]),
        ],
        [
            helper.make_tensor_value_info("go_on", 9, []),
            helper.make_tensor_value_info("out", 1, [2, 3]),
        ],
    )
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    return model_of(
        [
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Greater", ["s", "zero"], ["c"], name="greater"),
            node("If", ["c"], ["f"], name="if", then_branch=then, else_branch=other),
            node("Loop", ["trips", "yes", "f"], ["l"], name="loop", body=body),
            node("Twice", ["l"], ["y"], name="call", domain="mine"),
        ],
        inputs={"x": [2, 3]},
        constants={"zero": np.float32(0), "trips": np.int64(3), "yes": np.bool_(True)},
        domains=["mine"],
        functions=[function],
    )


def _indexing() -> Any:
    model = model_of(
        [
            node("Shape", ["x"], ["shape"], name="shape"),
            node("Gather", ["shape", "first"], ["n"], name="batch", axis=0),
            node("Unsqueeze", ["n", "first0"], ["n1"], name="unsqueeze"),
            node("Concat", ["n1", "rest"], ["to"], name="concat", axis=0),
            node("Reshape", ["x", "to"], ["r"], name="reshape"),
            node("Expand", ["r", "wide"], ["e"], name="expand"),
            node("Tile", ["e", "times"], ["t"], name="tile"),
            node("Split", ["t"], ["s1", "s2"], name="split", axis=-1),
            node("GatherElements", ["s1", "indices"], ["ge"], name="elements", axis=1),
            node("Where", ["mask", "ge", "s2"], ["w"], name="where"),
            node("CumSum", ["w", "axis"], ["cs"], name="cumsum"),
            node("DepthToSpace", ["d"], ["ds"], name="depth", blocksize=2),
            node("Cast", ["ds"], ["dc"], name="cast", to=TensorProto.FLOAT),
            node("ReduceMax", ["dc"], ["dm"], name="max", keepdims=0),
            node("Mul", ["cs", "dm"], ["y"], name="mul"),
        ],
        inputs={"x": [2, 12], "d": [1, 4, 2, 2]},
        constants={
            "first": np.int64(0), "first0": _whole(0), "rest": _whole(3, 4),
            "wide": _whole(2, 3, 4),
            "times": _whole(1, 1, 2), "indices": np.zeros((2, 1, 4), np.int64),
            "mask": np.array([True, False, True, True]), "axis": np.int64(2),
        },
    )  # fmt: skip
    sparse = onnx.SparseTensorProto(dims=[2, 3])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "unused"))
    sparse.indices.CopyFrom(numpy_helper.from_array(_whole(2), "unused_at"))
    model.graph.sparse_initializer.append(sparse)
    return model


def _quantized() -> Any:
    return model_of(
        [
            node("Conv", ["x", "w", "b"], ["c"], name="conv", kernel_shape=[3, 3]),
            node("Elu", ["c"], ["e"], name="elu", alpha=0.5),
            node("QuantizeLinear", ["e", "s", "z"], ["q"], name="quantize"),
            node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize"),
            node("LRN", ["d"], ["l"], name="lrn", size=3),
            node("AveragePool", ["l"], ["a"], name="pool", kernel_shape=[2, 2], ceil_mode=1,
                 count_include_pad=1, pads=[1, 1, 0, 0]),
            node("InstanceNormalization", ["a", "g", "b"], ["i"], name="norm"),
            node("PRelu", ["i", "slope"], ["y"], name="prelu"),
        ],
        inputs={"x": [1, 2, 6, 6]},
        constants={
            "w": _weights(2, 2, 3, 3), "b": _weights(2), "s": np.float32(0.1), "z": np.int8(0),
            "g": _weights(2), "slope": _weights(2, 1, 1),
        },
    )  # fmt: skip


def _old() -> Any:
    """Opset 7 as exporters wrote it: attributes where inputs are today, weights as inputs."""
    return model_of(
        [
            node("Conv", ["x", "w"], ["c"], name="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Clip", ["c"], ["k"], name="clip", min=0.0, max=6.0),
            node("Pad", ["k"], ["p"], name="pad", pads=[0, 0, 1, 1, 0, 0, 1, 1]),
            node("Upsample", ["p"], ["u"], name="upsample", scales=[1.0, 1.0, 2.0, 2.0]),
            node("Slice", ["u"], ["s"], name="slice", starts=[0], ends=[2], axes=[1]),
            node("Squeeze", ["s"], ["q"], name="squeeze", axes=[0]),
            node("Dropout", ["q"], ["o"], name="dropout", ratio=0.5),
            node("ReduceSum", ["o"], ["y"], name="sum", axes=[1, 2], keepdims=0),
        ],
        inputs={"x": [1, 3, 5, 5], "w": [4, 3, 3, 3]},
        constants={"w": _weights(4, 3, 3, 3)},
        opset=7,
        ir_version=3,
    )


SEEDS: Final[Mapping[str, Callable[[], Any]]] = {
    "convolutional": _convolutional,
    "attention": _attention,
    "recurrent": _recurrent,
    "control_flow": _control_flow,
    "indexing": _indexing,
    "quantized": _quantized,
    "old": _old,
}


@cache
def seed_model(name: str) -> Any:
    """A checked model; do not change it."""
    model = SEEDS[name]()
    for value in model.graph.output:
        value.type.Clear()
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
