"""Declarative pre- and postprocessing: the same steps on the workstation and on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_runtime.errors import InvalidBundleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.bundle.manifest import Step

_Step = Callable[["NDArray[Any]", Mapping[str, object]], "NDArray[Any]"]

_DTYPES: Final = ("float32", "float16", "int8", "uint8", "int16", "int32", "int64")


def affine(array: NDArray[Any], parameters: Mapping[str, object]) -> NDArray[Any]:
    """`x * scale + offset` in float32.

    Scale and offset are numbers, or lists with one number for each entry of the axis `axis`: the
    channels of an image.
    """
    scale = _along(array, parameters, "scale", 1.0)
    offset = _along(array, parameters, "offset", 0.0)
    return array.astype(np.float32, copy=False) * scale + offset


def clip(array: NDArray[Any], parameters: Mapping[str, object]) -> NDArray[Any]:
    """Values below `low` become `low`, values above `high` become `high`."""
    return array.clip(_number(parameters, "low"), _number(parameters, "high")).astype(array.dtype)


def cast(array: NDArray[Any], parameters: Mapping[str, object]) -> NDArray[Any]:
    """Values in the element type `dtype`; fractions are rounded to even, and ranges kept to."""
    name = parameters.get("dtype")
    if name not in _DTYPES:
        raise InvalidBundleError(
            f"the step's parameter 'dtype' must be one of {', '.join(_DTYPES)}"
        )
    dtype = np.dtype(str(name))
    if dtype.kind in "iu" and array.dtype.kind == "f":
        limits = np.iinfo(dtype)
        # In double precision, because the largest int32 is no float32.
        array = np.rint(array.astype(np.float64)).clip(limits.min, limits.max)
    return array.astype(dtype)


def softmax(array: NDArray[Any], parameters: Mapping[str, object]) -> NDArray[Any]:  # noqa: ARG001
    """Probabilities along the last axis."""
    shifted = np.exp(array - array.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def sigmoid(array: NDArray[Any], parameters: Mapping[str, object]) -> NDArray[Any]:  # noqa: ARG001
    """`1 / (1 + exp(-x))`, without overflow for any x."""
    small = np.exp(-np.abs(array))
    return np.asarray(np.where(array >= 0, 1 / (1 + small), small / (1 + small)))


def argmax(array: NDArray[Any], parameters: Mapping[str, object]) -> NDArray[Any]:  # noqa: ARG001
    """The position of the largest entry along the last axis, as int64."""
    return np.asarray(array.argmax(axis=-1), dtype=np.int64)


def as_given(array: NDArray[Any], parameters: Mapping[str, object]) -> NDArray[Any]:  # noqa: ARG001
    """The tensor itself: `image` and `sound` say how a file becomes it, see `media`."""
    return array


_STEPS: dict[str, _Step] = {
    "affine": affine,
    "argmax": argmax,
    "cast": cast,
    "clip": clip,
    "image": as_given,
    "sigmoid": sigmoid,
    "softmax": softmax,
    "sound": as_given,
}


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


def _along(
    array: NDArray[Any], parameters: Mapping[str, object], name: str, default: float
) -> NDArray[np.float32] | np.float32:
    """A parameter that is one number, or one for each entry of an axis."""
    value = parameters.get(name, default)
    if not isinstance(value, list):
        return np.float32(_number(parameters, name, default))
    axis = parameters.get("axis", -1)
    if not isinstance(axis, int) or isinstance(axis, bool) or not -array.ndim <= axis < array.ndim:
        raise InvalidBundleError(f"the step's parameter 'axis' is no axis of {array.ndim}")
    if not value or not all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in value
    ):
        raise InvalidBundleError(f"the step's parameter {name!r} must hold numbers")
    if len(value) not in (1, array.shape[axis]):
        raise InvalidBundleError(
            f"the step's parameter {name!r} has {len(value)} numbers for an axis of "
            f"{array.shape[axis]}"
        )
    shape = [1] * array.ndim
    shape[axis] = len(value)
    return np.asarray(value, dtype=np.float32).reshape(shape)


def _number(parameters: Mapping[str, object], name: str, default: float | None = None) -> float:
    value = parameters.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidBundleError(f"the step's parameter {name!r} must be a number")
    return float(value)
