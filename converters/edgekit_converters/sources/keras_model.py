"""Keras' own files: `.keras`, a zip archive, and `.h5`, which Keras 2 wrote."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit_converters.sources.imported import ImportedModel, Progress
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.quiet import one_line
from edgekit_converters.sources.tensorflow_export import import_function, require_tensorflow
from edgekit_converters.sources.trust import refuse_untrusted
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def import_keras_model(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Load a `.keras` or `.h5` file.

    Raises:
        UsageError: If a layer of it carries Python code and the file is not trusted.
        UnsupportedModelError: If it is damaged, holds weights alone, does not say what its inputs
            are, or has no ONNX form.
        EnvironmentLackError: If the extra `keras` is not installed.
    """
    where = str(source)
    progress("loading TensorFlow")
    tensorflow = require_tensorflow()
    keras: Any = importlib.import_module("keras")
    progress("loading the model, exporting to ONNX with tf2onnx")
    model = _read(keras, source, trust=options.trust_pickle)
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise UnsupportedModelError(
            "this Keras model does not say what its inputs look like",
            where=where,
            fix="build it as a functional or sequential model with keras.Input, or export it with "
            "model.export('folder') and give that folder",
        )

    # Not model.export: of a model that was loaded it says that it was never called.
    def call(*tensors: Any) -> list[Any]:
        answer = model(list(tensors) if len(tensors) > 1 else tensors[0], training=False)
        return list(keras.tree.flatten(answer))

    names = [str(tensor.name) for tensor in inputs]

    def predict(arrays: Mapping[str, NDArray[np.generic]]) -> list[Any]:
        given = [arrays[name] for name in names]
        answer = model.predict_on_batch(given if len(given) > 1 else given[0])
        return list(keras.tree.flatten(answer))

    return import_function(
        tensorflow,
        call,
        inputs=dict(zip(names, inputs, strict=True)),
        # A sequential model has no names for its outputs; its last layer has one.
        outputs=[str(n) for n in getattr(model, "output_names", [model.layers[-1].name])],
        predict=predict,
        runtime=("keras", str(keras.__version__)),
        where=where,
    )


def _read(keras: Any, source: Path, *, trust: bool) -> Any:
    where = str(source)
    with source.open("rb") as file:
        h5 = file.read(4) == b"\x89HDF"
    with tempfile.TemporaryDirectory() as folder:
        # Keras goes by the ending of the name.
        named = Path(folder) / ("model.h5" if h5 else "model.keras")
        try:
            named.symlink_to(source.absolute())
        except OSError:
            shutil.copyfile(source, named)
        objects = {"DepthwiseConv2D": _depthwise_without_groups(keras)} if h5 else None
        try:
            return keras.saving.load_model(
                str(named), custom_objects=objects, compile=False, safe_mode=not trust
            )
        except Exception as error:
            text = one_line(error, limit=500)
            if "lambda" in text.lower() and not trust:
                refuse_untrusted(
                    where,
                    what="a Keras model with Python code in a Lambda layer",
                    safe="write that layer with keras.ops, or as a layer class of your own",
                )
            raise _unreadable(where, text) from error


def _unreadable(where: str, text: str) -> UnsupportedModelError:
    if "No model config" in text or "No model found in config" in text:
        return UnsupportedModelError(
            "this file holds weights without the model that they belong to",
            where=where,
            fix="save both with model.save('model.keras')",
        )
    unknown = "custom" in text.lower() or "Could not locate class" in text
    return UnsupportedModelError(
        f"Keras cannot load this model: {text}",
        where=where,
        fix="export it where its own layers are known, with model.export('folder'), and give that "
        "folder"
        if unknown
        else "it may be damaged, or saved by another version of Keras: save it again",
    )


def _depthwise_without_groups(keras: Any) -> Any:
    """The layer as Keras 2 saved it: with the number of groups, which is one."""

    class DepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            if options.get("groups") == 1:
                del options["groups"]
            super().__init__(*arguments, **options)

    return DepthwiseConv2D
