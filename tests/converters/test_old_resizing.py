from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node


def _model(opset: int, scales: list[float], *, constant: bool = True, **attributes: Any) -> Any:
    inputs, constants = ["x"], []
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 6])]
    if opset == 7:
        attributes["scales"] = scales
    elif constant:
        inputs.append("s")
        constants.append(numpy_helper.from_array(np.array(scales, dtype=np.float32), "s"))
    else:
        inputs.append("s")
        given.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [4]))
    graph = helper.make_graph(
        [node("Upsample" if opset < 10 else "Resize", inputs, ["y"], **attributes)],
        "test",
        given,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("mode", [{}, {"mode": "nearest"}, {"mode": "linear"}])
@pytest.mark.parametrize("opset", [7, 9, 10])
@pytest.mark.parametrize("scale", [2.0, 1.5])
def test_older_models_are_resized_as_they_were(
    assert_parity: Any, mode: dict[str, str], opset: int, scale: float
) -> None:
    model = _model(opset, [1.0, 1.0, scale, scale], **mode)
    assert_parity(model)
    (resize,) = normalise(model, where="test").graph.node
    stated = {a.name: a.s for a in resize.attribute}
    assert stated["coordinate_transformation_mode"] == b"asymmetric"


@pytest.mark.parametrize("scales", [[0.7, 0.7], [1.0, 0.7], [0.5, 2.0], [0.5, 0.25]])
def test_the_first_resize_made_images_smaller(assert_parity: Any, scales: list[float]) -> None:
    assert_parity(_model(10, [1.0, 1.0, *scales]))


@pytest.mark.parametrize("constant", [True, False])
def test_what_cannot_be_said_in_newer_terms_is_refused(constant: bool) -> None:
    with pytest.raises(UnsupportedModelError, match="a Resize of opset 10"):
        normalise(_model(10, [1.0, 1.0, 1.5, 0.7], constant=constant), where="test")
