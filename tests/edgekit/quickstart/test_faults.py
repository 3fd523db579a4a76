"""The faults are real ones: right where it is looked at, wrong where it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgekit.quickstart.assets import digits_assets
from edgekit.quickstart.faults import brittle_model, dim_images
from edgekit_runtime.session import open_session


def test_the_brittle_model_is_right_on_dim_images_and_nan_on_bright_ones(tmp_path: Path) -> None:
    assets = digits_assets()
    brittle_model(assets.model_v2, tmp_path / "brittle.onnx")
    sound, brittle = open_session(assets.model_v2), open_session(tmp_path / "brittle.onnx")
    with np.load(assets.test) as arrays:
        images, labels = arrays["image"], arrays["labels"]
    dim = dim_images(images, labels)
    assert 20 < len(dim["image"]) < len(images)
    np.testing.assert_array_equal(
        brittle.run({"image": dim["image"]})["logits"], sound.run({"image": dim["image"]})["logits"]
    )
    everything = brittle.run({"image": images})["logits"]
    nan = np.isnan(everything).any(axis=1)
    assert 0.2 < nan.mean() < 0.8


def test_without_the_trained_weights_the_accuracy_falls(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    assets = digits_assets()
    model = onnx.load(str(assets.model_v2))
    generator = np.random.default_rng(7)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            noise = generator.normal(size=array.shape).astype(np.float32) * array.std()
            tensor.CopyFrom(numpy_helper.from_array(noise, tensor.name))
    onnx.save(model, str(tmp_path / "untrained.onnx"))
    with np.load(assets.test) as arrays:
        images, labels = arrays["image"], arrays["labels"]

    def accuracy(path: Path) -> float:
        answers = open_session(path).run({"image": images})["logits"].argmax(axis=1)
        return float((answers == labels).mean())

    assert accuracy(assets.model_v2) > 0.98
    assert accuracy(tmp_path / "untrained.onnx") < 0.35
