"""Resize and Upsample of opsets up to 10, which say nothing of where they read.

ONNX's converter of versions leaves the attributes out that newer ones have, and so lets a Resize
read by a newer default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The first opset in which a Resize says where it reads, and by default reads elsewhere.
_NEW_RESIZING: Final = 11
# Before it, Upsample could not make anything smaller.
_FIRST_RESIZE: Final = 10
_SCALES: Final = 2


def state_old_resizing(model: Any, opset: int, where: str) -> None:
    """Say how a Resize reads that was one, or an Upsample, of an older opset, in place.

    Args:
        model: What the converter returned.
        opset: What the model was written in.
        where: The model's path, for errors.

    Raises:
        UnsupportedModelError: If it cannot be said in the newer terms.
    """
    from onnx import helper, numpy_helper

    if opset >= _NEW_RESIZING:
        return
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            constants[node.output[0]] = attribute.t
        stated = {attribute.name: attribute.s for attribute in node.attribute}
        if node.op_type != "Resize" or node.domain or "nearest_mode" in stated:
            continue
        rounding = "floor"
        if opset == _FIRST_RESIZE and stated.get("mode", b"nearest") == b"nearest":
            tensor = constants.get(node.input[_SCALES])
            scales = None if tensor is None else numpy_helper.to_array(tensor)
            rounding = _rounding(scales, f"{where}: {node.name or node.output[0]}")
        node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
        node.attribute.append(helper.make_attribute("nearest_mode", rounding))


def _rounding(scales: NDArray[Any] | None, where: str) -> str:
    """How the nearest cell is found, as onnxruntime does it: up along axes that become smaller."""
    if scales is None:
        raise UnsupportedModelError(
            "a Resize of opset 10 rounds by scales that are computed", where=where,
            fix="export the model again with opset 11 or newer",
        )  # fmt: skip
    inverse = 1 / scales.astype(np.float64)
    # Where every so many cells one is taken, there is nothing to round.
    falling = bool(np.any((scales < 1) & ~np.isclose(inverse, np.round(inverse), rtol=1e-6)))
    if falling and np.any(scales > 1):
        raise UnsupportedModelError(
            "a Resize of opset 10 makes one axis larger and another smaller", where=where,
            fix="export the model again with opset 11 or newer",
        )  # fmt: skip
    return "ceil" if falling else "floor"
