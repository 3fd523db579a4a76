"""What the measuring process is told, and what it answers: one JSON line each way."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TextIO

from edgekit_runtime import errors
from edgekit_runtime.errors import EdgekitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One model to run, and how.

    Attributes:
        model: The file.
        runtime: The engine for a `.tflite` file, or None for the first that is installed.
        threads: How many threads one inference may use.
        runs: The fewest timed inferences.
        min_seconds: The shortest time to spend on them.
        inputs: The user's `.npz`, or None to make inputs up.
        input_shapes: Full shapes of inputs that have free axes, by name.
        reference_kernels: Whether to use the engine's plain kernels and no graph optimisation.
        provider: onnxruntime's execution provider, or None for the processor.
        memory_only: Whether to look at memory alone, and time a single inference.
        curve_seconds: For how long to go on at full load and note the course; 0 for not at all.
    """

    model: Path
    runtime: str | None
    threads: int
    runs: int
    min_seconds: float
    inputs: Path | None
    input_shapes: Mapping[str, tuple[int, ...]]
    reference_kernels: bool = False
    provider: str | None = None
    memory_only: bool = False
    curve_seconds: float = 0.0

    def to_line(self) -> str:
        """The job on one line."""
        document = asdict(self)
        document["model"] = str(self.model)
        document["inputs"] = str(self.inputs) if self.inputs else None
        return json.dumps(document)

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read `to_line`'s answer back; both ends are the same program, so nothing is checked."""
        document = json.loads(line)
        document["model"] = Path(document["model"])
        document["inputs"] = Path(document["inputs"]) if document["inputs"] else None
        document["input_shapes"] = {
            name: tuple(shape) for name, shape in document["input_shapes"].items()
        }
        return cls(**document)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputUsed:
    """One input as it was fed."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMemory:
    """What a model needs beside an engine whose code is already resident.

    Attributes:
        model_bytes: What loading adds and keeps: the weights as the engine lays them out.
        mapped_bytes: How much of that is pages of the file, which the system may drop and read
            again.
        first_activations_bytes: What the first inference adds at its peak: the arena, the
            engine's scratch memory, and the outputs.
        activations_bytes: What is added once the second one has run as well.
    """

    model_bytes: int
    mapped_bytes: int
    first_activations_bytes: int
    activations_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the measuring process saw.

    Attributes:
        runtime: "onnxruntime", "litert" or "tflite-runtime".
        runtime_version: Of that package.
        load_ms: From the file to a session that can run, the engine being imported already.
        first_ms: The first inference, which often allocates and prepares.
        warm_up_runs: How many more were run before timing began.
        latencies_ms: Every timed inference, in order.
        cpu_share: Processor time over wall time while timing; below 1 with a single thread, the
            process had to wait for a core.
        process_seconds: Processor time of this process since it began, all threads together.
        baseline_bytes: Resident memory with Python, numpy and the engine imported, before
            the model; None where it cannot be read.
        peak_bytes: Peak resident memory after the last run; None where it cannot be read.
        memory: What the model needs of its own; None where that cannot be told.
        inputs: What was fed.
        curve: The course under sustained load: seconds since the start, and the median latency
            in milliseconds of the inferences in the time before; empty unless it was asked for.
    """

    runtime: str
    runtime_version: str
    load_ms: float
    first_ms: float
    warm_up_runs: int
    latencies_ms: tuple[float, ...]
    cpu_share: float
    process_seconds: float
    baseline_bytes: int | None
    peak_bytes: int | None
    memory: ModelMemory | None
    inputs: tuple[InputUsed, ...]
    curve: tuple[tuple[float, float], ...] = ()


def take_standard_output() -> TextIO:
    """Standard output for the answer alone: engines, which write there too, get standard error."""
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answer_to


def answer(observation: Observation) -> str:
    """A success on one line."""
    return json.dumps({"observation": asdict(observation)})


def refusal(error: EdgekitError) -> str:
    """A failure on one line."""
    return json.dumps({"refusal": error.as_json()})


def read_line(line: str) -> dict[str, Any]:
    """What a process says that was given a job.

    Raises:
        EdgekitError: The very error that the process met, of its own class.
        ValueError: If the line is no JSON object.
    """
    document = json.loads(line)
    if not isinstance(document, dict):
        raise ValueError("no object")
    if "refusal" in document:
        found = document["refusal"]
        kind = getattr(errors, found["error"], EdgekitError)
        raise kind(found["what"], where=found["where"], fix=found["fix"])
    return document


def read_answer(line: str) -> Observation:
    """What the measuring process saw.

    Raises:
        EdgekitError: The very error that the process met, of its own class.
        ValueError: If the line is neither an answer nor a refusal.
    """
    document = read_line(line)
    if "observation" not in document:
        raise ValueError("neither an answer nor a refusal")
    seen = document["observation"]
    seen["latencies_ms"] = tuple(seen["latencies_ms"])
    seen["inputs"] = tuple(
        InputUsed(name=entry["name"], dtype=entry["dtype"], shape=tuple(entry["shape"]))
        for entry in seen["inputs"]
    )
    seen["memory"] = ModelMemory(**seen["memory"]) if seen["memory"] else None
    seen["curve"] = tuple((float(at), float(value)) for at, value in seen["curve"])
    return Observation(**seen)
