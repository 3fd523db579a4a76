"""Trained models with data, and their quantized forms held against them sample by sample."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit_converters.litert.compile import CompiledModel, compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.plan import QuantizationPlan
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.source import float_source
from edgekit_converters.quantize.write_litert import write_litert
from edgekit_converters.quantize.write_onnx import write_onnx
from edgekit_converters.ranges import DEFAULT_METHOD, collect_ranges
from edgekit_converters.tflite_source import import_tflite
from edgekit_runtime.session import open_session

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "examples" / "digits" / "assets"
ENCODER = ROOT / "tests" / "converters" / "networks" / "encoder" / "digits_encoder.onnx"
_RUN = 100
_CALIBRATED = 16
# As many as people usually have, and few enough that those it is judged by are mostly others.
_CALIBRATION = 200

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A float model, what it is calibrated with, and what it is judged by.

    Attributes:
        name: For people.
        source: The `onnx.ModelProto` that somebody would give.
        calibration: Inputs, samples first.
        samples: Other inputs, or more of them.
        labels: The class of each of these.
    """

    name: str
    source: Any
    calibration: Array
    samples: Array
    labels: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What became of a model.

    Attributes:
        right: Which of the samples it gets right.
        source_accuracy: The share of the samples that the float model gets right.
        agreement: The share of the samples on which the two answer alike.
        size_bytes: Of its file.
    """

    right: Array
    source_accuracy: float
    agreement: float
    size_bytes: int

    @property
    def accuracy(self) -> float:
        """The share of the samples that it gets right."""
        return float(self.right.mean())

    @property
    def drop(self) -> float:
        """Accuracy lost, in points of a hundred."""
        return 100 * (self.source_accuracy - self.accuracy)


class Prepared:
    """A subject as it is quantized: opened, calibrated, compiled, each once."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.plain = normalise(subject.source, where=subject.name)
        (given,) = self.plain.graph.input
        self.input = given.name
        self.shape = tuple(dim.dim_value for dim in given.type.tensor_type.shape.dim)
        samples = {self.input: self.fitting(subject.calibration)}
        self.model, _ = float_source(self.plain, where=subject.name, samples=samples)
        self.statistics = collect_ranges(self.model, self.batches(subject.calibration, _CALIBRATED))
        self.compiled: CompiledModel = compile_to_litert(self.model, where=subject.name)
        self._expected: Array | None = None

    def write(self, scheme: Scheme, path: Path) -> None:
        """Quantize to a file of either format, with the defaults."""
        steps = scheme.activation_steps
        ranges = {n: seen.range(DEFAULT_METHOD, steps=steps) for n, seen in self.statistics.items()}
        plan = QuantizationPlan(scheme=scheme, ranges=ranges if scheme.needs_ranges else {})
        if path.suffix == ".onnx":
            write_onnx(self.model, plan, path, where=self.subject.name)
        else:
            write_litert(self.compiled, plan, path, where=self.subject.name, normalised=self.model)

    def judge(self, path: Path, folder: Path) -> Judgement:
        """Hold a file against the source, on the same samples."""
        if self._expected is None:
            source = folder / "source.onnx"
            onnx.save_model(self.subject.source, str(source))
            self._expected = self.answers(source)
        found, labels = self.answers(path), self.subject.labels
        return Judgement(
            right=found == labels,
            source_accuracy=float(np.mean(self._expected == labels)),
            agreement=float(np.mean(found == self._expected)),
            size_bytes=path.stat().st_size,
        )

    def answers(self, path: Path) -> Array:
        """The class that a file tells for each sample."""
        session = open_session(path)
        (given,) = session.inputs
        samples = self.subject.samples
        scores = [
            next(iter(session.run({given.name: batch[self.input]}).values()))
            for batch in self.batches(samples, _RUN)
        ]
        session.close()
        flat = np.concatenate([part.reshape(len(part), -1) for part in scores])[: len(samples)]
        return flat[:, 0] > 0.5 if flat.shape[1] == 1 else flat.argmax(axis=1)

    def batches(self, array: Array, size: int) -> Iterator[dict[str, Array]]:
        """Batches that the model takes; a last one that is short repeats its last sample."""
        step = self.shape[0] or size
        array = self.fitting(array)
        for start in range(0, len(array), step):
            at = np.minimum(np.arange(start, start + step), len(array) - 1)
            yield {self.input: array[at]}

    def fitting(self, array: Array) -> Array:
        """Samples in the shape of the model's input."""
        sizes = [size or array.shape[axis] for axis, size in enumerate(self.shape) if axis]
        return np.ascontiguousarray(array.reshape(len(array), *sizes), np.float32)


