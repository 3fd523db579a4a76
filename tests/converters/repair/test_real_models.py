"""On real models a search makes nothing worse, in the files of both formats."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgekit_converters.accuracy import compare_answers, metric_named
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.source import float_source
from edgekit_converters.ranges import DEFAULT_METHOD
from edgekit_converters.repair.search import Judges, SearchLimits, search
from edgekit_converters.repair.simulation import answers
from edgekit_converters.repair.written import confirmed_drop
from edgekit_converters.tflite_source import import_tflite
from edgekit_runtime.formats import ModelFormat

TOP1 = metric_named("top1")
FORMATS = tuple(ModelFormat)


def digits(folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first thousand, of 0 to 255."""
    parts = []
    for name, head in (("images-idx3", 16), ("labels-idx1", 8)):
        content = gzip.decompress((folder / f"t10k-{name}-ubyte.gz").read_bytes())
        parts.append(np.frombuffer(content, np.uint8, offset=head))
    images = parts[0].reshape(-1, 1, 28, 28).astype(np.float32)
    return images[:1000], parts[1][:1000].astype(np.int64)


def keywords(folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """The official samples, from the integers of the published model."""
    found = np.load(folder / "kws01.npz")
    values = (found["x"].astype(np.float32) - 83) * np.float32(0.5847029089927673)
    return values[..., None], found["y"]


def batches(name: str, samples: NDArray[Any]) -> list[dict[str, NDArray[Any]]]:
    return [{name: sample[None]} for sample in samples]


def check(
    model: Any, samples: NDArray[Any], labels: NDArray[Any], calibrating: int, allowed: float
) -> None:
    """Search with a budget that nothing holds, so that every repair is tried."""
    inputs = {model.graph.input[0].name: samples[:calibrating]}
    prepared, _ = float_source(normalise(model, where="real"), where="real", samples=inputs)
    name = prepared.graph.input[0].name
    evaluation = batches(name, samples[calibrating:])
    before = answers(prepared, evaluation)

    def drop(after: Any) -> float:
        return compare_answers(TOP1, before, after, labels[calibrating:]).drop

    ticks = itertools.count()
    found = search(
        prepared,
        batches(name, samples[:calibrating]),
        Judges(
            drop_of=lambda quantized: drop(answers(quantized, evaluation)),
            clock=lambda: float(next(ticks)),
        ),
        SearchLimits(drop=-1.0),
        method=DEFAULT_METHOD,
    )
    assert found.ending == "exhausted"
    plain = found.attempts[0]
    assert plain.drop <= allowed
    assert found.best.drop <= plain.drop
    # No repair breaks what was good.
    repaired = [one for one in found.attempts if one.layers_beyond_int8 == 0]
    assert max(one.drop for one in repaired) <= allowed + 0.02
    for one in (plain, found.best):
        assert confirmed_drop(FORMATS, evaluation, drop)(one.candidate) <= allowed


def test_handwritten_digits(shared_data: Path) -> None:
    images, labels = digits(shared_data / "mnist")
    check(onnx.load(shared_data / "mnist" / "mnist.onnx"), images[:600], labels[:600], 100, 0.002)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kws_ref_model_float32.tflite", "model_kws.onnx"])
def test_keyword_spotting(shared_data: Path, name: str) -> None:
    folder = shared_data / "kws-dscnn"
    samples, labels = keywords(folder)
    path = folder / name
    model = onnx.load(path) if path.suffix == ".onnx" else import_tflite(path)
    # Of 800 samples: a dozen that stand on the edge may fall on either side.
    check(model, samples, labels, 200, 0.015)


def test_tables(shared_data: Path) -> None:
    folder = shared_data / "tabular-breast-cancer"
    found = np.load(folder / "breast_cancer.npz")
    model = onnx.load(folder / "bc_mlp.onnx")
    rows = np.concatenate([found["x_train"][:100], found["x_test"]]).astype(np.float32)
    labels = np.concatenate([found["y_train"][:100], found["y_test"]])
    check(model, rows, labels, 100, 0.012)
