"""Static 8-bit quantization of ONNX models: QDQ nodes, per-channel weights."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.onnx_source import quantized_operators
from edgekit_converters.quantize.outcome import check_outcome, refuse_quantized
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit_converters.calibration import CalibrationSet

# onnxruntime's quantizer looks for this mark and warns where it is missing.
_PREPROCESSED: Final = ("onnx.infer", "onnxruntime.quant")


def quantize_onnx(source: Path, output: Path, calibration: CalibrationSet, *, where: str) -> None:
    """Write the int8 form of a float model.

    Activations are uint8, weights int8 with seven bits used: with eight, the products saturate
    on x86 without VNNI and not on ARM, and the same file would answer differently on the two.

    Args:
        source: A normalised ONNX file, opset 13 or newer.
        output: Where to write; its folder exists.
        calibration: Streamed in its own batches.
        where: The path that the user gave, for errors.

    Raises:
        UnsupportedModelError: If the model is quantized already, the quantizer fails, or it
            leaves the model as it was.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    onnx = require("onnx", extra="convert")
    quantization: Any = require("onnxruntime.quantization", extra="convert")
    model = onnx.load_model(str(source))
    refuse_quantized(quantized_operators(model), where=where)
    _mark_preprocessed(model)
    try:
        with _silenced():
            quantization.quantize_static(
                model,
                str(output),
                _Reader(calibration),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                # Every batch runs alone, its minima and maxima computed by the model itself.
                extra_options={"CalibTensorRangeSymmetric": False},
            )
    except Exception as error:
        raise UnsupportedModelError(
            f"onnxruntime's quantizer failed: {' '.join(str(error).split())[:300] or error!r}",
            where=where,
            fix="convert in float32, or report the model",
        ) from error
    quantized = onnx.load_model(str(output))
    check_outcome(
        where=where,
        changed=len(quantized_operators(quantized)),
        weight_bytes=sum(_float_bytes(tensor) for tensor in model.graph.initializer),
        bytes_before=source.stat().st_size,
        bytes_after=output.stat().st_size,
    )


class _Reader:
    """Calibration batches, in the form that onnxruntime's quantizer asks for."""

    def __init__(self, calibration: CalibrationSet) -> None:
        self._batches = calibration.batches()

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        return next(self._batches, None)

    def __len__(self) -> int:
        raise TypeError("a stream has no length")  # pragma: no cover - asked for in strides only


def _mark_preprocessed(model: Any) -> None:
    if not any(entry.key == _PREPROCESSED[0] for entry in model.metadata_props):
        entry = model.metadata_props.add()
        entry.key, entry.value = _PREPROCESSED


def _float_bytes(tensor: Any) -> int:
    from onnx import TensorProto

    if tensor.data_type != TensorProto.FLOAT:
        return 0
    count = 1
    for size in tensor.dims:
        count *= size
    return 4 * count


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep the quantizer's own messages off the terminal; its errors still arrive."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
