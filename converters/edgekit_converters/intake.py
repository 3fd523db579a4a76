"""Everything that a conversion needs of its source, checked before anything is made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekit_converters.input_ranges import InputRange, input_ranges
from edgekit_converters.normalise import normalise
from edgekit_converters.onnx_source import doubtful_weights, quantized_operators
from edgekit_converters.parked import ParkedModel
from edgekit_converters.quantize.litert import quantized_tensors
from edgekit_converters.quantize.outcome import refuse_quantized
from edgekit_converters.quantize.source import float_source
from edgekit_converters.report import Precision
from edgekit_converters.request import ConversionPlan, ConversionRequest
from edgekit_converters.sources.decision import DecidedSession, Decision
from edgekit_converters.sources.identity import identify
from edgekit_converters.sources.idle import IdleSession
from edgekit_converters.sources.imported import ImportedModel
from edgekit_converters.sources.kind import SourceKind
from edgekit_converters.sources.quiet import one_line
from edgekit_converters.sources.read import import_source
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.session import Session

_ARRAY_TYPES: Final = frozenset(np.dtype(code).name for code in "?bBhHiIlLqQefd")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxForms:
    """A source in ONNX, in memory only while it is worked on.

    Attributes:
        original: As it was, or as it was exported.
        normalised: The same in the plain form of `normalise`.
    """

    original: ParkedModel
    normalised: ParkedModel


class Integers(Enum):
    """What of a source is integers already."""

    NONE = auto()
    WEIGHTS = auto()
    """Stored so, and made floats to compute with."""
    ALL = auto()
    """It computes in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """A source that has been read, understood and found fit for what is asked.

    Attributes:
        session: Runs the source itself; what is made is compared with it.
        forms: In ONNX; None for a `.tflite` that is only quantized.
        ranges: Which whole numbers its inputs may hold, as far as the ONNX forms tell.
        sha256: Of the source; see `identify` for those that are not one file.
        source_bytes: The same.
        exporter: What wrote the ONNX form; "" where the source is ONNX.
        decision: How its label follows from its scores, for classifiers that give both.
        integers: What of it is integers already.
        size_bytes: Of its float form, to judge by whether a quantization saves anything.
        warnings: Sentences for the report.
    """

    session: Session
    forms: OnnxForms | None
    ranges: Mapping[str, InputRange]
    sha256: str
    source_bytes: int
    exporter: str
    decision: Decision | None
    integers: Integers
    size_bytes: int
    warnings: tuple[str, ...]

    def present(self, session: Session) -> Session:
        """A converted model with its labels in the form in which the source's are compared."""
        return DecidedSession(session, self.decision) if self.decision else session

    def wake(self) -> None:
        """Load the source's engine before another's: loading takes twice the model for a moment."""
        if isinstance(self.session, IdleSession):
            self.session.wake()

    def rest(self) -> None:
        """Let the source's engine go of a large model until it is asked again."""
        if isinstance(self.session, IdleSession):
            self.session.rest()


