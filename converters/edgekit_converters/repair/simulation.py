"""What a quantized model will answer on the device, computed on any host.

The quantized graph runs without any optimisation of the engine: integers are rounded where the
device rounds them, and products are added in float, exactly enough. So x86 without VNNI, where the
engine's own integer kernels saturate, predicts ARM, where they do not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.patterns.opset import raise_opset
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.to_onnx.static import quantize_static
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.quantize.plan import QuantizationPlan

Batch = Mapping[str, "NDArray[Any]"]

_FATAL_ONLY: Final = 4
_SHORT_INTEGERS_OPSET: Final = 21
_SHORT_INTEGERS_IR: Final = 10


def simulate(model: Any, plan: QuantizationPlan) -> Any:
    """The quantized form of a model as a graph that any engine runs, nothing written.

    Args:
        model: A normalised `onnx.ModelProto`; it is not changed.
        plan: Of a static scheme.

    Raises:
        UsageError: If the scheme is not static.
        UnsupportedModelError: If the model cannot be raised to the opset that 16 bits need.
    """
    if not plan.scheme.needs_ranges:
        raise UsageError(
            f"{plan.scheme} has no fixed ranges to simulate", fix="choose int8, int16x8 or mixed"
        )
    quantized = type(model)()
    quantized.CopyFrom(model)
    if plan.wide or plan.scheme is Scheme.INT16X8:
        raised = raise_opset(quantized, _SHORT_INTEGERS_OPSET)
        if raised is None:
            raise UnsupportedModelError(
                f"activations of 16 bits need opset {_SHORT_INTEGERS_OPSET}, to which this model "
                "cannot be raised",
                fix="keep nodes in float instead, or export the model with a newer opset",
            )
        quantized = raised
        quantized.ir_version = max(quantized.ir_version, _SHORT_INTEGERS_IR)
    quantize_static(quantized, plan)
    quantized.graph.ClearField("value_info")
    return quantized


class Run:
    """A model loaded as it stands, and values inside of it that are wanted too."""

    def __init__(self, model: Any, watched: Collection[str] = (), *, threads: int = 0) -> None:
        """Load a model.

        Args:
            model: An `onnx.ModelProto`; it is not changed.
            watched: Names of values that are given beside the outputs.
            threads: For the engine; 0: as many as there are cores.

        Raises:
            UnsupportedModelError: If the engine refuses the model.
            EnvironmentLackError: If onnxruntime is not installed.
        """
        ort: Any = require("onnxruntime", extra="convert")
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = threads
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.outputs = tuple(value.name for value in model.graph.output)
        more = [name for name in watched if name not in self.outputs]
        self._names = [*self.outputs, *more]
        shown = type(model)()
        shown.CopyFrom(model)
        for name in more:
            shown.graph.output.add().name = name
        try:
            self._session: Any = ort.InferenceSession(
                shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise _refused(error) from error

    def __call__(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """The outputs and the watched values for one batch."""
        try:
            found = self._session.run(self._names, dict(batch))
        except Exception as error:
            raise _refused(error) from error
        return dict(zip(self._names, found, strict=True))


def answers(model: Any, batches: Iterable[Batch]) -> dict[str, NDArray[Any]]:
    """The outputs of a model for all batches, one behind the other along the first axis.

    Raises:
        UsageError: If there are no batches.
        UnsupportedModelError: If the engine refuses the model or a batch.
    """
    run = Run(model)
    parts = [run(batch) for batch in batches]
    if not parts:
        raise UsageError("there is no data to run the model on")
    return {name: np.concatenate([part[name] for part in parts]) for name in run.outputs}


def _refused(error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"onnxruntime failed on the simulated model: {' '.join(str(error).split())[:300]}",
        fix="check that the model runs on the data, or report the model",
    )
