"""Write into a model what is known about sizes that it computes at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_graphs import replace_nodes
from edgekit_converters.sizes.shapes import read_sizes
from edgekit_converters.sizes.size import Size, Sizes, number, numbers, product

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SCALES: Final = 2
_SIZES: Final = 3
_COMPUTED = frozenset(
    {"Shape", "Size", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Cast",
     "ConstantOfShape", "Mul", "Add", "Sub", "Div", "Mod", "Min", "Max", "Equal", "Where",
     "ReduceProd"}
)  # fmt: skip


def settle_sizes(model: Any) -> bool:
    """Put constants where sizes are computed although they are known, in place.

    A Reshape whose target has one free size is told it as -1; where it has more, those that stay
    in place are told as 0, which copies them. A Resize is told its scales where its batch is free.

    Args:
        model: An `onnx.ModelProto` with inferred shapes. Nodes that nothing reads any more are
            left to the caller.

    Returns:
        Whether anything changed; shapes should be inferred again then.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    if not any(
        node.op_type in {"Shape", "Size"}
        or (node.op_type == "Reshape" and node.input[1] not in constants)
        for node in graph.node
    ):
        return False
    shapes, sizes = read_sizes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    outputs = {value.name for value in graph.output}
    settled: dict[str, NDArray[Any]] = {}
    kept = []
    for node in graph.node:
        name = node.output[0] if node.output else ""
        values = sizes.get(name)
        known = None if values is None else numbers(values.items)
        dtype = _numpy_type(types.get(name, 0))
        if (
            values is not None
            and known is not None
            and dtype is not None
            and name not in outputs
            and node.op_type in _COMPUTED
        ):
            settled[name] = np.array(known, dtype=dtype).reshape(() if values.scalar else (-1,))
            continue
        kept.append(node)
        if node.op_type == "Reshape" and node.input[1] not in constants | settled.keys():
            target = _target(shapes.get(node.input[0]), sizes.get(node.input[1]))
            if target is not None:
                fixed = f"{name}/shape"
                settled[fixed] = np.array(target, dtype=np.int64)
                node.input[1] = fixed
                _forbid_empty(node)
        elif node.op_type == "Resize" and len(node.input) > _SIZES and node.input[_SIZES]:
            scales = _scales(node, shapes.get(node.input[0]), sizes.get(node.input[_SIZES]))
            if scales is not None and node.input[_SIZES] not in constants | settled.keys():
                fixed = f"{name}/scales"
                settled[fixed] = scales
                node.input[_SCALES] = fixed
                del node.input[_SIZES]
    if not settled:
        return False
    graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in settled.items()
    )
    replace_nodes(graph, kept)
    return True


def _numpy_type(element_type: int) -> np.dtype[Any] | None:
    from onnx import TensorProto, helper

    if element_type not in {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}:
        return None
    return np.dtype(helper.tensor_dtype_to_np_dtype(element_type))


def _target(source: Sizes | None, values: Any) -> list[int] | None:
    """A Reshape's target as numbers, None where that cannot be said."""
    if values is None or values.scalar:
        return None
    target: Sizes = values.items
    total = None if source is None else product(source)
    if number(0) in target:
        # It copies a size or makes the tensor empty: the node's attribute decides, not this.
        return None
    if target.count(None) == 1 and number(-1) not in target:
        rest = product(size for size in target if size is not None)
        missing = None if total is None or rest is None else total.over(rest)
        target = tuple(missing if size is None else size for size in target)
    free = [axis for axis, size in enumerate(target) if size is None or not size.known]
    written = [size.factor if size is not None and size.known else -1 for size in target]
    if written.count(-1) <= 1:
        return written
    if source is None:
        return None
    for axis in free:
        if axis < len(source) and _certainly(target[axis], source[axis]):
            written[axis] = 0
    return written if written.count(-1) <= 1 else None


def _scales(node: Any, source: Sizes | None, values: Any) -> NDArray[np.float32] | None:
    """The scales that a Resize to these sizes computes, None where they are not certain.

    From scales, engines compute the sizes again, by rounding down a product in float32.
    """
    attributes = {attribute.name: attribute for attribute in node.attribute}
    policy = attributes.get("keep_aspect_ratio_policy")
    if "axes" in attributes or (policy is not None and policy.s != b"stretch"):
        return None
    if source is None or values is None or len(values.items) != len(source):
        return None
    scales = []
    for size, wanted in zip(source, values.items, strict=True):
        if size is None or wanted is None:
            return None
        ratio = wanted.over(size)
        if ratio is not None and ratio.known:
            scales.append(np.float32(ratio.factor))
        elif size.known and wanted.known and size.factor > 0:
            scale = np.float32(wanted.factor) / np.float32(size.factor)
            if int(np.floor(scale * np.float32(size.factor))) != wanted.factor:
                return None
            scales.append(scale)
        else:
            return None
    return np.array(scales, dtype=np.float32)


def _certainly(first: Size | None, second: Size | None) -> bool:
    return first is not None and first == second


def _forbid_empty(node: Any) -> None:
    """Zero means copy: without the attribute that says otherwise."""
    kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
    node.ClearField("attribute")
    node.attribute.extend(kept)
