"""What a user asks of a conversion, and which files that makes; checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit_converters.report import Precision
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.files import require_file
from edgekit_runtime.formats import ModelFormat, detect_format


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionRequest:
    """A conversion that a user asks for.

    Attributes:
        source: An `.onnx` or `.tflite` file.
        output: A file where one artifact is made and the name ends in its suffix; else a folder.
        targets: The formats to make.
        precisions: The arithmetics to make each of them in.
        calibration: Samples for int8: `.npz` or `.npy`.
        evaluation: Labelled samples: `.npz` with the inputs and `labels`.
        max_error: The largest relative error that a float artifact may have.
    """

    source: Path
    output: Path
    targets: tuple[ModelFormat, ...]
    precisions: tuple[Precision, ...]
    calibration: Path | None = None
    evaluation: Path | None = None
    max_error: float = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedArtifact:
    """A file to make."""

    format: ModelFormat
    precision: Precision
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """Everything that a request leads to."""

    source_format: ModelFormat
    artifacts: tuple[PlannedArtifact, ...]
    report: Path
    folder: Path


def plan_conversion(request: ConversionRequest) -> ConversionPlan:
    """Check a request and name the files that it makes.

    Raises:
        UsageError: If an option is missing or contradicts another, or a path cannot be used.
        UnsupportedModelError: If the source is no model, or of a kind that cannot be converted.
    """
    source_format = detect_format(request.source)
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
    for target, precision in wanted:
        _check_route(request, source_format, target, precision)
    for path, kind in ((request.calibration, "calibration"), (request.evaluation, "evaluation")):
        if path is not None:
            require_file(path, kind=f"the {kind} data, an .npz or .npy file")
    return _name_files(request, source_format, wanted)


def _check_route(
    request: ConversionRequest,
    source_format: ModelFormat,
    target: ModelFormat,
    precision: Precision,
) -> None:
    if precision is Precision.INT8 and request.calibration is None:
        raise UsageError(
            "int8 needs calibration data",
            where="calibration",
            fix="give --calibration samples.npz, with some hundred typical inputs",
        )
    if source_format is ModelFormat.LITERT and target is ModelFormat.ONNX:
        raise UnsupportedModelError(
            "a .tflite model cannot be converted to ONNX",
            where=str(request.source),
            fix="export the model that it was made from to ONNX",
        )
    if source_format is ModelFormat.LITERT and precision is Precision.FLOAT32:
        raise UsageError(
            "the source is a .tflite model already; all that can be made of it is int8",
            where=str(request.source),
            fix="ask for int8, or give the ONNX model",
        )


def _name_files(
    request: ConversionRequest,
    source_format: ModelFormat,
    wanted: list[tuple[ModelFormat, Precision]],
) -> ConversionPlan:
    output = request.output
    named = output.suffix in {".onnx", ".tflite"} and not output.is_dir()
    if named and len(wanted) > 1:
        raise UsageError(
            f"{len(wanted)} files are to be made and the output names one",
            where=str(output),
            fix="name a folder",
        )
    if named and output.suffix != wanted[0][0].suffix:
        raise UsageError(
            f"the output's name says {output.suffix}, the target is {wanted[0][0].value}",
            where=str(output),
            fix=f"name it {output.with_suffix(wanted[0][0].suffix).name}",
        )
    stem = request.source.stem
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
        if path.exists() and path.samefile(request.source):
            raise UsageError(
                "the output would replace the source", where=str(path), fix="choose another output"
            )
    return ConversionPlan(
        source_format=source_format, artifacts=tuple(artifacts), report=report, folder=folder
    )


def _path(folder: Path, stem: str, target: ModelFormat, precision: Precision) -> Path:
    tail = "-int8" if precision is Precision.INT8 else ""
    return folder / f"{stem}{tail}{target.suffix}"
