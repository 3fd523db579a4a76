"""Diagnose two files: a float model and what was made of it, by whatever tool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.calibration.preprocessing import bundle_steps
from edgekit_converters.diagnosis.alignment import aligned, unlike
from edgekit_converters.diagnosis.diagnose import QuantizationDiagnosis, diagnose
from edgekit_converters.diagnosis.litert_file import litert_subject
from edgekit_converters.diagnosis.onnx_file import onnx_subject
from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_converters.onnx_source import read_onnx
from edgekit_converters.quantize.source import float_source
from edgekit_converters.samples import batch_size
from edgekit_converters.sources.detect import detect_source
from edgekit_converters.sources.kind import SourceKind
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.read import import_source
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.formats import ModelFormat, detect_format
from edgekit_runtime.graph.quantization import describe_quantization
from edgekit_runtime.graph.read import read_graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edgekit_converters.diagnosis.subject import Subject
    from edgekit_converters.repair.simulation import Batch
    from edgekit_runtime.tensors import TensorSpec

#: How many samples tell enough about the noise of layers.
SAMPLES: Final = 64
_BATCH_SAMPLES: Final = 16


def diagnose_files(
    model: Path,
    quantized: Path,
    calibration: Path,
    *,
    preprocessing: Path | None = None,
    samples: int = SAMPLES,
    progress: Callable[[str], None],
) -> QuantizationDiagnosis:
    """Compare a float model with its quantized form, layer by layer.

    Args:
        model: The float model, ONNX or TFLite.
        quantized: Its quantized form, ONNX or TFLite, whatever wrote it.
        calibration: Typical inputs, of any kind that `CalibrationSet.load` reads.
        preprocessing: A bundle whose steps are run on a folder of images or sound.
        samples: How many of them are used at most, spread evenly over the data.
        progress: Told one plain sentence a step.

    Raises:
        UsageError: If the files have nothing in common, the second is not quantized, or the data
            does not fit.
        UnsupportedModelError: If a file is damaged, the first is quantized itself, or an engine
            refuses one.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    progress(f"reading {model}")
    plain, specs = _read_float(model, progress)
    scheme = _check_quantized(quantized, specs, model)
    steps = bundle_steps(preprocessing) if preprocessing else None
    data = CalibrationSet.load(calibration, specs, steps=steps)
    batches = _batches(data, specs, samples)
    progress(f"reading {quantized}")
    first = {name: array[:1] for name, array in batches[0].items()}
    one = first if batch_size(specs, preferred=1) == 1 else batches[0]
    # Whether columns of inputs were scaled first shows in the weights.
    scaled, remarks = float_source(plain, where=str(model), samples=data.samples.arrays)
    forms = [plain, scaled] if remarks else [plain]
    floats, subject = min(
        ((form, _subject(form, model, quantized, one, scheme)) for form in forms),
        key=lambda pair: len(unlike(aligned(pair[0], pair[1].model), pair[1].model)),
    )
    found = sum(len(batch[specs[0].name]) for batch in batches)
    progress(f"comparing the two, layer by layer, on {found} sample(s)")
    diagnosis = diagnose(floats, subject, batches)
    if not diagnosis.layers:
        raise UsageError(
            f"{quantized.name} has no node or value of {model.name}",
            where=str(quantized),
            fix="give the float model that it was made from, with the names that it had then",
        )
    return diagnosis


def _read_float(path: Path, progress: Callable[[str], None]) -> tuple[Any, Sequence[TensorSpec]]:
    kind = detect_source(path)
    if kind not in {SourceKind.ONNX, SourceKind.TFLITE}:
        raise UsageError(
            f"{path.name} is neither ONNX nor TFLite",
            where=str(path),
            fix=f"convert it first: edgekit convert {path} --to onnx, and give what that makes",
        )
    imported = import_source(path, kind, SourceOptions(), progress)
    specs = imported.reference.inputs
    imported.reference.close()
    floats, _ = float_source(normalise(imported.model, where=str(path)), where=str(path))
    return floats, specs


def _check_quantized(path: Path, specs: Sequence[TensorSpec], model: Path) -> str:
    """What a file is quantized to, in a word."""
    graph = read_graph(path)
    theirs = [tensor.shape for tensor in graph.inputs]
    ours = [spec.shape for spec in specs]
    if len(theirs) != len(ours) or not all(map(_fits, theirs, ours)):
        raise UsageError(
            f"{path.name} takes {list(map(_text, theirs))}, and {model.name} takes "
            f"{list(map(_text, ours))}",
            where=str(path),
            fix="give the float model that it was made from",
        )
    summary = describe_quantization(graph)
    if summary.kind == "float32":
        raise UsageError(
            "the second model is not quantized",
            where=str(path),
            fix="give the float model first, then its quantized form",
        )
    return summary.kind


def _fits(theirs: Sequence[int | None] | None, ours: Sequence[int | None]) -> bool:
    """Whether two shapes may be the same but for the samples and the order of the axes."""
    if theirs is None or len(theirs) != len(ours):
        return theirs is None
    one, other = theirs[1:], ours[1:]
    if None in one or None in other:
        return True
    return sorted(size or 0 for size in one) == sorted(size or 0 for size in other)


def _text(shape: Sequence[int | None] | None) -> str:
    return "x".join(str(size or "?") for size in shape or ())


def _batches(data: CalibrationSet, specs: Sequence[TensorSpec], most: int) -> list[Batch]:
    """Some samples, spread evenly."""
    fixed = batch_size(specs, preferred=0)
    chosen = np.unique(np.linspace(0, data.samples.count - 1, most).round().astype(int))
    if fixed:
        # Full batches alone: what fills up a short one would count twice.
        chosen = chosen[: max(len(chosen) // fixed, 1) * fixed]
        chosen = np.resize(chosen, max(len(chosen), fixed))
    size = fixed or _BATCH_SAMPLES
    arrays: Mapping[str, NDArray[Any]] = data.samples.arrays
    return [
        {name: array[chosen[at : at + size]] for name, array in arrays.items()}
        for at in range(0, len(chosen), size)
    ]


def _subject(floats: Any, model: Path, quantized: Path, sample: Batch, scheme: str) -> Subject:
    if detect_format(quantized) is ModelFormat.ONNX:
        return onnx_subject(floats, read_onnx(quantized), scheme=scheme)
    near = [model.read_bytes()] if detect_format(model) is ModelFormat.LITERT else []
    try:
        near.append(compile_to_litert(floats, where=str(model)).content)
    except UnsupportedModelError:
        if not near:
            raise
    return litert_subject(floats, near, quantized.read_bytes(), sample, scheme=scheme)
