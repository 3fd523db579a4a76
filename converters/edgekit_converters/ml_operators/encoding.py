"""OneHotEncoder, LabelEncoder, ArrayFeatureExtractor, FeatureVectorizer: columns and categories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import TensorProto

from edgekit_converters.ml_operators.registry import (
    CannotExpandError,
    Expansion,
    UnknownInputError,
    expands,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NO_TEXTS: Final = "it takes or gives texts, and there are only numbers"
_NUMBERS: Final = frozenset({TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32})
# Keys that are compared one by one; more would make a matrix that no small device holds.
_MAX_KEYS: Final = 4096


@expands("OneHotEncoder")
def expand_one_hot_encoder(build: Expansion) -> None:
    """One column a category more, one where the element is that category."""
    categories = build.integers("cats_int64s")
    if build.texts("cats_strings") or not categories:
        raise CannotExpandError(_NO_TEXTS)
    if not build.integer("zeros", 1):
        raise CannotExpandError("it fails on unknown categories, which nothing else can")
    value = build.input()
    if not build.element_type(value):
        raise UnknownInputError("the type of its input is not known")
    if build.element_type(value) not in _NUMBERS:
        raise CannotExpandError("its input is neither float32 nor an integer")
    whole = value
    if build.element_type(value) != TensorProto.INT64:
        whole = build.emit("Cast", [value], to=TensorProto.INT64)
    axes = build.constant(np.array([-1], dtype=np.int64), "axis")
    wide = build.emit("Unsqueeze", [whole, axes])
    # Of categories that are listed twice onnxruntime keeps the last.
    known = [
        category if category not in categories[place + 1 :] else None
        for place, category in enumerate(categories)
    ]
    if None in known:
        raise CannotExpandError("it lists a category twice")
    table = build.constant(np.array(categories, dtype=np.int64), "categories")
    build.emit("Cast", [build.emit("Equal", [wide, table])], build.output(), to=TensorProto.FLOAT)


@expands("LabelEncoder")
def expand_label_encoder(build: Expansion) -> None:
    """The value of the first key that the element equals, else the default; NaN equals NaN."""
    keys, values, default = _mapping(build)
    if not 0 < len(keys) <= _MAX_KEYS:
        raise CannotExpandError(f"it has {len(keys)} keys, at most {_MAX_KEYS} can be compared")
    value = build.input()
    axes = build.constant(np.array([-1], dtype=np.int64), "axis")
    wide = build.emit("Unsqueeze", [value, axes])
    missing = np.isnan(keys) if keys.dtype.kind == "f" else np.zeros(len(keys), dtype=bool)
    same = build.emit("Equal", [wide, build.constant(keys, "keys")])
    if missing.any():
        nan = build.emit("And", [build.emit("IsNaN", [wide]), build.constant(missing, "missing")])
        same = build.emit("Or", [same, nan])
    # The position of the first key that fits; one past all keys where none does.
    order = build.constant(np.arange(len(keys), dtype=np.int64), "order")
    last = build.constant(np.array([len(keys)], dtype=np.int64), "last")
    candidates = build.emit("Where", [same, order, last])
    first = build.reduce("ReduceMin", candidates, -1)
    position = build.emit("Squeeze", [first, axes])
    table = build.constant(np.append(values, default).astype(values.dtype), "values")
    build.emit("Gather", [table, position], build.output())


@expands("ArrayFeatureExtractor")
def expand_array_feature_extractor(build: Expansion) -> None:
    """The elements at given positions of the last axis; one axis alone becomes one row."""
    value, positions = build.input(0), build.input(1)
    rank = build.rank(value)
    if build.element_type(value) == TensorProto.STRING:
        raise CannotExpandError(_NO_TEXTS)
    if rank is None:
        raise UnknownInputError("the number of its input's axes is not known")
    flat = build.emit(
        "Reshape", [positions, build.constant(np.array([-1], dtype=np.int64), "flat")]
    )
    if rank > 1:
        build.emit("Gather", [value, flat], build.output(), axis=-1)
        return
    chosen = build.emit("Gather", [value, flat], axis=0)
    axes = build.constant(np.array([0], dtype=np.int64), "axis")
    build.emit("Unsqueeze", [chosen, axes], build.output())


@expands("FeatureVectorizer")
def expand_feature_vectorizer(build: Expansion) -> None:
    """The inputs' columns beside each other, each cut or filled with zeros to its width."""
    widths = build.integers("inputdimensions")
    if len(widths) != len(build.node.input):
        raise CannotExpandError(f"it has {len(build.node.input)} inputs and {len(widths)} widths")
    parts = []
    for position, width in enumerate(widths):
        value = build.matrix(position)
        # Filled first and cut then, so that the width before does not have to be known.
        pads = build.constant(np.array([0, 0, 0, width], dtype=np.int64), "pads")
        padded = build.emit("Pad", [value, pads])
        bounds = [
            build.constant(np.array([number], dtype=np.int64), "bound") for number in (0, width, 1)
        ]
        parts.append(build.emit("Slice", [padded, *bounds]))
    build.emit("Concat", parts, build.output(), axis=1)


def _mapping(build: Expansion) -> tuple[NDArray[Any], NDArray[Any], Any]:
    """Keys, values and the default of a LabelEncoder, in the forms of all its versions."""
    if build.texts("classes_strings") or any(
        build.has(name) for name in ("keys_strings", "values_strings")
    ):
        raise CannotExpandError(_NO_TEXTS)
    keys = _listed(build, "keys")
    values = _listed(build, "values")
    if keys is None or values is None or keys.dtype.kind not in "if" or len(keys) != len(values):
        raise CannotExpandError(_NO_TEXTS)
    default = build.tensor("default_tensor")
    if default is not None and default.size:
        return keys, values, default.reshape(-1)[0]
    if values.dtype.kind == "f":
        return keys, values, build.number("default_float", -0.0)
    return keys, values, build.integer("default_int64", -1)


def _listed(build: Expansion, name: str) -> NDArray[Any] | None:
    tensor = build.tensor(f"{name}_tensor")
    if tensor is not None:
        return None if tensor.dtype.kind not in "if" else tensor.reshape(-1)
    if build.has(f"{name}_int64s"):
        return np.array(build.integers(f"{name}_int64s"), dtype=np.int64)
    if build.has(f"{name}_floats"):
        return build.floats(f"{name}_floats")
    return None