def take_in(
    request: ConversionRequest, plan: ConversionPlan, folder: Path, progress: Callable[[str], None]
) -> Intake:
    """Read a source, check it, and bring its ONNX form into the plain one.

    Args:
        request: What to read.
        plan: What is to be made of it.
        folder: For what is not needed in memory.
        progress: Told one plain sentence a step.

    Raises:
        UsageError: If the options do not fit the source.
        UnsupportedModelError: If the source is damaged, quantized where it must not be, has no
            ONNX form, or gives something else than arrays of numbers.
        EnvironmentLackError: If a package is missing.
    """
    where = str(request.source)
    progress(f"reading {request.source}")
    imported, integers = _import(request, plan, progress)
    sha256, source_bytes = identify(request.source, imported.model)
    size_bytes = source_bytes
    if plan.source_kind not in {SourceKind.ONNX, SourceKind.TFLITE} and imported.model is not None:
        size_bytes = imported.model.ByteSize()
    warnings = list(imported.warnings)
    decision, session, exporter = imported.decision, imported.reference, imported.exporter
    forms, ranges = None, {}
    if imported.model is not None:
        if exporter:
            _check_export(imported.model, exporter, where)
        warnings += doubtful_weights(imported.model)
        # The source runs what normalising drops as well, and knows less about its values.
        ranges = input_ranges(imported.model)
        original = ParkedModel(imported.model, folder / "original")
        # It is in the file, and large.
        del imported
        normalised = normalise(original.load(), where=where)
        ranges |= input_ranges(normalised)
        forms = OnnxForms(
            original=original,
            normalised=ParkedModel(normalised, folder / "normalised"),
        )
        del normalised
    litert = any(artifact.format is ModelFormat.LITERT for artifact in plan.artifacts)
    if litert and decision is not None and decision.text:
        raise UnsupportedModelError(
            "the classes have names, and LiteRT has numbers alone: "
            + ", ".join(str(name) for name in decision.classes[:5]),
            where=where,
            fix="convert with --to onnx, or fit the classifier on class numbers "
            "(sklearn.preprocessing.LabelEncoder) and keep the names beside the model",
        )
    if decision is not None:
        session = DecidedSession(session, decision)
    _refuse_other_than_arrays(session, where)
    return Intake(
        session=session,
        forms=forms,
        ranges=ranges,
        sha256=sha256,
        source_bytes=source_bytes,
        exporter=exporter,
        decision=decision,
        integers=integers,
        size_bytes=size_bytes,
        warnings=tuple(warnings),
    )


def _import(
    request: ConversionRequest, plan: ConversionPlan, progress: Callable[[str], None]
) -> tuple[ImportedModel, Integers]:
    """Read a source, and refuse one that computes in integers unless it only becomes ONNX."""
    where = str(request.source)
    if plan.source_kind is not SourceKind.TFLITE:
        imported = import_source(request.source, plan.source_kind, request.options, progress)
        return imported, _integers(imported.model, where)
    evidence = quantized_tensors(request.source)
    reduced = any(artifact.precision is not Precision.FLOAT32 for artifact in plan.artifacts)
    to_onnx = any(artifact.format is ModelFormat.ONNX for artifact in plan.artifacts)
    try:
        imported = import_source(request.source, plan.source_kind, request.options, progress)
    except UnsupportedModelError as error:
        if reduced:
            refuse_quantized(evidence, where=where)
        if to_onnx:
            raise
        return _as_it_is(request.source, error), Integers.NONE
    try:
        return imported, _integers(imported.model, where)
    except UnsupportedModelError:
        if reduced:
            raise
        return imported, Integers.ALL


def _integers(model: Any, where: str) -> Integers:
    """Whether weights are integers; raises where more is."""
    if not quantized_operators(model):
        return Integers.NONE
    float_source(model, where=where)
    return Integers.WEIGHTS


def _as_it_is(source: Path, reason: UnsupportedModelError) -> ImportedModel:
    """A `.tflite` file that ONNX cannot say, to be quantized by its own operators."""
    from edgekit_converters.sources.tflite_file import open_tflite_file

    opened = open_tflite_file(source)
    return dataclasses.replace(
        opened,
        warnings=(
            *opened.warnings,
            f"the file is quantized as it is, because ONNX cannot express it ({reason.what})",
        ),
    )


def _check_export(model: Any, exporter: str, where: str) -> None:
    """Hold what an exporter wrote to ONNX's own rules."""
    import onnx

    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise UnsupportedModelError(
            f"{exporter} wrote ONNX that breaks the specification: {one_line(error)}",
            where=where,
            fix="export the model to ONNX yourself, with other options, and give that file",
        ) from error


def _refuse_other_than_arrays(session: Session, where: str) -> None:
    strange = [
        f"{spec.name!r} is {spec.dtype}"
        for spec in (*session.inputs, *session.outputs)
        if spec.dtype not in _ARRAY_TYPES
    ]
    if strange:
        raise UnsupportedModelError(
            f"the model has inputs or outputs that are no arrays of numbers: {', '.join(strange)}",
            where=where,
            fix="export it with plain tensors; for scikit-learn, with the option zipmap=False",
        )
