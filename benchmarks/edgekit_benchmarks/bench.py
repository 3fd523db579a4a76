"""Put what was measured here and what is predicted for boards side by side, model by model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit_benchmarks.layers import list_layers
from edgekit_benchmarks.measure import Measurement, measure
from edgekit_benchmarks.predict import Prediction, predict
from edgekit_benchmarks.profile import Profile, load_profiles
from edgekit_runtime.errors import UsageError
from edgekit_runtime.formats import ModelFormat, detect_format

FORMAT: Final = "edgekit-bench"
FORMAT_VERSION: Final = 1
_ENGINES: Final = {ModelFormat.ONNX: "onnxruntime", ModelFormat.LITERT: "litert"}
# What a model computes in, by how it is quantized: float16 weights are widened before they are
# used, and dynamic quantization keeps activations in float.
_COMPUTES_IN: Final = {"int8": "int8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBench:
    """One model.

    Attributes:
        model: The file as it was given.
        measurement: What it did here; None where only predictions were asked for.
        predictions: One for each board.
        notes: What a reader of the predictions must know about this model.
    """

    model: str
    measurement: Measurement | None
    predictions: tuple[Prediction, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The model's figures as a JSON object."""
        return {
            "model": self.model,
            "measurement": self.measurement.to_json() if self.measurement else None,
            "predictions": [prediction.to_json() for prediction in self.predictions],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """Every model, in the order in which they were given."""

    models: tuple[ModelBench, ...]

    def to_json(self) -> dict[str, object]:
        """The report as a JSON object."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "models": [entry.to_json() for entry in self.models],
        }


def _ignore(_text: str) -> None:
    """The default for `progress`."""


def bench_models(
    models: Sequence[Path],
    *,
    profiles: Sequence[str] = (),
    measure_here: bool = True,
    threads: int = 1,
    runs: int = 50,
    min_seconds: float = 1.0,
    runtime: str | None = None,
    inputs: Path | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    timeout_s: float = 600.0,
    progress: Callable[[str], None] = _ignore,
) -> BenchReport:
    """Measure models on this machine, and predict them for boards.

    Everything that can be refused without running a model is refused before any is run.

    Args:
        models: `.onnx` and `.tflite` files.
        profiles: Names of boards, or of families of boards.
        measure_here: Whether to run the models on this machine.
        threads: How many threads one inference may use, here and on the boards.
        runs: See `measure`; so are the remaining arguments.
        min_seconds: The shortest time to spend on the timed runs of a model.
        runtime: The engine for `.tflite` files, here and on the boards.
        inputs: An `.npz` to feed instead of made-up values.
        input_shapes: Full shapes, by name, of inputs with free axes other than the first.
        timeout_s: The longest that one model may take.
        progress: Told one plain sentence a step.

    Raises:
        UsageError: If there is no model or nothing to do, a profile or file does not exist, or a
            setting makes no sense.
        UnsupportedModelError: If a file is no model, or the engine refuses it or fails on it.
        EnvironmentLackError: If an engine or the package that reads a format is missing.
    """
    if not models:
        raise UsageError("there is no model to bench", fix="give at least one model file")
    if not profiles and not measure_here:
        raise UsageError("there is nothing to do", fix="measure here, or name a device profile")
    boards = _boards(profiles)
    formats = {model: detect_format(model) for model in models}
    predicted = {
        model: _predict(
            model,
            boards,
            runtime=_engine_for(formats[model], runtime),
            threads=threads,
            input_shapes=input_shapes,
        )
        for model in models
    }
    return BenchReport(
        models=tuple(
            ModelBench(
                model=str(model),
                measurement=measure(
                    model,
                    threads=threads,
                    runs=runs,
                    min_seconds=min_seconds,
                    runtime=_engine_for(formats[model], runtime) if runtime else None,
                    inputs=inputs,
                    input_shapes=input_shapes,
                    timeout_s=timeout_s,
                    progress=progress,
                )
                if measure_here
                else None,
                predictions=predicted[model][0],
                notes=predicted[model][1],
            )
            for model in models
        )
    )


def _boards(names: Sequence[str]) -> tuple[Profile, ...]:
    # A family and one of its boards name that board once.
    found = {profile.name: profile for name in names for profile in load_profiles(name)}
    return tuple(found.values())


def _engine_for(model_format: ModelFormat, runtime: str | None) -> str:
    """`runtime` chooses among the engines for TFLite; for ONNX there is one."""
    if model_format is ModelFormat.LITERT and runtime:
        return runtime
    return _ENGINES[model_format]


def _predict(
    model: Path,
    boards: Sequence[Profile],
    *,
    runtime: str,
    threads: int,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
) -> tuple[tuple[Prediction, ...], tuple[str, ...]]:
    if not boards:
        return (), ()
    from edgekit_runtime.graph.read import read_graph
    from edgekit_runtime.graph.summary import describe_quantization

    graph = read_graph(model, shapes=input_shapes)
    layers = list_layers(graph)
    kind = describe_quantization(graph).kind
    dtype = _COMPUTES_IN.get(kind, "float32")
    predictions = tuple(
        predict(layers, board, runtime=runtime, dtype=dtype, threads=threads) for board in boards
    )
    notes = list(graph.assumptions)
    if kind != dtype:
        notes.append(f"priced as {dtype}: this model's quantization is {kind}")
    return predictions, tuple(notes)
