"""Declarative pre- and postprocessing: the same steps on the workstation and on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.errors import InvalidBundleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.bundle.manifest import Step

_Step = Callable[["NDArray[Any]", Mapping[str, object]], "NDArray[Any]"]


def affine(array: NDArray[Any], parameters: Mapping[str, object]) -> NDArray[Any]:
    """`x * scale + offset` in float32; scale and offset are numbers."""
    scale = np.float32(_number(parameters, "scale", 1.0))
    offset = np.float32(_number(parameters, "offset", 0.0))
    return array.astype(np.float32) * scale + offset


def softmax(array: NDArray[Any], parameters: Mapping[str, object]) -> NDArray[Any]:  # noqa: ARG001
    """Probabilities along the last axis."""
    shifted = np.exp(array - array.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


_STEPS: dict[str, _Step] = {"affine": affine, "softmax": softmax}


def apply_steps(
    steps: Sequence[Step], arrays: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Run the steps in order, each on the tensor that it names.

    Raises:
        InvalidBundleError: If a step is unknown to this version, or its parameters are wrong.
    """
    result = dict(arrays)
    for step in steps:
        function = _STEPS.get(step.op)
        if function is None:
            raise InvalidBundleError(
                f"unknown processing step {step.op!r}",
                where=step.tensor,
                fix=f"use one of {', '.join(sorted(_STEPS))}, or update edgekit here",
            )
        result[step.tensor] = function(result[step.tensor], step.parameters)
    return result


def _number(parameters: Mapping[str, object], name: str, default: float) -> float:
    value = parameters.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidBundleError(f"the step's parameter {name!r} must be a number")
    return float(value)
