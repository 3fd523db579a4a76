"""Turn sparse constants into ordinary ones: neither engine keeps them sparse."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_source.tensors import shape_fault, type_name
from edgekit_converters.onnx_source.walk import Scope, label, scopes

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A gigabyte of floats; a sparse constant says with some bytes that it wants more.
_MAX_DENSE_ELEMENTS: Final = 1 << 28


def densify(model: Any) -> list[str]:
    """Write every sparse constant as a dense one, in place; returns what is wrong with the others.

    Call it when the tensors within are known to be whole, see `constant_faults`.
    """
    faults = []
    for scope in scopes(model):
        if not scope.is_function:
            faults += _densify_initialisers(scope)
        for node in scope.body.node:
            for attribute in node.attribute:
                if attribute.sparse_tensors:
                    faults.append(scope.at(f"{label(node)} holds a list of sparse tensors"))
                if attribute.HasField("sparse_tensor"):
                    place = scope.at(f"the sparse constant of {label(node)}")
                    faults += _densify_attribute(attribute, place)
    return faults


def _densify_initialisers(scope: Scope) -> list[str]:
    graph = scope.body
    faults = []
    for sparse in graph.sparse_initializer:
        dense, fault = _dense(sparse)
        if dense is None:
            faults.append(scope.at(f"the sparse constant {sparse.values.name!r} {fault}"))
        else:
            graph.initializer.append(_tensor(dense, sparse.values.name))
    del graph.sparse_initializer[:]
    return faults


def _densify_attribute(attribute: Any, place: str) -> list[str]:
    dense, fault = _dense(attribute.sparse_tensor)
    if dense is None:
        return [f"{place} {fault}"]
    attribute.ClearField("sparse_tensor")
    attribute.name = "value"
    attribute.type = type(attribute).TENSOR
    attribute.t.CopyFrom(_tensor(dense, ""))
    return []


def _dense(sparse: Any) -> tuple[NDArray[Any] | None, str]:
    """The whole array, or None and the reason why there is none."""
    from onnx import numpy_helper

    shape = tuple(sparse.dims)
    fault = shape_fault(list(shape), type_name(sparse.values.data_type))
    count = math.prod(shape)
    if not fault and count > _MAX_DENSE_ELEMENTS:
        fault = f"would have {count} elements, the limit is {_MAX_DENSE_ELEMENTS}"
    if fault:
        return None, fault
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    fault, flat = _flat_indices(values, indices, shape)
    if fault:
        return None, fault
    dense = np.zeros(count, dtype=values.dtype)
    dense[flat] = values
    return dense.reshape(shape), ""


def _flat_indices(
    values: NDArray[Any], indices: NDArray[Any], shape: tuple[int, ...]
) -> tuple[str, NDArray[Any]]:
    """What is wrong with the indices, and each as its place in the flattened array."""
    fault = ""
    if values.ndim != 1 or indices.dtype != np.int64 or values.dtype == object:
        fault = "has values or indices of a wrong kind"
    elif indices.shape == (values.size,):
        rows, limits = indices.reshape(-1, 1), np.array([math.prod(shape)], dtype=np.int64)
    elif indices.shape == (values.size, len(shape)):
        rows, limits = indices, np.array(shape, dtype=np.int64)
    else:
        fault = f"has {values.size} values and indices of shape {list(indices.shape)}"
    if fault:
        return fault, indices
    if ((rows < 0) | (rows >= limits)).any():
        return "has indices outside its shape", indices
    flat = np.ravel_multi_index(tuple(rows.T), tuple(limits)) if values.size else rows[:, 0]
    return "" if np.unique(flat).size == flat.size else "names one element twice", flat


def _tensor(array: NDArray[Any], name: str) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(array, name)
