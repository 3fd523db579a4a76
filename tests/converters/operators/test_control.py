"""If, Loop and Scan: as subgraphs, written out, nested, with shapes that change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F, I64 = np.float32, np.int64
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def _x(*shape: int, dtype: Any = F, seed: int = 3) -> Any:
    return np.random.default_rng(seed).integers(1, 9, size=shape).astype(dtype)


def _value(name: str, kind: int = FLOAT, shape: Any = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _graph(
    nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], **constants: Any
) -> Any:
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()]
    return helper.make_graph(list(nodes), "body", list(inputs), list(outputs), tensors)


def _loop_body(nodes: Sequence[Any], states: Sequence[str], results: Sequence[Any] = (),
               keep: str = "", **constants: Any) -> Any:  # fmt: skip
    """A body whose states `s` become `s_out`."""
    nodes = list(nodes) if keep else [*nodes, node("Identity", ["going"], ["goes_on"])]
    return _graph(
        nodes,
        [_value("count", INT64, []), _value("going", BOOL, []), *map(_value, states)],
        [_value(keep or "goes_on", BOOL, []), *(_value(f"{state}_out") for state in states),
         *(item if not isinstance(item, str) else _value(item) for item in results)],
        **constants,
    )  # fmt: skip


CONDITIONS = [np.array(True), np.array(False)]


@pytest.mark.parametrize("free", [False, True])
def test_if_reads_outer_values(free: bool, agree: Any) -> None:
    then = _graph([node("Mul", ["r", "two"], ["t"])], [], [_value("t")], two=F(2))
    other = _graph([node("Sub", ["r", "x"], ["e"])], [], [_value("e")])
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    sets = [{"x": _x(3, 4), "c": condition} for condition in CONDITIONS]
    if free:
        sets.append({"x": _x(5, 4), "c": CONDITIONS[0]})
    codes = agree(nodes, sets, free={"x": [0] if free else []})
    assert "IF" in codes


def test_if_gives_inputs_constants_and_the_same_twice(agree: Any) -> None:
    then = _graph([node("Identity", ["x"], ["a"]), node("Identity", ["x"], ["b"])], [],
                  [_value("a"), _value("b")])  # fmt: skip
    other = _graph([node("Identity", ["k"], ["p"])], [], [_value("p"), _value("k")],
                   k=np.full((2, 2), 7, F))  # fmt: skip
    choice = node("If", ["c"], ["y", "z"], then_branch=then, else_branch=other)
    agree(choice, [{"x": _x(2, 2), "c": c} for c in CONDITIONS], ("y", "z"))


def test_if_of_different_sizes(agree: Any) -> None:
    then = _graph([node("Concat", ["x", "x"], ["t"], axis=0)], [], [_value("t")])
    other = _graph([node("Neg", ["x"], ["e"])], [], [_value("e")])
    nodes = [
        node("If", ["c"], ["i"], then_branch=then, else_branch=other),
        node("ReduceSum", ["i"], ["y"], keepdims=0),
    ]
    agree(nodes, [{"x": _x(3, 2), "c": c} for c in CONDITIONS], ("i", "y"))


def test_if_of_different_ranks_is_refused(agree: Any) -> None:
    then = _graph([node("Flatten", ["x"], ["t"])], [], [_value("t")])
    other = _graph([node("Identity", ["x"], ["e"])], [], [_value("e")])
    choice = node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    with pytest.raises(UnsupportedModelError, match="the rank of 'y' is unknown"):
        agree(choice, {"x": _x(3, 2, 2), "c": CONDITIONS[0]}, expected=[{}])


def test_nested_ifs(agree: Any) -> None:
    inner_then = _graph([node("Add", ["t", "x"], ["p"])], [], [_value("p")])
    inner_else = _graph([node("Mul", ["t", "x"], ["q"])], [], [_value("q")])
    then = _graph(
        [
            node("Neg", ["x"], ["t"]),
            node("If", ["d"], ["i"], then_branch=inner_then, else_branch=inner_else),
        ],
        [], [_value("i")],
    )  # fmt: skip
    other = _graph([node("Abs", ["x"], ["e"])], [], [_value("e")])
    choice = node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    sets = [{"x": _x(2, 2), "c": c, "d": d} for c in CONDITIONS for d in CONDITIONS]
    agree(choice, sets)


def test_a_known_condition_leaves_no_if(agree: Any) -> None:
    then = _graph([node("Neg", ["x"], ["t"])], [], [_value("t")])
    other = _graph([node("Abs", ["x"], ["e"])], [], [_value("e")])
    choice = node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    codes = agree(choice, {"x": _x(2, 2)}, constants={"c": np.array(True)})
    assert codes == ("NEG",)


def test_an_operator_of_a_body_is_refused_by_name(agree: Any) -> None:
    then = _graph([node("StringNormalizer", ["s"], ["t"], name="upper")], [],
                  [_value("t", TensorProto.STRING)], s=np.array(["a"]))  # fmt: skip
    choice = node("If", ["c"], ["y"], then_branch=then, else_branch=then)
    with pytest.raises(UnsupportedModelError, match="'y'"):
        agree(choice, {"c": CONDITIONS[0]}, expected=[{}])


@pytest.mark.parametrize("rounds", [0, 1, 3, 40])
@pytest.mark.parametrize("computed", [False, True])
def test_loop_over_states(rounds: int, computed: bool, agree: Any) -> None:
    body = _loop_body([node("Mul", ["a", "half"], ["m"]), node("Add", ["m", "x"], ["a_out"])],
                      ["a"], half=F(0.5))  # fmt: skip
    count = np.array(rounds, dtype=I64)
    loop = node("Loop", ["n", "", "x"], ["y"], body=body)
    codes = agree(loop, {"x": _x(2, 3), **({"n": count} if computed else {})},
                  constants={} if computed else {"n": count}, tolerance=1e-5)  # fmt: skip
    assert ("WHILE" in codes) == (computed or rounds > 16)


@pytest.mark.parametrize("rounds", [1, 3, 40])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("free", [[], [0], [0, 1]])
def test_loop_collects_results(rounds: int, computed: bool, free: list[int], agree: Any) -> None:
    nodes = [
        node("Add", ["a", "x"], ["a_out"]),
        node("Cast", ["count"], ["c"], to=FLOAT),
        node("Mul", ["a", "c"], ["row"]),
        node("ReduceSum", ["row"], ["total"], keepdims=0),
        node("Greater", ["row", "limit"], ["large"]),
    ]
    body = _loop_body(nodes, ["a"], ["row", "total", _value("large", BOOL)], limit=F(9))
    count = np.array(rounds, dtype=I64)
    loop = node("Loop", ["n", "", "x"], ["y", "r", "t", "l"], body=body)
    sets = [{"x": _x(2, 3)}] + ([{"x": _x(5, 3)}] if free else [])
    if computed:
        sets = [{**arrays, "n": count} for arrays in sets]
    agree(loop, sets, ("y", "r", "t", "l"), {} if computed else {"n": count}, free={"x": free},
          tolerance=1e-5)  # fmt: skip


@pytest.mark.parametrize("given", ["n", "c", "nc"])
def test_loop_until_a_condition_fails(given: str, agree: Any) -> None:
    nodes = [
        node("Add", ["a", "x"], ["a_out"]),
        node("ReduceMax", ["a_out"], ["most"], keepdims=0),
        node("Less", ["most", "limit"], ["more"]),
    ]
    body = _loop_body(nodes, ["a"], ["most"], keep="more", limit=F(50))
    inputs = {"n": np.array(4, dtype=I64), "c": np.array(True)}
    inputs = {name: array for name, array in inputs.items() if name in given}
    names = [name if name in given else "" for name in ("n", "c")]
    loop = node("Loop", [*names, "x"], ["y", "m"], body=body)
    agree(loop, [{"x": _x(2, 3), **inputs}, {"x": 9 * _x(2, 3), **inputs}], ("y", "m"))


def test_loop_that_never_starts(agree: Any) -> None:
    body = _loop_body([node("Neg", ["a"], ["a_out"])], ["a"])
    loop = node("Loop", ["n", "c", "x"], ["y"], body=body)
    arrays = {"x": _x(2), "n": np.array(5, dtype=I64)}
    agree(loop, [{**arrays, "c": condition} for condition in CONDITIONS])


def test_loop_whose_state_grows(agree: Any) -> None:
    body = _loop_body([node("Concat", ["a", "x"], ["a_out"], axis=0)], ["a"])
    loop = node("Loop", ["n", "", "x"], ["y"], body=body)
    agree(loop, [{"x": _x(2, 3), "n": np.array(rounds, dtype=I64)} for rounds in (1, 4)])


def test_loop_that_exchanges_its_states(agree: Any) -> None:
    nodes = [node("Identity", ["b"], ["a_out"]), node("Add", ["a", "b"], ["b_out"])]
    body = _loop_body(nodes, ["a", "b"], ["a"])
    loop = node("Loop", ["n", "", "x", "k"], ["y", "z", "r"], body=body)
    agree(loop, {"x": _x(2), "n": np.array(6, dtype=I64)}, ("y", "z", "r"), {"k": _x(2, seed=4)})


def test_loop_in_a_loop_in_an_if(agree: Any) -> None:
    inner = _graph(
        [node("Identity", ["go"], ["go_on"]), node("Add", ["b", "w"], ["b_out"])],
        [_value("i", INT64, []), _value("go", BOOL, []), _value("b")],
        [_value("go_on", BOOL, []), _value("b_out")],
    )
    outer = _loop_body(
        [
            node("Mul", ["a", "x"], ["w"]),
            node("Loop", ["n", "", "a"], ["a_out"], body=inner),
        ],
        ["a"],
    )
    then = _graph([node("Loop", ["n", "", "x"], ["t"], body=outer)], [], [_value("t")])
    other = _graph([node("Neg", ["x"], ["e"])], [], [_value("e")])
    choice = node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    sets = [{"x": _x(2, 2), "n": np.array(2, dtype=I64), "c": c} for c in CONDITIONS]
    agree(choice, sets, tolerance=1e-5)


def test_a_convolution_in_a_loop(agree: Any) -> None:
    body = _loop_body(
        [node("Conv", ["a", "w"], ["c"], pads=[1, 1, 1, 1]), node("Tanh", ["c"], ["a_out"])],
        ["a"], w=_x(3, 3, 3, 3) / 50,
    )  # fmt: skip
    loop = node("Loop", ["n", "", "x"], ["y"], body=body)
    arrays = {"x": _x(2, 3, 5, 6), "n": np.array(3, dtype=I64)}
    agree(loop, [arrays, {**arrays, "x": _x(1, 3, 5, 6)}], free={"x": [0]}, tolerance=1e-5)


@pytest.mark.parametrize("length", [1, 3, 40])
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scan(length: int, free: bool, backwards: int, axis: int, agree: Any) -> None:
    shape = [2, 3]
    shape.insert(axis % 3, length)
    body = _graph(
        [node("Add", ["s", "e"], ["s_out"]), node("Mul", ["s_out", "k"], ["row"])],
        [_value("s"), _value("e")], [_value("s_out"), _value("row")],
    )  # fmt: skip
    scan = node("Scan", ["k", "x"], ["y", "z"], body=body, num_scan_inputs=1,
                scan_input_axes=[axis], scan_output_axes=[axis],
                scan_input_directions=[backwards], scan_output_directions=[backwards])  # fmt: skip
    codes = agree(scan, {"k": _x(2, 3), "x": _x(*shape)}, ("y", "z"),
                  free={"x": [axis % 3] if free else []}, tolerance=1e-5)  # fmt: skip
    assert ("WHILE" in codes) == (free or length > 16)


def test_scan_of_two_inputs_and_a_free_batch(agree: Any) -> None:
    body = _graph(
        [node("Mul", ["a", "b"], ["p"]), node("Add", ["s", "p"], ["s_out"]),
         node("ReduceSum", ["p"], ["row"], keepdims=0)],
        [_value("s"), _value("a"), _value("b")], [_value("s_out"), _value("row")],
    )  # fmt: skip
    scan = node("Scan", ["s0", "x", "w"], ["y", "z"], body=body, num_scan_inputs=2)
    sets = [{"s0": _x(n, 2), "x": _x(t, n, 2), "w": _x(t, n, 2, seed=7)}
            for n, t in ((2, 3), (4, 5))]  # fmt: skip
    agree(scan, sets, ("y", "z"), free={"s0": [0], "x": [0, 1], "w": [0, 1]}, tolerance=1e-5)


def test_the_first_scan_with_a_batch_of_its_own_is_refused(agree: Any) -> None:
    body = _graph(
        [node("Add", ["s", "e"], ["s_out"])],
        [_value("s", FLOAT, [2]), _value("e", FLOAT, [2])], [_value("s_out", FLOAT, [2])],
    )  # fmt: skip
    scan = node("Scan", ["", "k", "x"], ["y"], body=body, num_scan_inputs=1)
    with pytest.raises(UnsupportedModelError, match="a batch of its own"):
        agree(scan, {"k": _x(1, 2), "x": _x(1, 3, 2)}, opset=8, expected=[{}])


def test_what_a_body_reads_is_not_folded_away(agree: Any) -> None:
    then = _graph([node("Add", ["c", "n"], ["t"])], [], [_value("t")])
    other = _graph([node("Mul", ["c", "f"], ["e"])], [], [_value("e")])
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        node("Relu", ["n"], ["f"]),
        node("If", ["k"], ["y"], then_branch=then, else_branch=other),
    ]
    constants = {"w": _x(3, 2, 2, 2), "g": _x(3), "b": _x(3), "m": _x(3), "v": _x(3)}
    agree(nodes, [{"x": _x(2, 2, 4, 4), "k": k} for k in CONDITIONS], constants=constants,
          tolerance=1e-4)  # fmt: skip


def test_what_a_body_reads_is_not_reordered(agree: Any) -> None:
    then = _graph([node("MatMul", ["f", "w2"], ["t"])], [], [_value("t")])
    other = _graph([node("MatMul", ["f", "w3"], ["e"])], [], [_value("e")], w3=_x(63, 40, seed=8))
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Flatten", ["c"], ["f"]),
        node("MatMul", ["f", "w2"], ["d"]),
        node("If", ["k"], ["i"], then_branch=then, else_branch=other),
        node("Add", ["i", "d"], ["y"]),
    ]
    constants = {"w": _x(7, 2, 2, 2), "w2": _x(7 * 9, 40)}
    agree(nodes, [{"x": _x(2, 2, 4, 4), "k": k} for k in CONDITIONS], constants=constants,
          tolerance=1e-4)  # fmt: skip
