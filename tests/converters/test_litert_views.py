from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.litert.program import Operator, Program, Tensor
from edgekit_converters.litert.views import separate_views
from edgekit_converters.normalise import normalise
from edgekit_runtime.session import open_session

node = helper.make_node


def _view(source: Tensor, name: str, shape: tuple[int, ...]) -> Operator:
    made = Tensor(name=name, dtype="int32", shape=shape)
    return Operator(code="EXPAND_DIMS", inputs=[source, None], outputs=[made])


def replaced(tensor: Tensor, name: str) -> Tensor:
    return Tensor(name=name, dtype=tensor.dtype, shape=tensor.shape)


def test_a_view_of_a_shared_view_gets_a_row_of_its_own() -> None:
    x = Tensor(name="x", dtype="int32", shape=(3,))
    origin = Operator(code="ABS", inputs=[x], outputs=[replaced(x, "origin")])
    first = _view(origin.outputs[0], "first", (1, 3))
    second = _view(first.outputs[0], "second", (1, 1, 3))
    program = Program(
        name="p", inputs=[x], outputs=[first.outputs[0], second.outputs[0]],
        operators=[origin, first, second], located={},
    )  # fmt: skip
    separate_views(program)
    assert [operator.code for operator in program.operators] == ["ABS"] + ["EXPAND_DIMS"] * 3
    assert second.inputs[0] is not first.outputs[0]
    assert Counter(id(op.inputs[0]) for op in program.operators)[id(origin.outputs[0])] == 2


def test_views_in_a_row_that_nobody_else_reads_stay() -> None:
    x = Tensor(name="x", dtype="int32", shape=(3,))
    origin = Operator(code="ABS", inputs=[x], outputs=[replaced(x, "origin")])
    first = _view(origin.outputs[0], "first", (1, 3))
    second = _view(first.outputs[0], "second", (1, 1, 3))
    program = Program(
        name="p", inputs=[x], outputs=[second.outputs[0]], operators=[origin, first, second],
        located={},
    )  # fmt: skip
    assert separate_views(program).operators == [origin, first, second]


@pytest.mark.parametrize("reference_kernels", [False, True])
def test_what_is_read_after_a_view_of_it_was_changed_in_place(
    reference_kernels: bool, tmp_path: Path, make_model: Any
) -> None:
    nodes = [
        node("Gather", ["x", "places"], ["taken"]),
        # Both are computed by way of int64, the second from the bits of the first.
        node("GreaterOrEqual", ["taken", "bound"], ["large"]),
        node("Where", ["large", "taken", "bound"], ["y"]),
    ]
    constants = {"places": np.array([2, 0]), "bound": np.array([5], np.uint64)}
    model = make_model(nodes, {"x": [3, 4]}, ["y"], constants, dtype=TensorProto.UINT64)
    path = tmp_path / "views.tflite"
    path.write_bytes(compile_to_litert(normalise(model, where="x"), where="x").content)
    session = open_session(path, reference_kernels=reference_kernels)
    x = np.arange(12).reshape(3, 4).astype(np.uint64)
    np.testing.assert_array_equal(session.run({"x": x})["y"], np.maximum(x[[2, 0]], 5))
