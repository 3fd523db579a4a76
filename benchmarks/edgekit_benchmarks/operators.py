"""Where the time goes inside a model: onnxruntime's own profiler, in a process of its own.

`python -m edgekit_benchmarks.operators` takes one job, as `worker` does. Profiling slows every
operator down a little, so it never runs in the process whose latencies are reported; the times
are scaled to the median that was measured there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from edgekit_benchmarks.inputs import load_inputs, make_inputs, resolve_shapes
from edgekit_benchmarks.job import Job, refusal
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError
from edgekit_runtime.session import open_session

_RUNS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTime:
    """What one operator of the engine's own graph took.

    Attributes:
        name: As the engine names it; fused operators keep a name of one of them.
        type: Its type, in the engine's words.
        milliseconds: Its median over the profiled inferences.
    """

    name: str
    type: str
    milliseconds: float

    def to_json(self) -> dict[str, object]:
        """The time as a JSON object."""
        return asdict(self)


def profile_operators(job: Job) -> list[OperatorTime]:
    """The median time of every operator of an ONNX model.

    Raises:
        UnsupportedModelError: If onnxruntime fails on the model.
        EnvironmentLackError: If it is not installed.
    """
    # Errors of the model and a missing engine are told as everywhere.
    session = open_session(job.model, threads=job.threads)
    shapes = resolve_shapes(session.inputs, job.input_shapes)
    inputs = (
        load_inputs(job.inputs, session.inputs, shapes)
        if job.inputs
        else make_inputs(session.inputs, shapes)
    )
    session.close()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.enable_profiling = True
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            profiled = onnxruntime.InferenceSession(
                str(job.model), options, providers=["CPUExecutionProvider"]
            )
            for _ in range(_RUNS + 1):
                profiled.run(None, dict(inputs))
            path = Path(profiled.end_profiling())
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
    try:
        found = profile_operators(job)
    except EdgekitError as error:
        sys.stdout.write(refusal(error) + "\n")
        return
    sys.stdout.write(json.dumps({"operators": [entry.to_json() for entry in found]}) + "\n")


if __name__ == "__main__":
    main()
