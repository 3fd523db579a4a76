"""Versions that must not stay on a device: each with a real fault, none of them faked.

They are built and signed like any other release: the mistakes of an honest team.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_runtime.bundle.archive import BundleArchive, entry_of, write_bundle

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Mean brightness above which the faulty version answers NaN; about half of the digits are brighter.
_BRIGHT: Final = 0.30


def wrong_model_bundle(bundle: Path, model_of: Path, *, version: str, output: Path) -> None:
    """A bundle whose models are not those that its golden samples were computed with.

    Somebody put the weights of another training run into it; every hash and signature is right.

    Args:
        bundle: Where the golden samples come from.
        model_of: Another bundle of the same model, whose model files take their place.
        version: Of the new bundle.
        output: The `.ekb` to write.
    """
    with BundleArchive(bundle) as source, BundleArchive(model_of) as other:
        files = {name: source.read(name) for name in source.manifest.files}
        for variant in source.manifest.variants:
            files[variant.file] = other.read(other.manifest.variant(variant.id).file)
        manifest = replace(
            source.manifest,
            version=version,
            files={name: entry_of(data) for name, data in files.items()},
        )
    write_bundle(output, manifest, files)


def brittle_model(source: Path, output: Path) -> None:
    """A model that is right on dim images and answers NaN on bright ones.

    A contrast term was added after the last layer: 0 x sqrt(threshold - brightness). It changes
    nothing, until the brightness passes the threshold and the root has no real value.

    Args:
        source: An ONNX classifier of images.
        output: The ONNX file to write.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(source))
    graph = model.graph
    image, logits = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        node.output[:] = ["sound_logits" if name == logits else name for name in node.output]
        node.input[:] = ["sound_logits" if name == logits else name for name in node.input]
    graph.initializer.extend(
        [
            helper.make_tensor("contrast_threshold", TensorProto.FLOAT, [1, 1], [_BRIGHT]),
            helper.make_tensor("contrast_weight", TensorProto.FLOAT, [1, 1], [0.0]),
            helper.make_tensor("contrast_shape", TensorProto.INT64, [2], [-1, 1]),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("GlobalAveragePool", [image], ["brightness"], name="brightness"),
            helper.make_node(
                "Reshape", ["brightness", "contrast_shape"], ["brightness_row"], name="row"
            ),
            helper.make_node(
                "Sub", ["contrast_threshold", "brightness_row"], ["headroom"], name="headroom"
            ),
            helper.make_node("Sqrt", ["headroom"], ["contrast"], name="contrast"),
            helper.make_node("Mul", ["contrast", "contrast_weight"], ["term"], name="term"),
            helper.make_node("Add", ["sound_logits", "term"], [logits], name="corrected"),
        ]
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(output))


def dim_images(images: NDArray[Any], labels: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The images on which `brittle_model` is right, with their labels."""
    brightness = images.reshape(len(images), -1).mean(axis=1)
    # A margin: pooling sums in another order than numpy.
    dim = brightness < _BRIGHT * 0.98
    return {"image": np.ascontiguousarray(images[dim]), "labels": labels[dim]}
