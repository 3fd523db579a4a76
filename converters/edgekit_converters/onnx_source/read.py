"""Load an ONNX file and find everything that is wrong with it, before any engine sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS, opset_of
from edgekit_converters.onnx_source.absent import absent_faults
from edgekit_converters.onnx_source.attributes import attribute_faults
from edgekit_converters.onnx_source.bounds import MAX_MODEL_BYTES, size_faults
from edgekit_converters.onnx_source.external import find_external, load_external
from edgekit_converters.onnx_source.inference import has_no_shape, infer_in_steps
from edgekit_converters.onnx_source.operands import operand_faults
from edgekit_converters.onnx_source.skeleton import skeleton
from edgekit_converters.onnx_source.sparse import densify
from edgekit_converters.onnx_source.structure import (
    name_faults,
    sort_nodes,
    text_faults,
    unknown_operators,
)
from edgekit_converters.onnx_source.tensors import constant_faults
from edgekit_converters.onnx_source.values import declared_faults, free_unknown_sizes
from edgekit_converters.onnx_source.walk import scopes
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError
from edgekit_runtime.extras import require

OLDEST_OPSET: Final = 7
OLDEST_IR_VERSION: Final = 3
# For models of classical machine learning alone, which name only the version of `ai.onnx.ml`.
_OPSET_FOR_OTHERS: Final = 17
_SHOWN: Final = 20
_LONGEST_REASON: Final = 300


def read_onnx(path: Path) -> Any:
    """Load and check an ONNX model.

    Weights in other files are read from the model's own folder only. Sparse constants become
    dense, nodes are put into an order of execution, and what is for training alone is dropped.

    Args:
        path: A file that `detect_format` has called ONNX.

    Returns:
        An `onnx.ModelProto` with all its weights.

    Raises:
        UnsupportedModelError: If the file is truncated, damaged, too large, breaks the
            specification, has operators that nothing here knows, or is older than opset 7 or IR
            version 3; all that is wrong is named at once.
        EnvironmentLackError: If the `convert` extra is not installed.
    """
    onnx: Any = require("onnx", extra="convert")
    # Asked for here, so that its absence is said before any work: constants are computed with it.
    require("onnxruntime", extra="convert")
    model = _parse(onnx, path)
    _check_versions(onnx, model, path)
    _refuse(size_faults(model), path)
    free_unknown_sizes(model)
    unknown = unknown_operators(model)
    faults = [*name_faults(model), *declared_faults(model), *constant_faults(model)]
    parts, external = find_external(model, path)
    faults += [*external, *attribute_faults(model), *absent_faults(model, opset_of(model))]
    if unknown and not faults:
        raise _unknown_operators(unknown, path)
    _refuse(
        [*(f"{name} is of a domain that nothing here knows" for name in unknown), *faults], path
    )
    _check_total(sum(part.length_bytes for part in parts), path)
    _refuse(load_external(parts), path)
    _refuse(densify(model), path)
    sort_nodes(model.graph)
    del model.training_info[:]
    _check_specification(model, path)
    return model


def damaged(path: Path, reason: object) -> EdgekitError:
    """The error to raise for an ONNX file that cannot be used."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    return UnsupportedModelError(
        f"this is no valid ONNX model: {text}",
        where=str(path),
        fix="it may be truncated or damaged: export or copy it again",
    )


def _parse(onnx: Any, path: Path) -> Any:
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise UnsupportedModelError(
            f"the file has {size} bytes, and an ONNX file ends at 2 GiB",
            where=str(path),
            fix="export the model again with its weights in a file beside it (external data)",
        )
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except Exception as error:  # protobuf's parsers raise unrelated types
        reason = "it cannot be parsed"
        if "MaxDepth" in str(error):
            reason = "its graphs are nested deeper than protobuf allows"
        raise damaged(path, reason) from error
    if not model.graph.node:
        raise damaged(path, "it has no operators")
    if not model.graph.output:
        raise damaged(path, "it has no outputs")
    _refuse(text_faults(model), path)
    return model


def _check_versions(onnx: Any, model: Any, path: Path) -> None:
    if not any(o.domain in STANDARD_DOMAINS for o in model.opset_import) and _needs_none(model):
        model.opset_import.add(domain="", version=_OPSET_FOR_OTHERS)
    opset = opset_of(model)
    if opset < OLDEST_OPSET or model.ir_version < OLDEST_IR_VERSION:
        raise UnsupportedModelError(
            f"the model is too old: opset {opset}, IR version {model.ir_version}",
            where=str(path),
            fix=f"export it with opset {OLDEST_OPSET} or newer",
        )
    newest = onnx.defs.onnx_opset_version()
    if opset > newest or model.ir_version > onnx.IR_VERSION:
        raise UnsupportedModelError(
            f"the model is too new: opset {opset}, IR version {model.ir_version}; the installed "
            f"onnx {onnx.__version__} knows opset {newest} and IR version {onnx.IR_VERSION}",
            where=str(path),
            fix=f"export it with opset {newest} or older, or install a newer onnx",
        )
    stated = [o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS]
    if len(set(stated)) > 1:
        raise damaged(path, f"it names several versions of ONNX's operators: {sorted(stated)}")


def _needs_none(model: Any) -> bool:
    """Whether no operator is ONNX's own, so that the file need not name their version."""
    return all(
        node.domain not in STANDARD_DOMAINS for scope in scopes(model) for node in scope.body.node
    )


def _check_total(external_bytes: int, path: Path) -> None:
    total = path.stat().st_size + external_bytes
    if total > MAX_MODEL_BYTES:
        raise UnsupportedModelError(
            f"the model has {total} bytes with the files beside it, the limit is 2 GiB",
            where=str(path),
            fix="neither a .tflite nor an .onnx file holds more: make the model smaller first",
        )


def _check_specification(model: Any, path: Path) -> None:
    """ONNX's own checks, on a model without its large constants; then ours that need shapes."""
    import onnx.inliner

    small = skeleton(model)
    # The checker insists on shapes of the outputs, which inference finds as well.
    open_shapes = [value for value in small.graph.output if has_no_shape(value)]
    for value in open_shapes:
        value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(small)
        for value in open_shapes:
            value.type.tensor_type.ClearField("shape")
        if small.functions:
            small = onnx.inliner.inline_local_functions(small)
        impossible = infer_in_steps(small)
    except Exception as error:
        raise damaged(path, str(error)[:_LONGEST_REASON]) from error
    _refuse([*operand_faults(small), *impossible], path)
    given = {value.name: value for value in small.graph.input}
    for value, inferred in zip(model.graph.output, small.graph.output, strict=True):
        if has_no_shape(value):
            value.type.CopyFrom(given.get(value.name, inferred).type)


def _unknown_operators(names: Sequence[str], path: Path) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{len(names)} operator(s) are of domains that nothing here knows: {_listed(names)}",
        where=str(path),
        fix="replace them by ONNX's own operators, or store their definitions as functions in "
        "the model",
    )


def _refuse(faults: Sequence[str], path: Path) -> None:
    if faults:
        raise damaged(path, _listed(faults))


def _listed(items: Sequence[str]) -> str:
    more = f"; and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more
