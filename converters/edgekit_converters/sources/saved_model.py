"""TensorFlow's SavedModel: a folder with a graph and its weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.sources.imported import ImportedModel, Progress
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.quiet import one_line
from edgekit_converters.sources.tensorflow_export import import_function, require_tensorflow
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIGNATURE: Final = "serving_default"
_SHOWN: Final = 20
# Operators that reach beyond tensors, or call Python; what saves and restores weights is not here.
_REACHING: Final = frozenset(
    {"ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc"}
    | {"WholeFileReaderV2", "TextLineReaderV2", "FixedLengthRecordReaderV2", "TFRecordReaderV2"}
    | {"IdentityReaderV2", "LoadDataset", "SaveDataset", "SaveDatasetV2", "WriteSummary"}
)


def import_saved_model(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Load a SavedModel; its `serving_default` signature is converted, or else its first.

    Raises:
        UnsupportedModelError: If it is damaged, has no signature, reads or writes files, or has
            no ONNX form.
        EnvironmentLackError: If the extra `keras` is not installed.
    """
    del options
    where = str(source)
    progress("loading TensorFlow")
    tf = require_tensorflow()
    _refuse_reaching(source)
    progress("loading the model, exporting to ONNX with tf2onnx")
    try:
        loaded = tf.saved_model.load(where)
        signatures = dict(loaded.signatures)
    except Exception as error:
        raise UnsupportedModelError(
            f"TensorFlow cannot load this SavedModel: {one_line(error)}",
            where=where,
            fix="it may be damaged or incomplete: copy the whole folder again",
        ) from error
    name = _SIGNATURE if _SIGNATURE in signatures else next(iter(signatures), None)
    if name is None:
        raise UnsupportedModelError(
            "this SavedModel has no signature to call",
            where=where,
            fix="save it with signatures=..., or with model.export('folder')",
        )
    function = signatures[name]
    inputs = dict(sorted(function.structured_input_signature[1].items()))
    outputs = sorted(function.structured_outputs)

    def call(*tensors: Any) -> list[Any]:
        answer = function(**dict(zip(inputs, tensors, strict=True)))
        return [answer[output] for output in outputs]

    def predict(arrays: Mapping[str, NDArray[np.generic]]) -> list[Any]:
        tensors = [tf.constant(arrays[name]) for name in inputs]
        return [tensor.numpy() for tensor in call(*tensors)]

    # Keras writes each model under two names.
    others = [other for other in signatures if other not in {name, "serve"}]
    return import_function(
        tf,
        call,
        inputs=inputs,
        outputs=outputs,
        predict=predict,
        runtime=("tensorflow", str(tf.__version__)),
        where=where,
        warnings=[f"of its signatures {name!r} was converted, not {', '.join(map(repr, others))}"]
        if others
        else [],
    )


def _refuse_reaching(source: Path) -> None:
    """Refuse a graph that touches files or calls Python, before anything of it runs."""
    content = source / "saved_model.pb"
    if not content.is_file():
        return
    saved: Any = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
    try:
        saved.ParseFromString(content.read_bytes())
    except Exception as error:
        raise UnsupportedModelError(
            "its saved_model.pb is damaged",
            where=str(source),
            fix="copy the whole folder again",
        ) from error
    found = [
        f"{node.name} ({node.op})"
        for graph in saved.meta_graphs
        for nodes in (
            graph.graph_def.node,
            *(function.node_def for function in graph.graph_def.library.function),
        )
        for node in nodes
        if node.op in _REACHING
    ]
    if found:
        raise UnsupportedModelError(
            f"this SavedModel reads or writes files, or calls Python: {', '.join(found[:_SHOWN])}",
            where=str(source),
            fix="a model has no need to: take that out and export it again",
        )
