"""The measuring process: `python -m edgekit_benchmarks.worker` runs one job and ends.

It holds what a device would hold, numpy and the engine, and nothing else. The job arrives as the
first line on standard input; standard input stays open, and its end means that the parent is gone.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import threading
import time
from array import array
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.feeding import open_job, run_first
from edgekit_benchmarks.job import (
    InputUsed,
    Job,
    ModelMemory,
    Observation,
    answer,
    refusal,
    take_standard_output,
)
from edgekit_benchmarks.resident import (
    give_back_freed,
    mapped_bytes,
    peak_bytes,
    reset_peak_bytes,
)
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.formats import ModelFormat, detect_format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray


# Enough for any statistic, and below one megabyte of the memory that is being measured.
MOST_RUNS: Final = 100_000
_WARM_UP_RUNS: Final = 3
_WARM_UP_NS: Final = 100_000_000
_CURVE_POINTS: Final = 100
# Read before the model so that the engine's own code does not count as the model's memory.
_ENGINE_MODULES: Final = {
    ModelFormat.ONNX: ("onnxruntime",),
    ModelFormat.LITERT: ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"),
}


def observe(job: Job) -> Observation:
    """Load a model, warm it up, and time it.

    Raises:
        UsageError: If the inputs do not fit the model.
        UnsupportedModelError: If the engine refuses the model or fails on it.
        EnvironmentLackError: If the engine is not installed.
    """
    _import_engine(job)
    gc.collect()
    baseline_bytes = reset_peak_bytes()
    start = time.perf_counter_ns()
    session = open_job(job)
    load_ns = time.perf_counter_ns() - start
    try:
        first = run_first(session, job)
        inputs = first.inputs
        call = session.prepare(inputs)
        warm_up_runs = 1 + (0 if job.memory_only else _warm_up(call))
        cpu_ns, wall_start = time.process_time_ns(), time.perf_counter_ns()
        latencies = time_runs(call, runs=job.runs, min_seconds=job.min_seconds)
        wall_ns = time.perf_counter_ns() - wall_start
        cpu_ns = time.process_time_ns() - cpu_ns
        peak = peak_bytes() if baseline_bytes is not None else None
        curve = _curve(call, job.curve_seconds) if job.curve_seconds else ()
        runtime = session.runtime
    finally:
        session.close()
    del session
    memory = _memory(job, inputs) if peak is not None else None
    return Observation(
        runtime=runtime.name,
        runtime_version=runtime.version,
        load_ms=load_ns / 1e6,
        first_ms=first.nanoseconds / 1e6,
        warm_up_runs=warm_up_runs,
        latencies_ms=tuple(value / 1e6 for value in latencies),
        cpu_share=cpu_ns / wall_ns,
        process_seconds=time.process_time(),
        baseline_bytes=baseline_bytes,
        peak_bytes=peak,
        memory=memory,
        inputs=tuple(
            InputUsed(name=name, dtype=values.dtype.name, shape=values.shape)
            for name, values in inputs.items()
        ),
        curve=curve,
    )


def _memory(job: Job, inputs: Mapping[str, NDArray[np.generic]]) -> ModelMemory | None:
    """Load and run the model once more: what it needs of its own.

    The engine's code, and what it keeps for all models, is resident by now and does not count.
    Memory that was freed is given back first, or it would be used again unseen.
    """
    gc.collect()
    if not give_back_freed():
        return None
    before = reset_peak_bytes()
    session = open_job(job)
    try:
        # Reading the maps takes memory itself: before the peak is reset, and after it was read.
        mapped = mapped_bytes(job.model) or 0
        gc.collect()
        give_back_freed()
        loaded = reset_peak_bytes()
        session.run(inputs)
        first_peak = peak_bytes()
        session.run(inputs)
        peak = peak_bytes()
        # Plain kernels read the weights where the file is mapped: those pages are no activations.
        mapped_later = (mapped_bytes(job.model) or 0) - mapped
    finally:
        session.close()
    if before is None or loaded is None or first_peak is None or peak is None:
        return None
    return ModelMemory(
        model_bytes=max(0, loaded - before + mapped_later),
        mapped_bytes=mapped + mapped_later,
        first_activations_bytes=max(0, first_peak - loaded - mapped_later),
        activations_bytes=max(0, peak - loaded - mapped_later),
    )


def main() -> None:
    """Do the job on standard input and answer on standard output, a refusal included."""
    job = Job.from_line(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with take_standard_output() as answer_to:
        try:
            line = answer(observe(job))
        except EdgekitError as error:
            line = refusal(error)
        answer_to.write(line + "\n")


def _import_engine(job: Job) -> None:
    names = _ENGINE_MODULES[detect_format(job.model)]
    wanted = [name for name in names if job.runtime is None or _is_engine(name, job.runtime)]
    for name in wanted:
        # A missing engine is reported by open_session, with the command that installs it.
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
            return


def _is_engine(module: str, runtime: str) -> bool:
    return (module.startswith("tflite_runtime")) == (runtime == "tflite-runtime")


def _warm_up(call: Callable[[], object]) -> int:
    end = time.perf_counter_ns() + _WARM_UP_NS
    runs = 0
    while runs < _WARM_UP_RUNS or (time.perf_counter_ns() < end and runs < MOST_RUNS):
        call()
        runs += 1
    return runs


def time_runs(call: Callable[[], object], *, runs: int, min_seconds: float) -> array[int]:
    """Nanoseconds of every call, one after the other."""
    latencies = array("q")
    clock = time.perf_counter_ns
    end = clock() + int(min_seconds * 1e9)
    gc.collect()
    # A collection in the middle of an inference would be counted as the model's.
    gc.disable()
    try:
        stop = start = clock()
        while len(latencies) < runs or (stop < end and len(latencies) < MOST_RUNS):
            start = clock()
            call()
            stop = clock()
            latencies.append(stop - start)
    finally:
        gc.enable()
    return latencies


def _curve(call: Callable[[], object], seconds: float) -> tuple[tuple[float, float], ...]:
    """The median latency of each of a hundred stretches of a long time at full load."""
    clock = time.perf_counter_ns
    begun = clock()
    points = []
    for stretch in range(1, _CURVE_POINTS + 1):
        end = begun + int(seconds * 1e9 * stretch / _CURVE_POINTS)
        latencies: list[int] = []
        while not latencies or clock() < end:
            start = clock()
            call()
            latencies.append(clock() - start)
        points.append(((clock() - begun) / 1e9, sorted(latencies)[len(latencies) // 2] / 1e6))
    return tuple(points)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
