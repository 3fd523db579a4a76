from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekit_converters.patterns.graph import PatternGraph, Rewrite
from edgekit_converters.patterns.registry import patterns_of
from tests.converters.patterns.conftest import assert_same, read, settle, simplified

Left = Callable[..., dict[str, int]]


def test_every_pattern_says_in_one_sentence_what_it_is() -> None:
    found = {
        pattern.name: pattern.recognise
        for patterns in patterns_of(late=True).values()
        for pattern in patterns
    }
    assert len(found) > 25
    assert all((recognise.__doc__ or "").split("\n")[0].strip() for recognise in found.values())


def test_a_pattern_can_be_left_out() -> None:
    from edgekit_converters.patterns import simplify

    text = "(float[n,4] x) => (float[n,4] y) <float two = {2.0}> { y = Pow(x, two) }"
    model = simplify(read(text), settle=settle, without={"write_powers_plainly"})
    assert [node.op_type for node in model.graph.node] == ["Pow"]


def test_what_a_body_reads_stays(left: Left) -> None:
    text = """(float[n,4] x, bool c) => (float[n,4] y)
    <float half = {0.5}, float one = {1.0}, float root = {0.70710678}>
    { a = Mul(x, root) b = Erf(a) k = Add(b, one) d = Mul(x, k) e = Mul(d, half)
      y = If (c) < then_branch = g1 () => (float[n,4] p) { p = Add(e, k) },
                   else_branch = g2 () => (float[n,4] q) { q = Neg(e) } > }"""
    assert left(text, opset=20)["Erf"] == 1


def test_operators_of_other_domains_are_not_taken_for_onnx() -> None:
    node = helper.make_node("Pow", ["x", "two"], ["y"], domain="my.domain")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, [2])],
        [helper.make_tensor_value_info("y", 1, [2])],
        [onnx.numpy_helper.from_array(np.float32(2), "two")],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    from edgekit_converters.patterns import simplify

    model = simplify(helper.make_model(graph, opset_imports=imports), settle=lambda model: model)
    assert model.graph.node[0].op_type == "Pow"


def test_unread_nodes_go(left: Left) -> None:
    assert left("(float[n,4] x) => (float[n,4] y) { a = Exp(x) b = Log(a) y = Relu(x) }") == {
        "Relu": 1
    }


@pytest.fixture
def graph() -> tuple[Any, PatternGraph]:
    model = read(
        """(float[n,4] x) => (float[n,4] y, float[n,4] z)
        { a = Relu(x) b = Exp(a) c = Neg(b) y = Abs(c) z = Abs(a) }"""
    )
    return model, PatternGraph(model)


def test_a_rewrite_that_takes_away_what_is_read_is_not_allowed(graph: Any) -> None:
    _, pattern_graph = graph
    relu, exp, *_ = pattern_graph.nodes()
    both = helper.make_node("Sigmoid", ["x"], ["b"])
    assert not pattern_graph.allows(Rewrite(removes=[relu, exp], adds=[both]))
    assert pattern_graph.allows(
        Rewrite(removes=[exp], adds=[helper.make_node("Log", ["a"], ["b"])])
    )


def test_a_value_is_not_made_later_than_it_is_read(graph: Any) -> None:
    _, pattern_graph = graph
    relu, _, _, _, last = pattern_graph.nodes()
    adds = [helper.make_node("Elu", ["x"], ["a"]), helper.make_node("Abs", ["a"], ["z"])]
    assert not pattern_graph.allows(Rewrite(removes=[relu, last], adds=adds))


def test_a_rewrite_stands_where_the_last_node_stood() -> None:
    model = read("(float[n,4] x) => (float[n,4] y) { a = Relu(x) b = Exp(a) y = Neg(b) }")
    graph = PatternGraph(model)
    relu, exp, _ = graph.nodes()
    first = helper.make_node("Sigmoid", ["x"], ["k"])
    second = helper.make_node("Tanh", ["k"], ["b"])
    graph.apply(Rewrite(removes=[relu, exp], adds=[first, second]))
    graph.apply(Rewrite(removes=[first], adds=[helper.make_node("Sin", ["x"], ["k"])]))
    assert [node.op_type for node in graph.nodes()] == ["Sin", "Tanh", "Neg"]
    graph.store()
    onnx.checker.check_model(model)


def test_fresh_names_are_nowhere_in_the_graph() -> None:
    model = read(
        """(float[n,4] x, bool c) => (float[n,4] y)
        { y = If (c) < then_branch = g1 () => (float[n,4] p) { p = Neg(x) },
                       else_branch = g2 () => (float[n,4] q) { q = Abs(x) } > }"""
    )
    graph = PatternGraph(model)
    taken = {"x", "c", "y", "p", "q"}
    assert not taken & {graph.fresh(name) for name in taken}
    assert graph.fresh("free") == "free"


def test_an_output_that_equals_an_input_keeps_a_node() -> None:
    model = read(
        "(float[n,4] x) => (float[n,4] y, float[n,4] z) <float one = {1.0}>"
        "{ y = Mul(x, one) a = Relu(x) z = Mul(a, one) }"
    )
    result = simplified(model)
    assert sorted(node.op_type for node in result.graph.node) == ["Mul", "Relu"]
    assert_same(model, result)


def test_two_outputs_that_are_equal_both_stay() -> None:
    model = read(
        "(float[n,4] x) => (float[n,4] y, float[n,4] z) <float one = {1.0}>"
        "{ y = Relu(x) z = Mul(y, one) }"
    )
    assert_same(model, simplified(model))
