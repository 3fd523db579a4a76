"""Say, for a person, where a converted model parts from its source."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.difference import relative_error
from edgekit_converters.divergence import find_divergence, find_wrong_part
from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.litert_trace import LitertTrace, run_litert
from edgekit_converters.onnx_source.known import value_shape
from edgekit_converters.onnx_trace import OnnxTrace, run_onnx
from edgekit_converters.probes import Arrays
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError

if TYPE_CHECKING:
    from edgekit_converters.litert.compile import LoweredModel

# Most values are float32; that some are wider, and some narrower, does not change the plan.
_ELEMENT_BYTES: Final = 4
_NOTHING: Final = "no single node is off by more than that"


def blame_onnx(original: Any, plain: Any, inputs: Arrays, tolerance: float) -> str:
    """Where the plain form of an ONNX model parts from the model itself.

    Args:
        original: The `onnx.ModelProto` that was read, its nodes in an order of execution.
        plain: What `normalise` made of it, with inferred shapes.
        inputs: On which they differ.
        tolerance: The largest relative error that is allowed.
    """
    source = OnnxTrace(original)
    try:
        found = find_divergence(
            source, OnnxTrace(plain), inputs, tolerance, sizes=_sizes(plain, inputs)
        )
    except EdgekitError as error:
        return f"the node cannot be found: {error.what}"
    return f"first at {found.describe(source.node)}" if found else _NOTHING


def blame_litert(original: Any, compiled: LoweredModel, inputs: Arrays, tolerance: float) -> str:
    """Where a LiteRT model parts from the ONNX model that it was made from.

    Args:
        original: The `onnx.ModelProto` that was read, its nodes in an order of execution.
        compiled: What was made of it.
        inputs: On which they differ, in the source's order of axes.
        tolerance: The largest relative error that is allowed.
    """
    source, prepared = OnnxTrace(original), OnnxTrace(compiled.prepared)
    try:
        if _outputs_differ(original, compiled.prepared, inputs, tolerance):
            said = blame_onnx(original, compiled.prepared, inputs, tolerance)
            return f"{said}, in the plain form of the model, before LiteRT"
        found = find_divergence(
            prepared,
            LitertTrace(compiled),
            inputs,
            tolerance,
            run_alone=_run_alone,
            sizes=_sizes(compiled.prepared, inputs),
        )
    except EdgekitError as error:
        return f"the node cannot be found: {error.what}"
    return f"first at {found.describe(_namer(source, prepared))}" if found else _NOTHING


def wrong_inside_onnx(original: Any, plain: Any, inputs: Arrays, tolerance: float) -> str:
    """Which node of the plain form is wrong although the outputs agree, "" if none is.

    An output may hide an error: next to coordinates of some hundred, a probability that is wrong
    altogether is a small part of the largest number. The arguments are those of `blame_onnx`.
    """
    source = OnnxTrace(original)
    try:
        found = find_wrong_part(
            source, OnnxTrace(plain), inputs, tolerance, sizes=_sizes(plain, inputs)
        )
    except EdgekitError:
        # Not every model can be looked into; its outputs were compared all the same.
        return ""
    return found.describe(source.node) if found else ""


def wrong_inside_litert(
    original: Any, compiled: LoweredModel, inputs: Arrays, tolerance: float
) -> str:
    """The same for a LiteRT model.

    The arguments are those of `blame_litert`.
    """
    prepared = OnnxTrace(compiled.prepared)
    try:
        found = find_wrong_part(
            prepared,
            LitertTrace(compiled),
            inputs,
            tolerance,
            run_alone=_run_alone,
            sizes=_sizes(compiled.prepared, inputs),
        )
    except EdgekitError:
        return ""
    return found.describe(_namer(OnnxTrace(original), prepared)) if found else ""


def _outputs_differ(original: Any, plain: Any, inputs: Arrays, tolerance: float) -> bool:
    names = [value.name for value in plain.graph.output]
    expected, computed = (run_onnx(model, inputs, names) for model in (original, plain))
    return any(relative_error(expected[name], computed[name]) > tolerance for name in names)


def _namer(source: OnnxTrace, prepared: OnnxTrace) -> Callable[[str], str]:
    """The source's node behind a value: what was written out in several is known by its result."""

    def name_of(value: str) -> str:
        known = prepared.known_after(value, source.names)
        if not known or source.node(known) == prepared.node(value):
            return prepared.node(value)
        return f"{source.node(known)}, in its part {prepared.node(value)}"

    return name_of


def _run_alone(part: Any, inputs: Arrays, names: Sequence[str]) -> Arrays | None:
    """Convert a part of a model and run it; None if it cannot be converted alone."""
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(part, data_prop=True)
        compiled = compile_to_litert(inferred, where="a part of the model")
    except (onnx.shape_inference.InferenceError, UnsupportedModelError):
        return None
    arrays = [inputs[tensor.name] for tensor in compiled.program.inputs]
    found = dict(zip(compiled.graph.outputs, run_litert(compiled.content, arrays), strict=True))
    return {name: found[name] for name in names}


def _sizes(model: Any, inputs: Arrays) -> Mapping[str, int]:
    """About how many bytes each value takes; free sizes are as large as the largest given one."""
    free = [
        given
        for value in model.graph.input
        if value.name in inputs
        for size, given in zip(value_shape(value) or (), inputs[value.name].shape, strict=False)
        if size is None
    ]
    sizes = {}
    for value in (*model.graph.value_info, *model.graph.output):
        shape = value_shape(value) or ()
        count = math.prod(max(free, default=1) if size is None else size for size in shape)
        sizes[value.name] = count * _ELEMENT_BYTES
    return sizes
