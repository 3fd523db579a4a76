"""Steps with a state or a body: recurrent layers, If, Loop, Scan."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from converters.random_graphs.draft import Draft

_GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(draft: Draft, x: str) -> list[str]:
    """Over steps or over the batch: whichever the value's first axes are."""
    draft.floats(x)
    shape = draft.shape(x)
    # onnxruntime ends the process over a sequence of nothing.
    draft.require(len(shape) == 3 and 0 not in shape and shape[2] is not None)
    operator = draft.pick(list(_GATES))
    hidden, gates = draft.between(1, 4), _GATES[operator]
    direction = draft.pick(["forward", "forward", "reverse", "bidirectional"])
    ways = 2 if direction == "bidirectional" else 1
    inputs = [
        x,
        draft.weights(ways, gates * hidden, shape[2] or 1),
        draft.weights(ways, gates * hidden, hidden),
        draft.weights(ways, 2 * gates * hidden) if draft.chance(0.7) else "",
    ]
    by_batch = draft.opset >= 14 and draft.chance(0.2)
    batch, steps = (shape[0], shape[1]) if by_batch else (shape[1], shape[0])
    if batch is not None and steps is not None and draft.chance(0.2):
        lengths = draft.rng.integers(1, steps + 1, size=batch).astype(np.int32)
        inputs.append(draft.operand(lengths))
    elif batch is not None and draft.chance(0.3):
        state = draft.array("float32", [batch, ways, hidden] if by_batch else [ways, batch, hidden])
        inputs += ["", draft.operand(state, 0.5)]
    options: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if by_batch:
        options["layout"] = 1
    if operator == "GRU" and draft.chance(0.5):
        options["linear_before_reset"] = 1
    if draft.chance(0.15):
        options["clip"] = 0.5
    outputs = draft.add(operator, inputs, 3 if operator == "LSTM" else 2, **options)
    return draft.pick([outputs[:1], outputs, outputs[1:]])


def recurrent_layer(draft: Draft, x: str) -> list[str]:
    """As PyTorch exports it for batches first: transposed, run, and the directions joined."""
    draft.require(draft.rank(x) == 3 and draft.opset >= 13)
    (x,) = draft.add("Transpose", [x], perm=[1, 0, 2])
    (y, *_) = recurrent(draft, x)
    draft.require(draft.rank(y) == 4)
    (y,) = draft.add("Transpose", [y], perm=[2, 0, 1, 3])
    return draft.add("Reshape", [y], shape=np.array([0, 0, -1]))


def branch(draft: Draft, x: str) -> list[str]:
    """An If, its condition constant or computed, whose branches read what is outside."""
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(draft.dtype(x)))
    kind = draft.pick(["constant", "input", "computed"])
    if kind == "computed":
        draft.require(draft.opset >= 13 and draft.dtype(x) in {"float32", "int32", "int64"})
        (total,) = draft.add("ReduceSum", [x], keepdims=0)
        zero = draft.constant(np.asarray(0, draft.dtype(x)))
        (condition,) = draft.add("Greater", [total, zero])
    else:
        array = np.asarray(draft.chance(0.5))
        condition = draft.constant(array) if kind == "constant" else draft.input([], "bool", array)
    bodies = {}
    for name in ("then_branch", "else_branch"):
        operator = draft.pick(["Neg", "Abs", "Identity", "Add", "Relu"])
        inside = f"{name}/{len(draft.nodes)}"
        node = helper.make_node(operator, [x, x] if operator == "Add" else [x], [inside])
        bodies[name] = helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(inside, dtype, None)]
        )
    return draft.append("If", [condition], 1, bodies, [x])


def loop(draft: Draft, x: str) -> list[str]:
    """A Loop that carries a value, reads another from outside, and collects one more."""
    dtype, shape = draft.dtype(x), draft.shape(x)
    draft.require(dtype in {"float32", "int32", "int64"})
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    count = draft.operand(np.asarray(draft.between(1, 4)), 0.3)
    tag = len(draft.nodes)
    nodes = [
        helper.make_node("Identity", [f"cond{tag}"], [f"again{tag}"]),
        helper.make_node(draft.pick(["Add", "Sub", "Max"]), [f"carried{tag}", x], [f"next{tag}"]),
        helper.make_node("Neg", [f"next{tag}"], [f"seen{tag}"]),
    ]
    sizes = [None if size is None else size for size in shape]
    body = helper.make_graph(
        nodes,
        "body",
        [
            helper.make_tensor_value_info(f"round{tag}", TensorProto.INT64, []),
            helper.make_tensor_value_info(f"cond{tag}", TensorProto.BOOL, []),
            helper.make_tensor_value_info(f"carried{tag}", element, sizes),
        ],
        [
            helper.make_tensor_value_info(f"again{tag}", TensorProto.BOOL, []),
            helper.make_tensor_value_info(f"next{tag}", element, sizes),
            helper.make_tensor_value_info(f"seen{tag}", element, sizes),
        ],
    )
    condition = draft.constant(np.asarray(True)) if draft.chance(0.7) else ""
    return draft.append("Loop", [count, condition, x], 2, {"body": body}, [x])


def scan(draft: Draft, x: str) -> list[str]:
    """A Scan along the first axis: a running sum, and what it was at each step."""
    dtype, shape = draft.dtype(x), draft.shape(x)
    draft.require(dtype == "float32" and len(shape) >= 2 and None not in shape[1:])
    tag, sizes = len(draft.nodes), list(shape[1:])
    weights = numpy_helper.from_array(draft.array("float32", [1]), f"weights{tag}")
    nodes = [
        helper.make_node("Mul", [f"item{tag}", f"weights{tag}"], [f"weighed{tag}"]),
        helper.make_node("Add", [f"sum{tag}", f"weighed{tag}"], [f"sum_out{tag}"]),
        helper.make_node("Tanh", [f"sum_out{tag}"], [f"seen{tag}"]),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(f"{n}{tag}", TensorProto.FLOAT, sizes)
         for n in ("sum", "item")],
        [helper.make_tensor_value_info(f"{n}{tag}", TensorProto.FLOAT, sizes)
         for n in ("sum_out", "seen")],
        [weights],
    )  # fmt: skip
    start = draft.operand(draft.array("float32", [size or 1 for size in sizes]), 0.3)
    options: dict[str, Any] = {"body": body, "num_scan_inputs": 1}
    if draft.chance(0.3):
        options["scan_input_directions"] = [1]
    draft.require(draft.opset >= 9)
    return draft.append("Scan", [start, x], 2, options)


STEPS: Final = (recurrent, recurrent, recurrent, recurrent_layer, branch, loop, scan)
