from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.sizes.arithmetic import SizeReader, Values
from edgekit_converters.sizes.size import Size, number

node = helper.make_node
N, M = Size(1, ("n",)), Size(1, ("m",))


def learnt(made: Any, constants: dict[str, Any] | None = None, **known: Values) -> Values | None:
    """What is known about the output of a node, given what is known about its inputs."""
    reader = SizeReader()
    for name, array in (constants or {}).items():
        reader.learn_constant(name, np.asarray(array))
    reader._known.update(known)
    reader.learn(made, {"x": (N, number(3), number(4))})
    return reader.get(made.output[0])


def row(*items: Size | int | None) -> Values:
    return Values(tuple(number(item) if isinstance(item, int) else item for item in items))


def one(item: Size | int | None) -> Values:
    return Values(row(item).items, scalar=True)


CASES = {
    "shape": (node("Shape", ["x"], ["y"]), {}, {}, row(N, 3, 4)),
    "part of a shape": (node("Shape", ["x"], ["y"], start=-2, end=-1), {}, {}, row(3)),
    "size": (node("Size", ["x"], ["y"]), {}, {}, one(Size(12, ("n",)))),
    "gather": (node("Gather", ["a", "i"], ["y"]), {"i": [2, 0]}, {"a": row(N, 3, 4)}, row(4, N)),
    "gather one": (node("Gather", ["a", "i"], ["y"]), {"i": -1}, {"a": row(N, 4)}, one(4)),
    "slice": (node("Slice", ["a", "s", "e"], ["y"]), {"s": [1], "e": [99]},
              {"a": row(N, 3, 4)}, row(3, 4)),
    "slice back": (node("Slice", ["a", "s", "e", "x0", "t"], ["y"]),
                   {"s": [-1], "e": [-9], "x0": [0], "t": [-1]}, {"a": row(N, 3, 4)},
                   row(4, 3, N)),
    "concat": (node("Concat", ["a", "b"], ["y"], axis=0), {"b": [7]}, {"a": row(N)}, row(N, 7)),
    "unsqueeze": (node("Unsqueeze", ["a", "i"], ["y"]), {"i": [0]}, {"a": one(N)}, row(N)),
    "squeeze": (node("Squeeze", ["a"], ["y"]), {}, {"a": row(N)}, one(N)),
    "reshape": (node("Reshape", ["a", "i"], ["y"]), {"i": [-1]}, {"a": one(N)}, row(N)),
    "cast": (node("Cast", ["a"], ["y"], to=TensorProto.INT32), {}, {"a": row(N)}, row(N)),
    "ones": (node("ConstantOfShape", ["i"], ["y"],
                  value=numpy_helper.from_array(np.array([1], np.int64))),
             {"i": [2]}, {}, row(1, 1)),
    "product": (node("ReduceProd", ["a"], ["y"]), {}, {"a": row(N, 3, M)},
                row(Size(3, ("m", "n")))),
    "product without axis": (node("ReduceProd", ["a"], ["y"], keepdims=0), {}, {"a": row(N, 3)},
                             one(Size(3, ("n",)))),
    "times": (node("Mul", ["a", "b"], ["y"]), {"b": 2}, {"a": row(N, 3)}, row(Size(2, ("n",)), 6)),
    "plus": (node("Add", ["a", "b"], ["y"]), {}, {"a": row(N), "b": row(Size(2, ("n",)))},
             row(Size(3, ("n",)))),
    "plus another": (node("Add", ["a", "b"], ["y"]), {"b": [1]}, {"a": row(N)}, row(None)),
    "minus itself": (node("Sub", ["a", "a"], ["y"]), {}, {"a": row(N)}, row(0)),
    "over": (node("Div", ["a", "b"], ["y"]), {"b": 2}, {"a": row(Size(6, ("n",)), 7)},
             row(Size(3, ("n",)), 3)),
    "over inexactly": (node("Div", ["a", "b"], ["y"]), {"b": 4}, {"a": row(Size(6, ("n",)))},
                       row(None)),
    "modulo": (node("Mod", ["a", "b"], ["y"]), {"b": 2}, {"a": row(Size(6, ("n",)), 7)}, row(0, 1)),
    "least": (node("Min", ["a", "b"], ["y"]), {"b": [3, 9]}, {"a": row(N, 4)}, row(None, 4)),
    "is minus one": (node("Equal", ["a", "b"], ["y"]), {"b": -1}, {"a": row(N, -1, 3)},
                     row(0, 1, 0)),
    "may be equal": (node("Equal", ["a", "b"], ["y"]), {"b": 3}, {"a": row(N)}, row(None)),
    "chosen": (node("Where", ["c", "a", "b"], ["y"]), {"c": [1, 0], "b": [5, 6]},
               {"a": row(N, M)}, row(N, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_computed_from_sizes(name: str) -> None:
    made, constants, known, expected = CASES[name]
    assert learnt(made, constants, **known) == expected


@pytest.mark.parametrize(
    ("made", "constants"),
    [
        (node("Gather", ["a", "i"], ["y"]), {"i": 3}),
        (node("Gather", ["a", "i"], ["y"], axis=1), {"i": 0}),
        (node("Cast", ["a"], ["y"], to=TensorProto.FLOAT), {}),
        (node("Concat", ["a", "unknown"], ["y"], axis=0), {}),
        (node("Slice", ["a", "s", "unknown"], ["y"]), {"s": [0]}),
        (node("Exp", ["a"], ["y"]), {}),
        (node("Shape", ["unknown"], ["y"]), {}),
        (node("Mul", ["a", "i"], ["y"], domain="my.domain"), {"i": 1}),
    ],
    ids=["beyond", "another axis", "floats", "unknown part", "unknown end", "no size",
         "unknown shape", "another domain"],
)  # fmt: skip
def test_what_cannot_be_said_is_not_said(made: Any, constants: Any) -> None:
    assert learnt(made, constants, a=row(N, 3)) is None


def test_data_is_not_taken_for_sizes() -> None:
    reader = SizeReader()
    reader.learn_constant("long", np.arange(65))
    reader.learn_constant("wide", np.ones((2, 2), np.int64))
    reader.learn_constant("floats", np.ones(2))
    assert len(reader) == 0


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["Mul", "Add", "Sub", "Div", "Mod", "Min", "Max", "Equal"]),
    st.tuples(st.integers(1, 12), st.booleans()),
    st.tuples(st.integers(1, 12), st.booleans()),
    st.integers(1, 9),
)
def test_arithmetic_is_that_of_the_engine(
    operator: str, first: tuple[int, bool], second: tuple[int, bool], batch: int
) -> None:
    """What is said about a result is what comes out for every value of the free size."""
    sizes = [Size(factor, ("n",) if free else ()) for factor, free in (first, second)]
    found = learnt(node(operator, ["a", "b"], ["y"]), a=row(sizes[0]), b=row(sizes[1]))
    assert found is not None
    (said,) = found.items
    if said is None:
        return
    a, b = (factor * (batch if free else 1) for factor, free in (first, second))
    results = {
        "Mul": a * b, "Add": a + b, "Sub": a - b, "Div": a // b, "Mod": a % b,
        "Min": min(a, b), "Max": max(a, b), "Equal": int(a == b),
    }  # fmt: skip
    assert said.factor * (batch if said.free else 1) ** len(said.free) == results[operator]
