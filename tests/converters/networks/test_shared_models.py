"""Models that others trained, on all of their test samples: LiteRT answers as the source does."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit_runtime.session import Session, open_session
from tests.converters.networks.agreement import convert

Samples = tuple[NDArray[Any], NDArray[Any]]


def mnist(folder: Path) -> Samples:
    images, labels = (
        gzip.decompress((folder / f"t10k-{kind}-ubyte.gz").read_bytes())
        for kind in ("images-idx3", "labels-idx1")
    )
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return pixels.astype(np.float32), np.frombuffer(labels, np.uint8, offset=8)


def keywords(folder: Path) -> Samples:
    with np.load(folder / "kws01.npz") as data:
        # Stored in units of the published int8 model's input.
        features = (data["x"].astype(np.float32) - 83) * np.float32(0.5847029)
        return features[..., None], data["y"]


def breast_cancer(folder: Path) -> Samples:
    with np.load(folder / "breast_cancer.npz") as data:
        x = np.concatenate([data["x_test"], data["x_train"]]).astype(np.float32)
        return x, np.concatenate([data["y_test"], data["y_train"]])


MODELS: dict[str, tuple[Callable[[Path], Samples], float]] = {
    "mnist/mnist": (mnist, 0.985),
    "kws-dscnn/model_kws": (keywords, 0.90),
    "tabular-breast-cancer/bc_mlp": (breast_cancer, 0.95),
}


def answers(session: Session, samples: NDArray[Any]) -> NDArray[Any]:
    """The class of each sample, in batches as the model has them."""
    (given,) = session.inputs
    step = given.shape[0] or 64
    scores = np.concatenate(
        [
            next(iter(session.run({given.name: samples[at : at + step]}).values()))
            for at in range(0, len(samples), step)
        ]
    )
    return scores[:, 0] > 0.5 if scores.shape[1] == 1 else scores.argmax(axis=1)


@pytest.mark.parametrize("name", MODELS)
def test_accuracy_and_answers_stay(name: str, shared_data: Path, tmp_path: Path) -> None:
    read, least = MODELS[name]
    source = tmp_path / Path(name).with_suffix(".onnx").name
    source.write_bytes((shared_data / f"{name}.onnx").read_bytes())
    target, _ = convert(source)
    samples, labels = read((shared_data / name).parent)
    before, after = (answers(open_session(path), samples) for path in (source, target))
    accuracy = [float(np.mean(found == labels)) for found in (before, after)]
    assert accuracy[0] >= least
    assert accuracy[1] == accuracy[0]
    assert np.mean(before == after) >= 0.999
