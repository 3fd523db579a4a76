"""Inputs and outputs of an ONNX model that are integers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.quantize.affine import INT8, UINT8, Affine
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from edgekit_converters.quantize.plan import QuantizationPlan
    from edgekit_converters.quantize.to_onnx.constants import Constants
    from edgekit_converters.quantize.to_onnx.placement import Placement


class IntegerBorder:
    """Turns the float inputs and outputs of a model into integers, if the plan says so.

    They are signed, as in LiteRT, while what flows inside is not: the two have the same scale, so
    that nothing is rounded twice.
    """

    def __init__(
        self, model: Any, plan: QuantizationPlan, placement: Placement, constants: Constants
    ) -> None:
        """Look at the inputs and outputs of an `onnx.ModelProto`.

        Raises:
            UnsupportedModelError: Naming those whose range is not known.
        """
        from onnx import TensorProto

        self._constants = constants
        # An input may be an output as well.
        self._declared: dict[str, list[Any]] = {}
        for value in (*model.graph.input, *model.graph.output):
            self._declared.setdefault(value.name, []).append(value)
        self._inputs = frozenset(value.name for value in model.graph.input)
        self._affines: Mapping[str, Affine] = {}
        if plan.io == "float":
            return
        floats = [
            name
            for name, (value, *_) in self._declared.items()
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        ]
        unknown = [name for name in floats if name not in placement.values]
        if unknown:
            raise UnsupportedModelError(
                f"the range of {', '.join(unknown)} is not known, so it cannot be int8",
                where="io",
                fix="leave inputs and outputs float",
            )
        self._affines = {name: _signed(placement.values[name]) for name in floats}

    def is_integer(self, name: str) -> bool:
        """Whether this input or output is an integer."""
        return name in self._affines

    def enter(self, name: str, nodes: list[Any]) -> str:
        """Declare an input, and return the name of the floats that it stands for."""
        from onnx import helper

        affine = self._affines.get(name)
        if affine is None:
            return name
        self._declare(name, affine)
        output = self._constants.name("float")
        operands = self._constants.affine(affine)
        nodes.append(helper.make_node("DequantizeLinear", [name, *operands], [output]))
        return output

    def leave(self, name: str, floats: str, nodes: list[Any]) -> None:
        """Declare an output and make it from its floats."""
        from onnx import helper

        affine = self._affines.get(name)
        if affine is None or name in self._inputs:
            return
        self._declare(name, affine)
        operands = self._constants.affine(affine)
        nodes.append(helper.make_node("QuantizeLinear", [floats, *operands], [name]))

    def _declare(self, name: str, affine: Affine) -> None:
        from onnx import helper

        kind = helper.np_dtype_to_tensor_dtype(np.dtype(affine.codes.dtype))
        for value in self._declared[name]:
            value.type.tensor_type.elem_type = kind


def _signed(affine: Affine) -> Affine:
    if affine.codes is not UINT8:
        return affine
    return Affine(scale=affine.scale, zero_point=affine.zero_point + INT8.low, codes=INT8)
