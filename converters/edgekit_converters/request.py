"""What a user asks of a conversion, and which files that makes; checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgekit_converters.calibration import require_data
from edgekit_converters.goal import AccuracyGoal, Device
from edgekit_converters.litert.layout import BorderLayout
from edgekit_converters.quantize.plan import Io
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.ranges import DEFAULT_METHOD, RangeMethod
from edgekit_converters.report import Precision
from edgekit_converters.sources.detect import detect_source, name_of
from edgekit_converters.sources.kind import SourceKind
from edgekit_converters.sources.options import SourceOptions, check_options
from edgekit_runtime.errors import UsageError
from edgekit_runtime.formats import ModelFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionRequest:
    """A conversion that a user asks for.

    Attributes:
        source: Anything that `detect_source` knows: a file, a SavedModel's folder, or
            `package.module:factory`.
        output: A file where one artifact is made and the name ends in its suffix; else a folder.
        targets: The formats to make.
        precisions: The arithmetics to make each of them in.
        calibration: Typical samples, of any kind that `CalibrationSet.load` reads; schemes with
            fixed ranges need them.
        evaluation: Samples to judge by, of the same kinds, with labels if there are some.
        preprocessing: A bundle whose steps are run on folders of images or sound, in place of
            those that the folders name.
        max_error: The largest relative error that a float artifact may have.
        options: What helps to read the source.
        layout: What the inputs and outputs with four axes of a LiteRT artifact look like.
        keep_float: What stays float in a quantized artifact: names of nodes, of what they compute,
            or operator types.
        io: What the inputs and outputs of artifacts with fixed ranges become.
        range_method: How the ranges of activations are chosen.
        goal: How much quantized artifacts may lose and take.
        device: Predicts latency on a board.
        diagnose: Whether layers are diagnosed although nothing is over a budget.
    """

    source: Path
    output: Path
    targets: tuple[ModelFormat, ...]
    precisions: tuple[Precision, ...]
    calibration: Path | None = None
    evaluation: Path | None = None
    preprocessing: Path | None = None
    max_error: float = 1e-4
    options: SourceOptions = field(default_factory=SourceOptions)
    layout: BorderLayout = BorderLayout.KEEP
    keep_float: tuple[str, ...] = ()
    io: Io = "float"
    range_method: RangeMethod = DEFAULT_METHOD
    goal: AccuracyGoal = field(default_factory=AccuracyGoal)
    device: Device | None = None
    diagnose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedArtifact:
    """A file to make."""

    format: ModelFormat
    precision: Precision
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """Everything that a request leads to."""

    source_kind: SourceKind
    artifacts: tuple[PlannedArtifact, ...]
    report: Path
    folder: Path


def format_named_by(output: Path) -> ModelFormat | None:
    """The format that an output's name says; None if it names a folder."""
    if output.is_dir():
        return None
    return next((known for known in ModelFormat if output.suffix == known.suffix), None)


def default_output(source: Path) -> Path:
    """The folder for a source's artifacts where the user names none: beside it."""
    name = f"{name_of(source)}-converted"
    return source.absolute().parent / name if source.is_dir() else source.with_name(name)


def parse_schemes(text: str) -> tuple[Precision, ...]:
    """Read "int8,fp16"; "none" is none.

    Raises:
        UsageError: Naming everything that is no scheme.
    """
    words = [word for part in text.split(",") if (word := part.strip().lower())]
    if words == ["none"]:
        return ()
    known = {scheme.value for scheme in Scheme}
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        raise UsageError(
            f"no quantization scheme: {', '.join(unknown) or repr(text)}",
            where="--quantize",
            fix=f"choose from {', '.join(scheme.value for scheme in Scheme)}, or none",
        )
    return tuple(dict.fromkeys(Precision.of(Scheme(word)) for word in words))


def plan_conversion(request: ConversionRequest) -> ConversionPlan:
    """Check a request and name the files that it makes.

    Raises:
        UsageError: If an option is missing or contradicts another, or a path cannot be used.
        UnsupportedModelError: If the source is no model, or of a kind that cannot be converted.
    """
    kind = detect_source(request.source)
    wanted = [
        (target, precision)
        for target in dict.fromkeys(request.targets)
        for precision in dict.fromkeys(request.precisions)
    ]
    if not wanted:
        raise UsageError("nothing to make", fix="name at least one target format and one precision")
    if not 0 <= request.max_error < 1:
        raise UsageError(
            f"the largest error must be between 0 and 1, not {request.max_error}",
            where="max_error",
            fix="it is relative: 1e-4 allows a ten-thousandth of the largest output",
        )
    check_options(kind, request.options, where=str(request.source))
    _check_layout(request, kind)
    _check_quantization(request)
    for target, precision in wanted:
        _check_route(request, kind, target, precision)
    if request.calibration is not None:
        require_data(request.calibration)
    if request.evaluation is not None:
        require_data(request.evaluation)
    folders = [path for path in (request.calibration, request.evaluation) if path]
    if request.preprocessing is not None and not any(path.is_dir() for path in folders):
        raise UsageError(
            "preprocessing is for folders of images or sound",
            where="--preprocessing",
            fix="leave it out: arrays, tables and functions give what the model takes",
        )
    return _name_files(request, kind, wanted)


