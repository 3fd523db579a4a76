"""One way to run a model, whatever its format: open a session, call `run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgekit_runtime.errors import UsageError
from edgekit_runtime.formats import ModelFormat, detect_format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from edgekit_runtime.tensors import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeInfo:
    """The engine behind a session.

    Attributes:
        name: "onnxruntime", "litert" or "tflite-runtime".
        version: The installed version of that package.
        threads: How many threads one inference may use.
    """

    name: str
    version: str
    threads: int


class Session(Protocol):
    """A loaded model. Not safe for use by two threads at once."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes, in its own order."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives, in its own order."""
        ...

    @property
    def runtime(self) -> RuntimeInfo:
        """The engine that runs it."""
        ...

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Run one inference.

        Args:
            inputs: An array for each input, of its exact dtype and a fitting shape.

        Returns:
            An array for each output, owned by the caller.

        Raises:
            UsageError: If an input is missing, unknown, or of the wrong dtype or shape; all
                such faults are named at once.
            UnsupportedModelError: If the engine fails on the model.
        """
        ...

    def close(self) -> None:
        """Let go of the model; the session cannot run any more."""
        ...


class EngineSession(Session, Protocol):
    """A model loaded into an engine."""

    def prepare(self, inputs: Mapping[str, NDArray[np.generic]]) -> Callable[[], object]:
        """The engine's own call that runs these inputs again and again, for timing it.

        Nothing is checked, copied or named at a call, and variables go on from the call before. It
        holds until the session runs other inputs or closes; one inference has run when this
        returns. Raises as `run` does; the calls raise what the engine raises.
        """
        ...


def open_session(
    model: Path,
    *,
    threads: int = 1,
    runtime: str | None = None,
    reference_kernels: bool = False,
    provider: str | None = None,
) -> EngineSession:
    """Load a model into the engine that fits its format.

    Args:
        model: An `.onnx` or `.tflite` file.
        threads: How many threads one inference may use.
        runtime: For TFLite, "litert" or "tflite-runtime"; by default the first that is installed.
        reference_kernels: Use the engine's plain kernels and no graph optimisation: slower, and
            closer to what other hardware computes. For comparisons, not for serving.
        provider: For ONNX, the execution provider that operators run on where it has them, as
            onnxruntime names it or in short ("xnnpack"); by default the processor.

    Raises:
        UsageError: If the file is missing or empty, or `runtime` or `provider` cannot run this
            format.
        UnsupportedModelError: If it is no model, is damaged, or the engine refuses it.
        EnvironmentLackError: If no engine for the format, or not that provider, is installed.
    """
    if threads < 1:
        raise UsageError("an inference needs at least one thread", where=f"threads={threads}")
    model_format = detect_format(model)
    if model_format is ModelFormat.ONNX:
        if runtime not in {None, "onnxruntime"}:
            raise UsageError(f"{runtime} does not run ONNX models", where=str(model))
        from edgekit_runtime.engines.onnxruntime import OnnxSession

        return OnnxSession(
            model, threads=threads, reference_kernels=reference_kernels, provider=provider
        )
    if runtime not in {None, "litert", "tflite-runtime"}:
        raise UsageError(f"{runtime} does not run TFLite models", where=str(model))
    if provider is not None:
        raise UsageError(
            f"the execution provider {provider} does not run TFLite models", where=str(model)
        )
    from edgekit_runtime.engines.tflite import TfliteSession

    return TfliteSession(
        model, threads=threads, runtime=runtime, reference_kernels=reference_kernels
    )
