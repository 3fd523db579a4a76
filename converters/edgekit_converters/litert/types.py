"""Element types: their names in LiteRT's schema, and which wider type can stand in for one."""

from __future__ import annotations

from typing import Final

_TENSOR_TYPES: Final = {
    "bfloat16": "BFLOAT16",
    "bool": "BOOL",
    "float16": "FLOAT16",
    "float32": "FLOAT32",
    "float64": "FLOAT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
}
# What only stands between two operators; nothing of the source's may be of such a type.
_INNER_TENSOR_TYPES: Final = {"complex64": "COMPLEX64"}
# Every value of the first type is one of the second, and arithmetic that wraps around in the
# second still does in the first after the way back. Nothing carries float64: in float32 it would
# lose digits and range without a word. Nor bfloat16: an operator that rounds in another order
# leaves others of its few digits.
_CARRIERS: Final = {
    "float16": ("float32",),
    "int8": ("int32", "int64"),
    "int16": ("int32", "int64"),
    "uint8": ("int32", "int64"),
    "uint16": ("int32", "int64"),
    "uint32": ("int64",),
    "int32": ("int64",),
}

FLOAT: Final = frozenset({"float32"})
INTEGERS: Final = frozenset({"int32", "int64"})
NUMBERS: Final = FLOAT | INTEGERS
ANYTHING: Final = frozenset(_TENSOR_TYPES)


def tensor_type(dtype: str) -> str:
    """The name of a numpy type in the schema's `TensorType`.

    Raises:
        KeyError: If LiteRT has no such type.
    """
    return _TENSOR_TYPES.get(dtype) or _INNER_TENSOR_TYPES[dtype]


def carrier_of(dtype: str, allowed: frozenset[str]) -> str | None:
    """The type in which numbers of type `dtype` can be computed: itself, or a wider one."""
    if dtype in allowed:
        return dtype
    return next((wider for wider in _CARRIERS.get(dtype, ()) if wider in allowed), None)
