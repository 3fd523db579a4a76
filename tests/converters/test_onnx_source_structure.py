"""Who makes and who reads each value, and how much of everything there may be."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converters.onnx_files import model_of, write
from edgekit_converters.onnx_source import read_onnx
from edgekit_converters.onnx_source.bounds import MAX_NESTING, MAX_NODES
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[[Any], str]:
    """What is said about a model that is refused."""

    def check(model: Any) -> str:
        with pytest.raises(UnsupportedModelError) as caught:
            read_onnx(write(model, tmp_path / "a.onnx"))
        assert caught.value.where == str(tmp_path / "a.onnx")
        assert caught.value.fix
        return caught.value.what

    return check


def _branch(name: str, nodes: Any, output: str = "o") -> Any:
    return helper.make_graph(
        nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    )


def _if(then_nodes: Any, else_nodes: Any | None = None, *, output: str = "y") -> Any:
    return node(
        "If", ["c"], [output], name="choice", then_branch=_branch("t", then_nodes),
        else_branch=_branch("e", else_nodes or [node("Identity", ["x"], ["o"])]),
    )  # fmt: skip


CONDITION = {"c": np.array([True])}


def test_values_that_nothing_makes_are_all_named(refusal: Callable[[Any], str]) -> None:
    model = model_of(
        [
            node("Conv", ["x", "missing"], ["a"], name="conv"),
            node("Add", ["a", "absent"], ["b"], name="add"),
        ],
        outputs=["b", "never"],
    )
    what = refusal(model)
    assert "input 1 of conv (Conv), 'missing', is made by nothing" in what
    assert "input 1 of add (Add), 'absent', is made by nothing" in what
    assert "the output 'never' is made by nothing" in what


def test_a_value_inside_a_branch_that_nothing_makes(refusal: Callable[[Any], str]) -> None:
    model = model_of([_if([node("Relu", ["lost"], ["o"], name="r")])], constants=CONDITION)
    assert "input 0 of r (Relu), 'lost', is made by nothing in the then_branch of choice" in (
        refusal(model)
    )


def test_a_branch_does_not_lend_its_values(refusal: Callable[[Any], str]) -> None:
    inner = [node("Relu", ["x"], ["inner"]), node("Relu", ["inner"], ["o"])]
    model = model_of(
        [_if(inner, output="a"), node("Add", ["a", "inner"], ["y"], name="add")],
        constants=CONDITION,
    )
    assert "'inner', is made by nothing" in refusal(model)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Relu", ["y"], ["y"], name="self")], "self (Relu) -> self (Relu)"),
        (
            [node("Add", ["x", "b"], ["a"], name="one"), node("Relu", ["a"], ["b"], name="two"),
             node("Relu", ["b"], ["y"], name="three")],
            "form a circle: ",
        ),
    ],
)  # fmt: skip
def test_circles(nodes: Any, reason: str, refusal: Callable[[Any], str]) -> None:
    assert reason in refusal(model_of(nodes))


def test_a_circle_inside_a_branch(refusal: Callable[[Any], str]) -> None:
    inner = [node("Add", ["x", "b"], ["o"]), node("Relu", ["o"], ["b"])]
    what = refusal(model_of([_if(inner)], constants=CONDITION))
    assert "form a circle" in what
    assert "in the then_branch of choice (If)" in what


def test_a_long_circle_is_cut(refusal: Callable[[Any], str]) -> None:
    nodes = [node("Relu", [f"v{(i - 1) % 500}"], [f"v{i}"], name=f"n{i}") for i in range(500)]
    what = refusal(model_of(nodes, outputs=["v3"]))
    assert what.endswith("-> …")
    assert len(what) < 400


def test_nodes_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    names = [f"n{i}" for i in range(40)]
    nodes = [node("Relu", ["x"], ["v0"], name="n0")]
    nodes += [
        node("Add", [f"v{i - 1}", f"v{max(i - 3, 0)}"], [f"v{i}"], name=names[i])
        for i in range(1, 40)
    ]
    random.Random(3).shuffle(nodes)  # noqa: S311 - repeatable disorder, no secret
    path = write(model_of(nodes, outputs=["v39"]), tmp_path / "a.onnx")
    assert [n.name for n in read_onnx(path).graph.node] == names


def test_what_a_branch_reads_from_outside_comes_first(tmp_path: Path) -> None:
    nodes = [
        _if([node("Relu", ["late"], ["o"])]),
        node("Relu", ["x"], ["late"], name="late"),
    ]
    path = write(model_of(nodes, constants=CONDITION), tmp_path / "a.onnx")
    assert [n.op_type for n in read_onnx(path).graph.node] == ["Relu", "If"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda g: g.node.append(node("Relu", ["x"], ["y"], name="again")),
         "again (Relu) writes 'y', which is written by first (Relu)"),
        (lambda g: g.node.append(node("Relu", ["y"], ["x"], name="back")),
         "back (Relu) writes 'x', which is an input"),
        (lambda g: g.input.add().CopyFrom(g.input[0]), "'x' is an input and an input"),
        (lambda g: g.output.add().CopyFrom(g.output[0]), "the output 'y' is there twice"),
        (lambda g: g.initializer.extend([onnx.numpy_helper.from_array(np.ones(2), "k")] * 2),
         "'k' is a constant and a constant"),
        (lambda g: g.initializer.append(onnx.numpy_helper.from_array(np.ones(2), "y")),
         "writes 'y', which is a constant"),
        (lambda g: g.initializer.append(onnx.numpy_helper.from_array(np.ones(2), "")),
         "a constant has no name"),
    ],
)  # fmt: skip
def test_names_that_are_there_twice(
    change: Callable[[Any], None], reason: str, refusal: Callable[[Any], str]
) -> None:
    model = model_of([node("Relu", ["x"], ["y"], name="first")])
    change(model.graph)
    assert reason in refusal(model)


def test_a_branch_that_hides_a_value(refusal: Callable[[Any], str]) -> None:
    inner = [node("Relu", ["x"], ["x2"]), node("Relu", ["x2"], ["o"])]
    model = model_of(
        [node("Relu", ["x"], ["x2"]), _if(inner)], outputs=["y", "x2"], constants=CONDITION
    )
    assert "writes 'x2', which is made outside" in refusal(model)


def test_a_constant_may_be_the_default_of_an_input(tmp_path: Path) -> None:
    model = model_of(
        [node("Add", ["x", "w"], ["y"])], inputs={"x": [2], "w": [2]},
        constants={"w": np.ones(2, np.float32)}, ir_version=3, opset=7,
    )  # fmt: skip
    read_onnx(write(model, tmp_path / "a.onnx"))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.graph.node[0].output.__setitem__(0, "yyyy"),
        lambda m: setattr(m.graph.node[0], "name", "yyyy"),
        lambda m: setattr(m.graph.node[0], "op_type", "yyyy"),
        lambda m: setattr(m.graph.input[0], "name", "yyyy"),
        lambda m: setattr(m.graph.node[0].attribute.add(type=2, i=1), "name", "yyyy"),
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", "yyyy"),
        lambda m: setattr(m.opset_import.add(version=1), "domain", "yyyy"),
    ],
)
def test_names_that_are_no_text(change: Callable[[Any], None], tmp_path: Path) -> None:
    model = model_of([node("Relu", ["x"], ["y"], name="r")])
    change(model)
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString().replace(b"yyyy", b"y\xff\xfey"))
    with pytest.raises(UnsupportedModelError, match="a name is no UTF-8 text"):
        read_onnx(path)


# Domains and functions.


def _function(name: str, nodes: Any) -> Any:
    return helper.make_function(
        "mine", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17),
                                            helper.make_opsetid("mine", 1)],
    )  # fmt: skip


def test_operators_of_unknown_domains_are_all_named(refusal: Callable[[Any], str]) -> None:
    model = model_of(
        [
            node("Secret", ["x"], ["a"], name="first", domain="com.example"),
            node("Relu", ["a"], ["b"]),
            node("Other", ["b"], ["y"], name="second", domain="org.example"),
        ],
        domains=["com.example", "org.example"],
    )
    what = refusal(model)
    assert what.startswith("2 operator(s) are of domains that nothing here knows")
    assert "first (com.example.Secret)" in what
    assert "second (org.example.Other)" in what


def test_functions_define_operators(tmp_path: Path) -> None:
    model = model_of(
        [node("Twice", ["x"], ["y"], domain="mine")],
        domains=["mine"],
        functions=[_function("Twice", [node("Add", ["a", "a"], ["b"])])],
    )
    assert read_onnx(write(model, tmp_path / "a.onnx")).functions


@pytest.mark.parametrize("ring", [1, 2, 5])
def test_functions_that_call_each_other_in_a_circle(
    ring: int, refusal: Callable[[Any], str]
) -> None:
    functions = [
        _function(f"f{i}", [node(f"f{(i + 1) % ring}", ["a"], ["b"], domain="mine")])
        for i in range(ring)
    ]
    model = model_of(
        [node("f0", ["x"], ["y"], domain="mine")], domains=["mine"], functions=functions
    )
    assert "functions call each other in a circle: mine.f" in refusal(model)


def test_functions_that_explode_when_they_are_expanded(refusal: Callable[[Any], str]) -> None:
    """Ten functions, each of which calls the next ten times: ten billion operators."""
    functions = []
    for level in range(10):
        values = ["a", *(f"v{i}" for i in range(9)), "b"]
        callee = ("Relu", "") if level == 9 else (f"f{level + 1}", "mine")
        nodes = [node(callee[0], [values[i]], [values[i + 1]], domain=callee[1]) for i in range(10)]
        functions.append(_function(f"f{level}", nodes))
    model = model_of(
        [node("f0", ["x"], ["y"], domain="mine")], domains=["mine"], functions=functions
    )
    assert f"it has 10000000000 operators, the limit is {MAX_NODES}" in refusal(model)


def test_functions_that_call_too_deep(refusal: Callable[[Any], str]) -> None:
    functions = [
        _function(f"f{i}", [node(f"f{i + 1}", ["a"], ["b"], domain="mine")]) for i in range(2000)
    ]
    functions.append(_function("f2000", [node("Relu", ["a"], ["b"])]))
    model = model_of(
        [node("f0", ["x"], ["y"], domain="mine")], domains=["mine"], functions=functions
    )
    assert "call each other 2001 deep" in refusal(model)


def test_a_function_that_reads_what_nothing_makes(refusal: Callable[[Any], str]) -> None:
    model = model_of(
        [node("F", ["x"], ["y"], domain="mine")],
        domains=["mine"],
        functions=[_function("F", [node("Add", ["a", "lost"], ["b"], name="sum")])],
    )
    assert "input 1 of sum (Add), 'lost', is made by nothing in the function mine.F" in (
        refusal(model)
    )


# How much of everything.


def test_too_many_operators(refusal: Callable[[Any], str]) -> None:
    model = model_of([node("Relu", ["x"], ["y"])])
    content = model.graph.node[0]
    model.graph.node.extend([content] * MAX_NODES)
    assert f"it has {MAX_NODES + 1} operators" in refusal(model)


def _field(number: int, payload: bytes) -> bytes:
    """One length-delimited field of a protobuf message."""
    size, length = len(payload), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + payload


@pytest.mark.parametrize(("depth", "reason"), [(20, "nested 20 deep"), (200, "deeper than")])
def test_graphs_nested_too_deep(depth: int, reason: str, tmp_path: Path) -> None:
    assert depth > MAX_NESTING
    # Graph.node = 1, Node.attribute = 5, Attribute.g = 6; protobuf itself writes no such depth.
    nodes = node("Relu", ["x"], ["o"]).SerializeToString()
    for _ in range(depth):
        branch = _field(1, b"then_branch") + _field(6, _field(1, nodes)) + b"\xa0\x01\x05"
        nodes = _field(1, b"c") + _field(2, b"o") + _field(4, b"If") + _field(5, branch)
    model = model_of([], constants=CONDITION, outputs=["o"])
    content = model.SerializeToString() + _field(7, _field(1, nodes))
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=reason):
        read_onnx(tmp_path / "a.onnx")


def test_no_more_than_twenty_faults_are_listed(refusal: Callable[[Any], str]) -> None:
    nodes = [node("Relu", [f"lost{i}"], [f"v{i}"], name=f"n{i}") for i in range(300)]
    what = refusal(model_of(nodes, outputs=["v0"]))
    assert "and 280 more" in what
    assert len(what) < 2000


# Versions.


@pytest.mark.parametrize(
    ("opset", "ir_version", "reason"),
    [(6, 8, "too old"), (17, 2, "too old"), (999, 8, "too new"), (17, 999, "too new")],
)
def test_versions_out_of_reach(
    opset: int, ir_version: int, reason: str, refusal: Callable[[Any], str]
) -> None:
    model = model_of([node("Relu", ["x"], ["y"])], opset=opset, ir_version=ir_version)
    what = refusal(model)
    assert reason in what
    assert f"opset {opset}, IR version {ir_version}" in what


@pytest.mark.parametrize("opset", range(7, onnx.defs.onnx_opset_version() + 1))
def test_every_opset_from_seven_up(opset: int, tmp_path: Path) -> None:
    model = model_of([node("Relu", ["x"], ["y"])], opset=opset, ir_version=3 if opset < 9 else 8)
    read_onnx(write(model, tmp_path / "a.onnx"))


def test_two_versions_of_the_operators(refusal: Callable[[Any], str]) -> None:
    model = model_of([node("Relu", ["x"], ["y"])])
    model.opset_import.add(domain="ai.onnx", version=9)
    assert "several versions of ONNX's operators: [9, 17]" in refusal(model)


def test_no_version_is_needed_for_operators_that_are_not_there(tmp_path: Path) -> None:
    model = model_of(
        [node("Normalizer", ["x"], ["y"], domain="ai.onnx.ml", norm="L2")],
        inputs={"x": [2, 3]}, domains=["ai.onnx.ml"],
    )  # fmt: skip
    del model.opset_import[0]
    read_onnx(write(model, tmp_path / "a.onnx"))


def test_what_is_for_training_is_dropped(tmp_path: Path) -> None:
    model = model_of([node("Relu", ["x"], ["y"])])
    training = model.training_info.add()
    training.algorithm.node.append(node("Relu", ["lost"], ["z"]))
    assert not read_onnx(write(model, tmp_path / "a.onnx")).training_info


def test_a_model_without_outputs(refusal: Callable[[Any], str]) -> None:
    assert "no outputs" in refusal(model_of([node("Relu", ["x"], ["y"])], outputs=[]))
