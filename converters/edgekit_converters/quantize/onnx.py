"""Plain static int8 of an ONNX file: every node that can be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit_converters.quantize.plan import QuantizationPlan
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.source import float_source
from edgekit_converters.quantize.write_onnx import write_onnx
from edgekit_converters.ranges import DEFAULT_METHOD, collect_ranges
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from edgekit_converters.calibration import CalibrationSet


def quantize_onnx(
    source: Path, output: Path, calibration: CalibrationSet, *, where: str
) -> tuple[str, ...]:
    """Write the int8 form of a float model.

    Args:
        source: A normalised ONNX file, opset 13 or newer.
        output: Where to write; its folder exists.
        calibration: Streamed in its own batches.
        where: The path that the user gave, for errors.

    Returns:
        Sentences that the user should read.

    Raises:
        UnsupportedModelError: If the model computes in integers already, the engine fails, or
            nothing would change.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    onnx = require("onnx", extra="convert")
    model, remarks = float_source(onnx.load_model(str(source)), where=where)
    watched = collect_ranges(model, calibration.batches())
    ranges = {name: seen.range(DEFAULT_METHOD) for name, seen in watched.items()}
    plan = QuantizationPlan(scheme=Scheme.INT8, ranges=ranges)
    return (*remarks, *write_onnx(model, plan, output, where=where))
