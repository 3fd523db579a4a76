"""Where the time goes inside a model: the engines' own profilers, in a process of its own.

`python -m edgekit_benchmarks.operators` takes one job, as `worker` does. Profiling slows every
operator down a little, so it never runs in the process whose latencies are reported; the times
are scaled to the median that was measured there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_benchmarks.feeding import open_job, run_first
from edgekit_benchmarks.job import Job, refusal, take_standard_output
from edgekit_benchmarks.litert_profiler import OperatorEvent, profile_litert
from edgekit_runtime.errors import EdgekitError, EnvironmentLackError, UnsupportedModelError
from edgekit_runtime.formats import ModelFormat, detect_format

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_RUNS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTime:
    """What one operator of the engine's own graph took.

    Attributes:
        name: As the engine names it; fused operators keep a name of one of them.
        type: Its type, in the engine's words.
        milliseconds: Its usual time in the profiled inferences.
    """

    name: str
    type: str
    milliseconds: float

    def to_json(self) -> dict[str, object]:
        """The time as a JSON object."""
        return asdict(self)


def profile_operators(job: Job) -> list[OperatorTime]:
    """The usual time of every operator of a model.

    Raises:
        UnsupportedModelError: If the engine fails on the model.
        EnvironmentLackError: If it is not installed, or has no profiler.
    """
    # Errors of the model and a missing engine are told as everywhere.
    session = open_job(job)
    inputs = run_first(session, job).inputs
    engine = session.runtime.name
    session.close()
    if detect_format(job.model) is ModelFormat.ONNX:
        return _profile_onnx(job, inputs)
    if engine != "litert":
        raise EnvironmentLackError(
            f"{engine} has no profiler", where=str(job.model), fix="take LiteRT: --runtime litert"
        )
    found = profile_litert(
        job.model, inputs, threads=job.threads, reference_kernels=job.reference_kernels
    )
    return name_operators(found, where=str(job.model))


def name_operators(events: Sequence[OperatorEvent], *, where: str) -> list[OperatorTime]:
    """LiteRT's operators, numbered in their order: they have no names.

    Raises:
        EnvironmentLackError: If none took a time that its profiler can tell.
    """
    if not any(event.microseconds for event in events):
        raise EnvironmentLackError(
            "every operator takes less than a microsecond, the least that LiteRT's profiler tells",
            where=where,
        )
    return [
        OperatorTime(
            name=f"{event.type} #{position}",
            type=event.type.partition(" (")[0],
            milliseconds=event.microseconds / 1000,
        )
        for position, event in enumerate(events)
    ]


def _profile_onnx(job: Job, inputs: Mapping[str, NDArray[np.generic]]) -> list[OperatorTime]:
    import onnxruntime

    from edgekit_runtime.engines.onnxruntime import find_provider

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.enable_profiling = True
    options.log_severity_level = 4
    if job.reference_kernels:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            profiled = onnxruntime.InferenceSession(
                str(job.model), options, providers=[find_provider(job.provider or "cpu")]
            )
            for _ in range(_RUNS + 1):
                profiled.run(None, dict(inputs))
            path = Path(profiled.end_profiling())
        except EdgekitError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"onnxruntime fails while it profiles this model: {error}", where=str(job.model)
            ) from error
        return read_profile(json.loads(path.read_text(encoding="utf-8")))


def read_profile(events: list[dict[str, Any]]) -> list[OperatorTime]:
    """The median of every operator over onnxruntime's trace events, in order of execution."""
    durations: defaultdict[str, list[float]] = defaultdict(list)
    types: dict[str, str] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith("_kernel_time"):
            continue
        name = name.removesuffix("_kernel_time")
        durations[name].append(float(event["dur"]) / 1000)
        types[name] = str(event.get("args", {}).get("op_name", ""))
    return [
        OperatorTime(name=name, type=types[name], milliseconds=sorted(values)[len(values) // 2])
        for name, values in durations.items()
    ]


def main() -> None:
    """Do the job on standard input and answer on standard output, a refusal included."""
    job = Job.from_line(sys.stdin.readline())
    with take_standard_output() as answer_to:
        try:
            found = [entry.to_json() for entry in profile_operators(job)]
            answer_to.write(json.dumps({"operators": found}) + "\n")
        except EdgekitError as error:
            answer_to.write(refusal(error) + "\n")


if __name__ == "__main__":
    main()