def spread(array: Array, count: int = _CALIBRATION) -> Array:
    """Samples from all over an array."""
    return array[np.linspace(0, len(array) - 1, count).astype(int)]


def own_subjects() -> Iterator[Subject]:
    """Those that are part of the project."""
    with np.load(DIGITS / "test.npz") as test, np.load(DIGITS / "calibration.npz") as data:
        (name,) = set(data.files) & (set(test.files) - {"labels", "y"})
        calibration, samples = data[name], test[name]
        labels = test["labels" if "labels" in test.files else "y"]
    for path, title in (
        (DIGITS / "digits_v1.onnx", "digits, small CNN"),
        (DIGITS / "digits_v2.onnx", "digits, CNN"),
        (ENCODER, "digits, transformer encoder"),
    ):
        yield Subject(
            name=title, source=onnx.load_model(str(path)), calibration=calibration,
            samples=samples, labels=labels,
        )  # fmt: skip


def shared_subject(name: str, folder: Path) -> Subject:
    """One of `SHARED`.

    Args:
        name: A key of it.
        folder: Of the models and data.
    """
    return SHARED[name](folder)


def _mnist(folder: Path) -> tuple[Array, Array]:
    images, labels = (
        gzip.decompress((folder / "mnist" / f"t10k-{kind}-ubyte.gz").read_bytes())
        for kind in ("images-idx3", "labels-idx1")
    )
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return pixels.astype(np.float32), np.frombuffer(labels, np.uint8, offset=8)


def _keywords(folder: Path) -> tuple[Array, Array]:
    with np.load(folder / "kws-dscnn" / "kws01.npz") as data:
        # Stored in units of the published int8 model's input.
        return (data["x"].astype(np.float32) - 83) * np.float32(0.5847029), data["y"]


def _cnn(folder: Path) -> Subject:
    samples, labels = _mnist(folder)
    return Subject(
        name="MNIST, CNN", source=onnx.load_model(str(folder / "mnist" / "mnist.onnx")),
        calibration=spread(samples), samples=samples, labels=labels,
    )  # fmt: skip


def _lstm(folder: Path) -> Subject:
    samples, labels = _mnist(folder)
    samples = samples / np.float32(255)
    return Subject(
        name="MNIST, LSTM", source=import_tflite(folder / "mnist" / "trained_lstm.tflite"),
        calibration=spread(samples), samples=samples, labels=labels,
    )  # fmt: skip


def _keyword_float(folder: Path) -> Subject:
    samples, labels = _keywords(folder)
    path = folder / "kws-dscnn" / "kws_ref_model_float32.tflite"
    # Its weights are stored in 8 bits.
    opened, _ = float_source(normalise(import_tflite(path), where=path.name), where=path.name)
    return Subject(
        name="keywords, DS-CNN (MLPerf Tiny)", source=opened,
        calibration=spread(samples), samples=samples, labels=labels,
    )  # fmt: skip


def _keyword_onnx(folder: Path) -> Subject:
    samples, labels = _keywords(folder)
    path = folder / "kws-dscnn" / "model_kws.onnx"
    return Subject(
        name="keywords, DS-CNN (Alibaba)", source=onnx.load_model(str(path)),
        calibration=spread(samples), samples=samples, labels=labels,
    )  # fmt: skip


def _table(folder: Path) -> Subject:
    folder /= "tabular-breast-cancer"
    with np.load(folder / "breast_cancer.npz") as data:
        train, test = data["x_train"].astype(np.float32), data["x_test"].astype(np.float32)
        labels = np.concatenate([data["y_test"], data["y_train"]])
    return Subject(
        name="breast cancer, MLP", source=onnx.load_model(str(folder / "bc_mlp.onnx")),
        calibration=train[:_CALIBRATION], samples=np.concatenate([test, train]), labels=labels,
    )  # fmt: skip


SHARED: dict[str, Callable[[Path], Subject]] = {
    "mnist": _cnn,
    "lstm": _lstm,
    "keywords": _keyword_float,
    "keywords-onnx": _keyword_onnx,
    "table": _table,
}