def _check_route(
    request: ConversionRequest,
    kind: SourceKind,
    target: ModelFormat,
    precision: Precision,
) -> None:
    scheme = precision.scheme
    if scheme is not None and scheme.needs_ranges and request.calibration is None:
        raise UsageError(
            f"{scheme} needs calibration data",
            where="calibration",
            fix="give --calibration samples.npz, with some hundred typical inputs",
        )
    made = precision is Precision.FLOAT32 and target is ModelFormat.LITERT
    if kind is SourceKind.TFLITE and made:
        raise UsageError(
            "the source is a .tflite model already",
            where=str(request.source),
            fix="quantize it with --quantize and --to tflite, or convert it with --to onnx",
        )


def _check_quantization(request: ConversionRequest) -> None:
    """Refuse options that nothing of what is asked for would heed."""
    schemes = [precision.scheme for precision in request.precisions if precision.scheme]
    if request.keep_float and not schemes:
        raise UsageError(
            "nothing is quantized that could be kept float",
            where="--keep-float",
            fix="name a scheme with --quantize; --with-float makes the float artifacts as well",
        )
    goal = request.goal
    if goal.budget is not None and not schemes:
        raise UsageError(
            "nothing is quantized that could lose accuracy",
            where="--max-accuracy-drop",
            fix="name a scheme with --quantize",
        )
    goal.check(
        has_data=request.evaluation is not None or request.calibration is not None,
        has_device=request.device is not None,
    )
    if any(scheme.needs_ranges for scheme in schemes):
        return
    if request.diagnose:
        raise UsageError(
            "only schemes with fixed ranges are diagnosed layer by layer",
            where="--report",
            fix="leave it out, or choose int8, int16x8 or mixed",
        )
    if request.io == "int8":
        raise UsageError(
            "only schemes that compute in integers have integer inputs and outputs",
            where="--io",
            fix="leave it out, or choose int8, int16x8 or mixed",
        )
    if request.range_method is not DEFAULT_METHOD:
        raise UsageError(
            "no scheme that was asked for has ranges to choose",
            where="--range-method",
            fix="leave it out, or choose int8, int16x8 or mixed",
        )


def _check_layout(request: ConversionRequest, kind: SourceKind) -> None:
    if request.layout is BorderLayout.KEEP:
        return
    if ModelFormat.LITERT not in request.targets:
        raise UsageError(
            "a layout can be chosen for LiteRT only",
            where="layout",
            fix="leave it out, or convert to tflite too",
        )
    if kind is SourceKind.TFLITE:
        raise UsageError(
            "a .tflite source keeps its layout",
            where="layout",
            fix="leave it out, or convert the model that it was made from",
        )


def _name_files(
    request: ConversionRequest,
    source_kind: SourceKind,
    wanted: list[tuple[ModelFormat, Precision]],
) -> ConversionPlan:
    output = request.output
    named = format_named_by(output)
    if named and len(wanted) > 1:
        raise UsageError(
            f"{len(wanted)} files are to be made and the output names one",
            where=str(output),
            fix="name a folder",
        )
    if named and named is not wanted[0][0]:
        raise UsageError(
            f"the output's name says {output.suffix}, the target is {wanted[0][0].value}",
            where=str(output),
            fix=f"name it {output.with_suffix(wanted[0][0].suffix).name}",
        )
    stem = name_of(request.source)
    if named:
        folder = output.parent
        report = output.with_name(f"{output.name}.report.json")
        artifacts = [PlannedArtifact(format=wanted[0][0], precision=wanted[0][1], path=output)]
    else:
        if output.exists() and not output.is_dir():
            raise UsageError(
                "this is a file, the output must be a folder or end in .onnx or .tflite",
                where=str(output),
                fix="choose another output",
            )
        folder = output
        report = output / f"{stem}.report.json"
        artifacts = [
            PlannedArtifact(
                format=target, precision=precision, path=_path(output, stem, target, precision)
            )
            for target, precision in wanted
        ]
    for path in (*(artifact.path for artifact in artifacts), report):
        if path.is_dir():
            raise UsageError("this is a folder", where=str(path), fix="choose another output")
        if path.exists() and request.source.exists() and path.samefile(request.source):
            raise UsageError(
                "the output would replace the source", where=str(path), fix="choose another output"
            )
    return ConversionPlan(
        source_kind=source_kind, artifacts=tuple(artifacts), report=report, folder=folder
    )


def _path(folder: Path, stem: str, target: ModelFormat, precision: Precision) -> Path:
    scheme = precision.scheme
    return folder / f"{stem}{f'-{scheme}' if scheme else ''}{target.suffix}"
