"""Lists of tensors and optionals inside of a model: nothing of them is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F, I64 = np.float32, np.int64
FLOAT = TensorProto.FLOAT


def _x(*shape: int, dtype: Any = F, seed: int = 3) -> Any:
    return np.random.default_rng(seed).integers(1, 9, size=shape).astype(dtype)


def _at(place: int) -> dict[str, Any]:
    return {"p": np.array(place, dtype=I64)}


@pytest.mark.parametrize("place", [0, 2, -1, -3])
@pytest.mark.parametrize("computed", [False, True])
def test_an_element_of_a_list(place: int, computed: bool, agree: Any) -> None:
    nodes = [
        node("Neg", ["a"], ["n"]),
        node("SequenceConstruct", ["a", "n", "b"], ["s"]),
        node("SequenceAt", ["s", "p"], ["y"]),
    ]
    arrays = {"a": _x(2, 3), "b": _x(2, 3, seed=4), **(_at(place) if computed else {})}
    agree(nodes, arrays, constants={} if computed else _at(place))


def test_a_list_that_is_changed(agree: Any) -> None:
    nodes = [
        node("SequenceEmpty", [], ["s0"], dtype=FLOAT),
        node("SequenceInsert", ["s0", "a"], ["s1"]),
        node("SequenceInsert", ["s1", "b", "zero"], ["s2"]),
        node("SequenceInsert", ["s2", "a", "last"], ["s3"]),
        node("SequenceErase", ["s3"], ["s4"]),
        node("SequenceErase", ["s3", "zero"], ["s5"]),
        node("SequenceLength", ["s3"], ["n"]),
        node("ConcatFromSequence", ["s3"], ["y"], axis=0),
        node("ConcatFromSequence", ["s4"], ["z"], axis=-1),
        node("ConcatFromSequence", ["s5"], ["w"], axis=1, new_axis=1),
    ]
    constants = {"zero": np.array(0, dtype=I64), "last": np.array(-1, dtype=I64)}
    agree(nodes, {"a": _x(2, 3), "b": _x(2, 3, seed=4)}, ("n", "y", "z", "w"), constants)


@pytest.mark.parametrize("split", [None, 2, 4, [1, 2, 2]])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("keep", [0, 1])
def test_a_tensor_taken_apart(split: Any, axis: int, keep: int, agree: Any) -> None:
    names = ["x"] if split is None else ["x", "n"]
    constants = {} if split is None else {"n": np.array(split, dtype=I64)}
    nodes = [
        node("SplitToSequence", names, ["s"], axis=axis, keepdims=keep),
        node("SequenceAt", ["s", "p"], ["y"]),
        node("SequenceLength", ["s"], ["l"]),
    ]
    x = _x(5, 5)
    # onnxruntime drops the axis even where sizes are given.
    cuts = (
        [1, 2, 3, 4] if split is None else [2, 4] if split == 2 else [4] if split == 4 else [1, 3]
    )
    parts = np.split(x, cuts, axis=axis)
    part = parts[1].squeeze(axis) if split is None and not keep else parts[1]
    agree(nodes, {"x": x}, ("y", "l"), {**constants, **_at(1)},
          expected=[{"y": part, "l": np.array(len(parts))}])  # fmt: skip


def test_a_tensor_taken_apart_and_put_together(agree: Any) -> None:
    nodes = [
        node("SplitToSequence", ["x"], ["s"], axis=1, keepdims=0),
        node("ConcatFromSequence", ["s"], ["y"], axis=0, new_axis=1),
    ]
    agree(nodes, [{"x": _x(4, 3)}, {"x": _x(2, 3)}], free={"x": [0]})


def test_a_body_for_every_element(agree: Any) -> None:
    body = helper.make_graph(
        [node("Mul", ["e", "f"], ["m"]), node("Add", ["e", "g"], ["q"])],
        "body",
        [helper.make_tensor_value_info(name, FLOAT, None) for name in ("e", "f", "g")],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in ("m", "q")],
    )
    nodes = [
        node("SplitToSequence", ["x", "two"], ["s"]),
        node("SplitToSequence", ["k", "two"], ["t"]),
        node("SequenceMap", ["s", "t", "o"], ["u", "v"], body=body),
        node("ConcatFromSequence", ["u"], ["y"], axis=0),
        node("SequenceAt", ["v", "p"], ["z"]),
    ]
    arrays = {"x": _x(4, 3), "k": _x(4, 3, seed=5), "o": _x(3)}
    agree(nodes, arrays, ("y", "z"), {"two": np.array(2, dtype=I64), **_at(-1)})


def test_a_loop_that_carries_a_list(agree: Any) -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    body = helper.make_graph(
        [
            node("Identity", ["going"], ["goes_on"]),
            node("Gather", ["x", "count"], ["row"]),
            node("SequenceInsert", ["s", "row"], ["s_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_value_info("s", kind),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_value_info("s_out", kind),
        ],
    )
    nodes = [
        node("SequenceEmpty", [], ["s0"], dtype=FLOAT),
        node("Loop", ["n", "", "s0"], ["s1"], body=body),
        node("ConcatFromSequence", ["s1"], ["y"], axis=0),
    ]
    agree(nodes, {"x": _x(20, 2)}, constants={"n": np.array(20, dtype=I64)})


def test_optionals(agree: Any) -> None:
    nodes = [
        node("Neg", ["x"], ["n"]),
        node("Optional", ["n"], ["o"]),
        node("OptionalHasElement", ["o"], ["y"]),
        node("OptionalGetElement", ["o"], ["z"]),
        node("OptionalHasElement", [], ["w"]),
        node("OptionalHasElement", ["x"], ["v"]),
        node("OptionalGetElement", ["x"], ["u"]),
    ]
    agree(nodes, {"x": _x(2)}, ("y", "z", "w", "v", "u"))


def test_a_choice_by_what_is_there(agree: Any) -> None:
    then = helper.make_graph([node("OptionalGetElement", ["o"], ["t"])], "then", [],
                             [helper.make_tensor_value_info("t", FLOAT, [2])])  # fmt: skip
    other = helper.make_graph([node("Neg", ["x"], ["e"])], "else", [],
                              [helper.make_tensor_value_info("e", FLOAT, [2])])  # fmt: skip
    nodes = [
        node("Abs", ["x"], ["a"]),
        node("Optional", ["a"], ["o"]),
        node("OptionalHasElement", ["o"], ["c"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    codes = agree(nodes, {"x": _x(2)})
    assert codes == ("ABS",)


def test_a_list_whose_length_depends_on_the_input_is_refused(agree: Any) -> None:
    nodes = [
        node("SplitToSequence", ["x", "n"], ["s"]),
        node("ConcatFromSequence", ["s"], ["y"], axis=0),
    ]
    with pytest.raises(UnsupportedModelError, match="how long this one is depends on the input"):
        agree(nodes, {"x": _x(4, 2), "n": np.array(2, dtype=I64)})


def test_an_element_of_computed_place_and_shape_is_refused(agree: Any) -> None:
    nodes = [node("SequenceConstruct", ["a", "b"], ["s"]), node("SequenceAt", ["s", "p"], ["y"])]
    with pytest.raises(UnsupportedModelError, match="SequenceAt"):
        agree(nodes, {"a": _x(2, 3), "b": _x(2, 4), **_at(0)})


@pytest.mark.parametrize("kind", ["sequence", "optional"])
def test_lists_at_the_border_are_refused_by_name(kind: str) -> None:
    element = helper.make_tensor_type_proto(FLOAT, [2])
    make = {
        "sequence": helper.make_sequence_type_proto,
        "optional": helper.make_optional_type_proto,
    }
    border = helper.make_value_info("given", make[kind](element))
    take = (
        [node("ConcatFromSequence", ["given"], ["y"], axis=0)]
        if kind == "sequence"
        else [node("OptionalGetElement", ["given"], ["y"])]
    )
    graph = helper.make_graph(
        take, "test", [border], [helper.make_tensor_value_info("y", FLOAT, None)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(UnsupportedModelError, match=f"the input 'given' is .*{kind}"):
        compile_to_litert(normalise(model, where="test"), where="test")
