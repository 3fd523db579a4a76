"""ONNX models through onnxruntime."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit_runtime.engines.checks import check_inputs
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError
from edgekit_runtime.extras import require
from edgekit_runtime.session import RuntimeInfo
from edgekit_runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

_DTYPES = {"float": "float32", "double": "float64"}
_FATAL_ONLY = 4
CPU_PROVIDER = "CPUExecutionProvider"
_PROVIDER = "ExecutionProvider"


class OnnxSession:
    """A model loaded into onnxruntime, on the CPU unless another provider is asked for."""

    def __init__(
        self,
        model: Path,
        *,
        threads: int = 1,
        reference_kernels: bool = False,
        provider: str | None = None,
    ) -> None:
        """Load `model`; see `edgekit_runtime.session.open_session` for the errors."""
        ort: Any = require("onnxruntime", extra="onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # The engine's own messages go to the terminal; its errors reach the user as ours.
        options.log_severity_level = _FATAL_ONLY
        if reference_kernels:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._where = str(model)
        providers = [find_provider(provider)] if provider else [CPU_PROVIDER]
        try:
            # By path, not by bytes: the engine then maps external data and keeps one copy.
            self._session: Any = ort.InferenceSession(str(model), options, providers=providers)
        except Exception as error:
            raise UnsupportedModelError(
                f"onnxruntime refuses this model: {_first_line(error)}",
                where=self._where,
                fix="run `edgekit inspect` on it; if it is damaged, export or copy it again",
            ) from error
        # Where a provider's own libraries are missing, onnxruntime goes on with the processor.
        if providers[0] not in self._session.get_providers():
            raise EnvironmentLackError(
                f"onnxruntime could not start {providers[0]} and would have run without it",
                where=self._where,
                fix="install the driver and libraries that it needs",
            )
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())
        self.runtime = RuntimeInfo(name="onnxruntime", version=ort.__version__, threads=threads)

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Run one inference; see `Session.run`."""
        check_inputs(self.inputs, inputs, where=self._where)
        try:
            values = self._session.run(None, dict(inputs))
        except Exception as error:
            raise UnsupportedModelError(
                f"onnxruntime failed while running the model: {_first_line(error)}",
                where=self._where,
            ) from error
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def prepare(self, inputs: Mapping[str, NDArray[np.generic]]) -> Callable[[], object]:
        """See `EngineSession.prepare`."""
        self.run(inputs)
        return partial(self._session.run, None, dict(inputs))

    def close(self) -> None:
        """Let go of the model."""
        self._session = None


def find_provider(name: str) -> str:
    """The full name of an execution provider, whatever its case, with or without its ending.

    Raises:
        EnvironmentLackError: If this onnxruntime was built without it; names those that it has.
    """
    ort: Any = require("onnxruntime", extra="onnx")
    wanted = name.casefold().removesuffix(_PROVIDER.casefold())
    names: list[str] = ort.get_available_providers()
    for found in names:
        if found.removesuffix(_PROVIDER).casefold() == wanted:
            return found
    raise EnvironmentLackError(
        f"this onnxruntime has no execution provider {name!r}",
        where=f"onnxruntime {ort.__version__}",
        fix=f"choose one of {', '.join(found.removesuffix(_PROVIDER) for found in names)}, or "
        "install a build of onnxruntime that has it",
    )


def _spec(value: Any) -> TensorSpec:
    # "tensor(float)" -> "float32"; sequences and maps keep their own text.
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in value.shape)
    return TensorSpec(name=value.name, dtype=_DTYPES.get(kind, kind), shape=shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
