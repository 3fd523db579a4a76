"""Check the tensors that a model stores: type, shape, and that the bytes fill the shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_source.bounds import MAX_RANK, MAX_TENSOR_BYTES
from edgekit_converters.onnx_source.walk import tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_INT64: Final = 2**63 - 1
# Kernels count along an axis in 32 bits.
_MAX_INT32: Final = 2**31 - 1
_EXTERNAL: Final = 1
_BLOCK_ELEMENTS: Final = 1 << 20
# Which field holds the elements of each type, where they are not raw; see onnx.proto. The fields
# of the complex types hold two numbers an element, those of packed types several in one number.
_FIELDS: Final = {
    "FLOAT": "float_data", "COMPLEX64": "float_data", "DOUBLE": "double_data",
    "COMPLEX128": "double_data", "INT64": "int64_data", "UINT64": "uint64_data",
    "UINT32": "uint64_data", "STRING": "string_data",
}  # fmt: skip
_ALL_FIELDS: Final = (
    "float_data", "double_data", "int32_data", "int64_data", "uint64_data", "string_data",
)  # fmt: skip
_BITS: Final = {
    "FLOAT": 32, "UINT8": 8, "INT8": 8, "UINT16": 16, "INT16": 16, "INT32": 32, "INT64": 64,
    "BOOL": 8, "FLOAT16": 16, "DOUBLE": 64, "UINT32": 32, "UINT64": 64, "COMPLEX64": 64,
    "COMPLEX128": 128, "BFLOAT16": 16, "FLOAT8E4M3FN": 8, "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8,
    "FLOAT8E5M2FNUZ": 8, "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "FLOAT8E8M0": 8, "UINT2": 2,
    "INT2": 2,
}  # fmt: skip


def constant_faults(model: Any) -> list[str]:
    """Everything that is wrong with a stored tensor; bytes in other files are not looked at."""
    faults = []
    for place, tensor in tensors(model):
        fault = _fault_of(tensor)
        if fault:
            faults.append(f"{place} {fault}")
    return faults


def doubtful_weights(model: Any) -> tuple[str, ...]:
    """A sentence for each stored tensor that holds NaN or infinity."""
    return tuple(
        f"{place} holds {found}: what it touches cannot be computed"
        for place, tensor in tensors(model)
        if (found := _not_finite(tensor))
    )


def type_name(code: int) -> str:
    """ONNX's name for an element type, "" where there is none."""
    from onnx import TensorProto

    try:
        return str(TensorProto.DataType.Name(code))
    except ValueError:
        return ""


def shape_fault(dims: list[int], kind: str) -> str:
    """What is impossible about the shape of a tensor, "" if nothing."""
    if len(dims) > MAX_RANK:
        return f"has {len(dims)} axes, the limit is {MAX_RANK}"
    if any(size < 0 for size in dims):
        return f"has the impossible shape {dims}"
    count = math.prod(dims)
    if count > _MAX_INT64:
        return f"has the shape {dims}, whose number of elements is beyond 64 bits"
    if any(size > _MAX_INT32 for size in dims):
        return f"has the shape {dims}, a size of which is beyond 31 bits"
    size = stored_bytes(count, kind)
    if size > MAX_TENSOR_BYTES:
        return f"has the shape {dims}: {size} bytes, the limit is {MAX_TENSOR_BYTES}"
    return ""


def stored_bytes(count: int, kind: str) -> int:
    """How many bytes so many elements of a type take, packed as ONNX stores them."""
    return (count * _BITS.get(kind, 8) + 7) // 8


def _fault_of(tensor: Any) -> str:
    kind = type_name(tensor.data_type)
    if kind in {"", "UNDEFINED"}:
        return f"has the element type {tensor.data_type}, which does not exist"
    if kind != "STRING" and kind not in _BITS:
        return f"has the element type {kind}, which is not supported"
    fault = shape_fault(list(tensor.dims), kind)
    if fault:
        return fault
    if tensor.HasField("segment"):
        return "is stored in segments, which no runtime reads"
    if tensor.data_location == _EXTERNAL:
        filled = [field for field in ("raw_data", *_ALL_FIELDS) if len(getattr(tensor, field))]
        return f"is in another file and has {filled[0]} as well" if filled else ""
    return _length_fault(tensor, kind)


def _length_fault(tensor: Any, kind: str) -> str:
    from onnx import numpy_helper

    count = math.prod(tensor.dims)
    filled = [field for field in _ALL_FIELDS if len(getattr(tensor, field))]
    raw = tensor.HasField("raw_data")
    if raw and (filled or kind == "STRING"):
        return f"is stored twice, as raw_data and as {(*filled, 'string_data')[0]}"
    if raw:
        held, needed, unit = len(tensor.raw_data), stored_bytes(count, kind), "bytes"
        return "" if held == needed else f"needs {needed} {unit} and has {held}"
    wanted = _FIELDS.get(kind, "int32_data")
    if any(field != wanted for field in filled):
        return f"is {kind} and stored as {', '.join(filled)}"
    per_element = 2 if kind.startswith("COMPLEX") else 1
    packed = 8 // _BITS.get(kind, 8) or 1
    held, needed = len(getattr(tensor, wanted)), -(-count * per_element // packed)
    if held != needed:
        return f"needs {needed} elements and has {held}"
    try:
        numpy_helper.to_array(tensor)
    except (ValueError, OverflowError, TypeError, UnicodeDecodeError) as error:
        return f"cannot be read: {error}"
    return ""


def _not_finite(tensor: Any) -> str:
    kind = type_name(tensor.data_type)
    if not kind.startswith(("FLOAT", "DOUBLE", "BFLOAT", "COMPLEX")):
        return ""
    nans = infinities = 0
    for block in _blocks(tensor):
        finite = np.isfinite(block)
        if not finite.all():
            missing = np.isnan(block)
            nans += int(missing.sum())
            infinities += int((~finite & ~missing).sum())
    parts = [f"{nans} NaN"] if nans else []
    parts += [f"{infinities} infinite values"] if infinities else []
    return " and ".join(parts)


def _blocks(tensor: Any) -> Iterator[NDArray[Any]]:
    """The elements in parts, so that no mask of a large tensor is made at once."""
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor).reshape(-1)
    for start in range(0, array.size, _BLOCK_ELEMENTS):
        yield array[start : start + _BLOCK_ELEMENTS]
