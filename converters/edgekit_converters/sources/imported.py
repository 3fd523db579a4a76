"""What reading a source gives: its ONNX form, and the source itself behind a session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.engines.checks import check_inputs
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError
from edgekit_runtime.session import RuntimeInfo, Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.sources.decision import Decision
    from edgekit_runtime.tensors import TensorSpec

Arrays = dict[str, "NDArray[np.generic]"]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """A source that has been read.

    Attributes:
        model: Its ONNX form, an `onnx.ModelProto`; None for a `.tflite` that is only quantized.
        reference: Runs the source itself; inputs and outputs have the names and types of the
            ONNX form.
        exporter: What wrote the ONNX form, with its version; "" where the source is ONNX.
        decision: How the label comes from the scores, where the model is a classifier that gives
            both.
        warnings: Sentences for the report.
    """

    model: Any | None
    reference: Session
    exporter: str = ""
    decision: Decision | None = None
    warnings: tuple[str, ...] = ()


class ReferenceSession:
    """A source behind the interface of a session: each run calls the framework's own function."""

    def __init__(
        self,
        *,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        runtime: RuntimeInfo,
        predict: Callable[[Mapping[str, NDArray[np.generic]]], Sequence[Any]],
        where: str,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """Wrap a function.

        Args:
            inputs: What the ONNX form takes.
            outputs: What the ONNX form gives.
            runtime: The framework.
            predict: Takes checked inputs; returns one array an output, in order.
            where: The source, for errors.
            close: Lets go of the source.
        """
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.runtime = runtime
        self._predict = predict
        self._where = where
        self._close = close

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run the source; see `Session.run`.

        An output that has the ONNX form's elements in another shape or float type is given that
        form: scikit-learn answers `predict` with shape (n,) where ONNX has (n, 1).
        """
        check_inputs(self.inputs, inputs, where=self._where)
        try:
            values = self._predict(inputs)
        except EdgekitError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"the source refuses this input: {' '.join(str(error).split())[:300]}",
                where=self._where,
            ) from error
        return {
            spec.name: _shaped(np.asarray(value), spec)
            for spec, value in zip(self.outputs, values, strict=True)
        }

    def close(self) -> None:
        """Let go of the source."""
        self._close()


def specs_of(model: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs that an `onnx.ModelProto` declares."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    return tuple(map(_spec, inputs)), tuple(map(_spec, model.graph.output))


def _spec(value: Any) -> TensorSpec:
    from onnx import TensorProto, helper

    from edgekit_runtime.tensors import TensorSpec

    kind = value.type.tensor_type
    text = kind.elem_type == TensorProto.STRING
    dtype = "string" if text else np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


def _shaped(value: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    if spec.dtype != "string":
        kinds = {np.dtype(spec.dtype).kind, value.dtype.kind}
        if kinds <= {"f"} or kinds <= {"i", "u", "b"}:
            value = value.astype(spec.dtype, copy=False)
    wanted = spec.shape
    if value.ndim != len(wanted) and wanted and value.ndim:
        shape = [value.shape[0] if axis == 0 else size for axis, size in enumerate(wanted)]
        known = [size for size in shape if size is not None]
        if len(known) == len(shape) and int(np.prod(known)) == value.size:
            value = value.reshape(known)
    return value
