from __future__ import annotations

from typing import Any

from onnx import helper

from edgekit_converters.default_attributes import write_default_attributes

node = helper.make_node


def test_operators_that_are_defined_by_others_say_what_they_leave_out(make_model: Any) -> None:
    nodes = [
        node("MeanVarianceNormalization", ["x"], ["m"]),
        node("Gemm", ["a", "a"], ["y"]),
    ]
    model = make_model([nodes[1]], {"x": [2, 3, 4, 4], "a": [2, 2]}, ["y"])
    model.graph.node.insert(0, nodes[0])
    write_default_attributes(model)
    assert [list(a.ints) for a in model.graph.node[0].attribute if a.name == "axes"] == [[0, 2, 3]]
    assert not model.graph.node[1].attribute
