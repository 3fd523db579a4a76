"""How often a model is right, and how often two models agree, on labelled samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.accuracy.labels import as_classes
from edgekit_converters.samples import Samples, batch_size, read_samples
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.session import Session
    from edgekit_runtime.tensors import TensorSpec

_BATCH_SAMPLES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """Checked samples with one class number each."""

    samples: Samples
    labels: NDArray[np.int64]

    @classmethod
    def load(cls, path: Path, specs: Sequence[TensorSpec]) -> EvaluationSet:
        """Read an `.npz` with the model's inputs and `labels` (or `y`); see `read_samples`.

        Raises:
            UsageError: As `read_samples`, and if there are no labels or they are no class numbers.
        """
        samples = read_samples(path, specs, kind="evaluation")
        labels = samples.labels
        if labels is None:
            raise UsageError(
                "the evaluation data has no labels",
                where=str(path),
                fix="save the class numbers of the samples as an array called 'labels'",
            )
        if labels.shape != (samples.count,) or labels.dtype.kind not in "iub":
            raise UsageError(
                f"the labels must be {samples.count} class numbers, not "
                f"{labels.dtype.name}{list(labels.shape)}",
                where=str(path),
                fix="save one integer a sample, counted from zero",
            )
        return cls(samples=samples, labels=labels.astype(np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A measured accuracy, with the answers that it comes from.

    Attributes:
        metric: "top1".
        value: Share of right answers, 0 to 1.
        samples: How many answers there are.
        dataset_sha256: Of the file with the samples.
        predictions: The class number answered for each sample.
    """

    metric: str
    value: float
    samples: int
    dataset_sha256: str
    predictions: NDArray[np.int64]

    def to_json(self) -> dict[str, object]:
        """The figures, without the answers."""
        return {
            "metric": self.metric,
            "value": self.value,
            "samples": self.samples,
            "dataset_sha256": self.dataset_sha256,
        }


def evaluate_top1(session: Session, dataset: EvaluationSet) -> Accuracy:
    """Classify every sample, and count the right answers.

    Raises:
        UsageError: If a label names a class that the model does not have.
        UnsupportedModelError: If the engine fails.
    """
    predictions = predict_classes(session, dataset.samples)
    classes = _class_count(session)
    if classes is not None and not 0 <= dataset.labels.min() <= dataset.labels.max() < classes:
        raise UsageError(
            f"the labels go from {dataset.labels.min()} to {dataset.labels.max()}, the model has "
            f"{classes} classes",
            where=str(dataset.samples.path),
            fix="number the classes from zero, as the model was trained",
        )
    return Accuracy(
        metric="top1",
        value=float(np.mean(predictions == dataset.labels)),
        samples=dataset.samples.count,
        dataset_sha256=dataset.samples.sha256,
        predictions=predictions,
    )


def predict_classes(session: Session, samples: Samples) -> NDArray[np.int64]:
    """The class that the model's first output names for each sample.

    Scores are judged by their largest; a single score is a probability, and above one half it
    names class one; integers are class numbers already.
    """
    size = batch_size(session.inputs, preferred=_BATCH_SAMPLES)
    name = session.outputs[0].name
    answers = [
        as_classes(session.run(batch)[name])[:valid] for batch, valid in samples.batches(size)
    ]
    return np.concatenate(answers)


def agreement(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Share of samples for which two models give the same answer."""
    return float(np.mean(first == second))


def _class_count(session: Session) -> int | None:
    spec = session.outputs[0]
    if spec.dtype.startswith(("int", "uint")) and spec.quantization is None:
        return None
    inner = [size for size in spec.shape[1:] if size != 1]
    if not inner:
        return 2
    return inner[0] if len(inner) == 1 else None
