"""Scales that float32 cannot hold, read as they are meant: three to seven is by 7/3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_source.skeleton import inferable, skeleton

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SCALES: Final = 2


def settle_scales(model: Any) -> None:
    """Raise scales of Resize nodes whose product with a size misses a whole number, in place.

    The float32 next to 7/3 is smaller than it. ONNX's shape inference multiplies it with three
    exactly, and gets 6; onnxruntime does so in float32, and gets 7, which is what whoever divided
    7 by 3 meant. The next float32 gives 7 in both, and moves no cell by more than its rounding.
    """
    constants = _constants(model.graph)
    doubtful = [node for node in model.graph.node if _is_doubtful(node, constants)]
    # One a round: the sizes behind it are others then.
    for _ in doubtful:
        shapes = _shapes(model)
        if not any(_settle(model.graph, node, constants, shapes) for node in doubtful):
            return


def _is_doubtful(node: Any, constants: dict[str, NDArray[Any]]) -> bool:
    if node.op_type != "Resize" or node.domain or len(node.input) <= _SCALES:
        return False
    scales = constants.get(node.input[_SCALES])
    return scales is not None and bool(np.any(scales != np.floor(scales)))


def _settle(
    graph: Any, node: Any, constants: dict[str, NDArray[Any]], shapes: dict[str, list[int]]
) -> bool:
    from onnx import numpy_helper

    shape = shapes.get(node.input[0])
    if shape is None:
        return False
    given = next((list(a.ints) for a in node.attribute if a.name == "axes"), [])
    axes = given or range(len(shape))
    scales = np.array(constants[node.input[_SCALES]], dtype=np.float32).reshape(-1)
    raised = scales.copy()
    if len(axes) != len(scales) or any(not -len(shape) <= axis < len(shape) for axis in axes):
        return False
    for place, axis in enumerate(axes):
        size = shape[axis]
        meant = int(scales[place] * np.float32(size))
        while size > 0 and int(float(raised[place]) * size) < meant:
            raised[place] = np.nextafter(raised[place], np.float32(np.inf))
    if np.array_equal(raised, scales):
        return False
    name = f"{node.output[0]}/scales"
    while name in constants:
        name += "_"
    graph.initializer.append(numpy_helper.from_array(raised, name))
    constants[name] = raised
    node.input[_SCALES] = name
    return True


def _constants(graph: Any) -> dict[str, NDArray[Any]]:
    from onnx import numpy_helper

    found = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if len(tensor.dims) == 1 and tensor.data_type == tensor.FLOAT
    }
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else []:
            if attribute.name == "value" and attribute.t.data_type == attribute.t.FLOAT:
                found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return found


def _shapes(model: Any) -> dict[str, list[int]]:
    """Every shape that can be inferred, 0 for a free size, whatever contradicts another."""
    import onnx

    copy = inferable(skeleton(model))
    copy.graph.ClearField("value_info")
    for value in copy.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, the strict inference says
        return {}
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*copy.graph.value_info, *copy.graph.input)
        if value.type.tensor_type.HasField("shape")
    }
