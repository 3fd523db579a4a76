"""What Keras' files and SavedModels share: TensorFlow, and the way of a function to ONNX."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.sources.imported import (
    ImportedModel,
    ReferenceSession,
    specs_of,
)
from edgekit_converters.sources.quiet import one_line
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError
from edgekit_runtime.extras import require
from edgekit_runtime.session import RuntimeInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_OPSET: Final = 18
_PACKAGES: Final = ("tensorflow", "keras", "tf2onnx")


def require_tensorflow() -> Any:
    """Import TensorFlow, if everything that goes with it is there."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentLackError(
            f"this needs the Python package(s) {', '.join(missing)}, which are not installed",
            where="extra 'keras'",
            fix='pip install "edgekit[keras]"',
        )
    require("onnx", extra="convert")
    tensorflow: Any = importlib.import_module("tensorflow")
    return tensorflow


def import_function(
    tensorflow: Any,
    call: Callable[..., Sequence[Any]],
    *,
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    predict: Callable[[Mapping[str, NDArray[np.generic]]], Sequence[Any]],
    runtime: tuple[str, str],
    where: str,
    warnings: Sequence[str] = (),
) -> ImportedModel:
    """Say a function of TensorFlow in ONNX.

    Args:
        tensorflow: The package.
        call: Takes tensors in the order of `inputs`, gives tensors in that of `outputs`.
        inputs: Names, each with something that has a `shape` and a `dtype`.
        outputs: Names.
        predict: The model's own way to run.
        runtime: Name and version of what runs it.
        where: The source, for errors.
        warnings: Sentences for the report.

    Raises:
        UnsupportedModelError: If tf2onnx cannot say it in ONNX.
    """
    tf2onnx: Any = importlib.import_module("tf2onnx")
    signature = [
        tensorflow.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in inputs.items()
    ]
    try:
        model, _ = tf2onnx.convert.from_function(
            tensorflow.function(call, input_signature=signature),
            input_signature=signature,
            opset=_OPSET,
        )
    except Exception as error:
        raise UnsupportedModelError(
            f"tf2onnx cannot say this model in ONNX: {one_line(error, limit=500)}",
            where=where,
            fix="replace the layer that it names with one that ONNX has, or leave it to the "
            "program that uses the model",
        ) from error
    _name(model, list(inputs), list(outputs))
    taken, given = specs_of(model)
    return ImportedModel(
        model=model,
        reference=ReferenceSession(
            inputs=taken,
            outputs=given,
            runtime=RuntimeInfo(name=runtime[0], version=runtime[1], threads=1),
            predict=predict,
            where=where,
        ),
        exporter=f"tf2onnx {importlib.metadata.version('tf2onnx')}",
        warnings=tuple(warnings),
    )


def _name(model: Any, inputs: list[str], outputs: list[str]) -> None:
    """Give inputs and outputs the names that the user knows; tf2onnx makes up its own."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    values = [value for value in graph.input if value.name not in constants]
    renamed: dict[str, str] = {}
    for found, wanted in ((values, inputs), (list(graph.output), outputs)):
        if len(found) == len(wanted):
            renamed.update((v.name, name) for v, name in zip(found, wanted, strict=True))
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    renamed = {old: new for old, new in renamed.items() if new not in taken}
    for value in (*values, *graph.output):
        value.name = renamed.get(value.name, value.name)
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = "batch"
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = renamed.get(name, name)
    del graph.value_info[:]
