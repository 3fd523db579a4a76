"""Run as a script: makes Keras models with their answers in a folder, for the tests to convert.

Usage: python keras_models.py FOLDER
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

layers = keras.layers


def models() -> dict[str, Any]:
    """One of each kind."""
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    joined = layers.Concatenate()([layers.Dense(3)(left), right])
    return {
        "dense": keras.Sequential(
            [
                keras.Input((10,), name="x"),
                layers.Dense(8, activation="relu"),
                layers.Dropout(0.5),
                layers.Dense(3, activation="softmax", name="probabilities"),
            ]
        ),
        "conv": keras.Sequential(
            [
                keras.Input((16, 16, 3), name="image"),
                layers.Conv2D(4, 3, strides=2, padding="same"),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.DepthwiseConv2D(3),
                layers.GlobalAveragePooling2D(),
                layers.Dense(2, activation="sigmoid", name="scores"),
            ]
        ),
        "lstm": keras.Sequential(
            [keras.Input((12, 5), name="steps"), layers.LSTM(8), layers.Dense(2, name="y")]
        ),
        "gru": keras.Sequential(
            [
                keras.Input((12, 5), name="steps"),
                layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
                layers.GRU(6),
                layers.Dense(2, name="y"),
            ]
        ),
        "two": keras.Model(
            [left, right],
            [layers.Dense(2, name="first")(joined), layers.Dense(1, name="second")(joined)],
        ),
    }


class Reaching(tf.Module):
    """A SavedModel that reads a file."""

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def call(self, x: Any) -> Any:
        length = tf.strings.length(tf.io.read_file("/etc/hostname"))
        return {"y": x * tf.cast(length, tf.float32)}


def main(folder: Path) -> None:
    """Write everything."""
    keras.utils.set_random_seed(5)
    rng = np.random.default_rng(5)
    for name, model in models().items():
        inputs = {
            t.name: rng.normal(size=(40, *t.shape[1:])).astype(np.float32) for t in model.inputs
        }
        values = list(inputs.values())
        answer = model.predict(values if len(values) > 1 else values[0], verbose=0)
        outputs = answer if isinstance(answer, list) else [answer]
        np.savez(folder / f"{name}.npz", **inputs, **{f"out{i}": o for i, o in enumerate(outputs)})
        model.save(folder / f"{name}.keras")
        if name in {"dense", "conv"}:
            model.save(folder / f"{name}.h5")
            model.export(folder / f"{name}_saved", verbose=False)
    _as_keras_2_saved_it(folder / "conv.h5", folder / "old.h5")
    doubled = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda t: t * 2), layers.Dense(2)])
    doubled.save(folder / "lambda.keras")
    doubled.save(folder / "lambda.h5")
    doubled.save_weights(folder / "only.weights.h5")
    reaching = Reaching()
    tf.saved_model.save(reaching, str(folder / "reaching_saved"), signatures=reaching.call)
    with (
        zipfile.ZipFile(folder / "custom.keras", "w") as new,
        zipfile.ZipFile(folder / "dense.keras") as old,
    ):
        for item in old.namelist():
            content = old.read(item)
            if item == "config.json":
                content = content.replace(b'"class_name": "Dropout"', b'"class_name": "MyDropout"')
            new.writestr(item, content)


def _as_keras_2_saved_it(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
    with h5py.File(target, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "DepthwiseConv2D":
                layer["config"]["groups"] = 1
        file.attrs["model_config"] = json.dumps(config)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
