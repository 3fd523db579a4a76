"""Data to judge models by, and the answers that they give."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.accuracy import Metric, metric_named
from edgekit_converters.accuracy.labels import as_classes
from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.calibration.generated import look_here
from edgekit_converters.samples import Samples, batch_size
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.accuracy.metric import Answers
    from edgekit_converters.input_ranges import InputRange
    from edgekit_runtime.bundle.manifest import Step
    from edgekit_runtime.session import Session
    from edgekit_runtime.tensors import TensorSpec

_BATCH_SAMPLES: Final = 64
# What flows through a model is many times as large.
_BATCH_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """Checked samples to judge by, read in a stream.

    Attributes:
        data: The samples, and their labels where there are any.
        origin: What they are to the report: "evaluation data", "held-out calibration samples" or
            "calibration samples".
    """

    data: CalibrationSet
    origin: str

    @classmethod
    def load(
        cls,
        path: Path,
        specs: Sequence[TensorSpec],
        *,
        steps: Sequence[Step] | None = None,
        ranges: Mapping[str, InputRange] | None = None,
    ) -> EvaluationSet:
        """Read data of any kind that `CalibrationSet.load` reads, with the same arguments.

        Raises:
            UsageError: As `CalibrationSet.load`.
            EnvironmentLackError: The same.
        """
        data = CalibrationSet.load(path, specs, steps=steps, ranges=ranges, kind="evaluation")
        return cls.of(data, specs, origin="evaluation data")

    @classmethod
    def of(cls, data: CalibrationSet, specs: Sequence[TensorSpec], *, origin: str) -> EvaluationSet:
        """Judge by samples that have been read, in larger batches than are calibrated with."""
        fitting = data.samples.fitting(_BATCH_BYTES, _BATCH_SAMPLES)
        size = batch_size(specs, preferred=fitting)
        return cls(data=dataclasses.replace(data, batch_size=size), origin=origin)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for the report: how it is kept, and how its classes were numbered."""
        return (*self.data.source.doubts, *([self.data.numbering] if self.data.numbering else []))

    @property
    def samples(self) -> Samples:
        """An excerpt; all of them where they are few."""
        return self.data.samples

    @property
    def labels(self) -> NDArray[Any] | None:
        """Of all samples."""
        return self.data.labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A measured accuracy.

    Attributes:
        metric: Its name: "top1".
        value: The figure; of shares 0 to 1.
        samples: How many answers there are.
        dataset_sha256: Of the file with the samples.
    """

    metric: str
    value: float
    samples: int
    dataset_sha256: str

    def to_json(self) -> dict[str, object]:
        """The figures."""
        return dataclasses.asdict(self)


def choose_metric(name: str | None, dataset: EvaluationSet) -> Metric:
    """The metric of a name, or the one that the labels ask for: top1, or agreement without any.

    Raises:
        UsageError: If there is no such metric, it needs labels and there are none, or none was
            named and the labels are no class numbers.
    """
    labels = dataset.labels
    where = str(dataset.samples.path)
    if name is None:
        if labels is None:
            return metric_named("agreement")
        if labels.ndim != 1 or labels.dtype.kind not in "iub":
            raise UsageError(
                f"the labels are {labels.dtype.name}{list(labels.shape)}, no class numbers",
                where=where,
                fix="save one integer a sample, counted from zero, or choose a --metric for such "
                "labels: mae, mse, module:function",
            )
        return metric_named("top1")
    if ":" in name:
        look_here()
    metric = metric_named(name)
    if metric.labels == "needed" and labels is None:
        raise UsageError(
            f"{name} needs labels, and the {dataset.origin} has no labels",
            where=where,
            fix="save them as an array called 'labels', or choose --metric agreement",
        )
    return metric


def answers_of(session: Session, dataset: EvaluationSet, metric: Metric) -> Answers:
    """What a model answers to every sample, as far as a metric looks at it.

    Raises:
        UsageError: If an output has no entry for each sample.
        UnsupportedModelError: If the engine fails.
    """
    names = [spec.name for spec in session.outputs]
    # Those of users may look at all outputs, ours look at the first.
    wanted = names if ":" in metric.name else names[:1]
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
    for batch in dataset.data.batches():
        values = session.run(batch)
        for name in wanted:
            parts[name].append(_by_sample(values[name], batch, name))
    return {name: np.concatenate(part)[: dataset.data.count] for name, part in parts.items()}


def _by_sample(value: NDArray[Any], batch: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    count = max((len(array) for array in batch.values() if array.ndim), default=1)
    if value.ndim and len(value) == count:
        return value
    if count == 1:
        return value[None]
    raise UsageError(
        f"the output {name!r} is {list(value.shape)} for {count} samples: it has no entry for each",
        where="metric",
        fix="accuracy needs outputs whose first axis is the samples'",
    )


def evaluate_top1(session: Session, dataset: EvaluationSet) -> Accuracy:
    """Classify every sample, and count the right answers.

    Raises:
        UsageError: If there are no labels, they are no class numbers, or one names a class that
            the model does not have.
        UnsupportedModelError: If the engine fails.
    """
    metric = choose_metric("top1", dataset)
    labels = dataset.labels
    assert labels is not None  # noqa: S101 - the metric was refused without them
    return Accuracy(
        metric=metric.name,
        value=metric.value(answers_of(session, dataset, metric), labels),
        samples=dataset.data.count,
        dataset_sha256=dataset.samples.sha256,
    )


def predict_classes(session: Session, samples: Samples) -> NDArray[np.int64]:
    """The class that the model's first output names for each sample; see `as_classes`."""
    size = batch_size(session.inputs, preferred=_BATCH_SAMPLES)
    name = session.outputs[0].name
    answers = [
        as_classes(session.run(batch)[name])[:valid] for batch, valid in samples.batches(size)
    ]
    return np.concatenate(answers)
