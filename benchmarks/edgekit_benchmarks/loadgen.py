"""The process that MLPerf's LoadGen drives: `python -m edgekit_benchmarks.loadgen` runs one job.

LoadGen sends the queries from a thread of its own and times the answers. Streams and heaps of work
are answered at once, in that thread; a server's queries wait in a queue for the model, and LoadGen
counts from the moment at which they were due.
"""

from __future__ import annotations

import json
import queue
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgekit_benchmarks.feeding import open_job, run_first
from edgekit_benchmarks.job import Job, refusal, take_standard_output
from edgekit_runtime.errors import EdgekitError, EnvironmentLackError
from edgekit_runtime.extras import require

# "Effective" settings and results: the last value of a key is the one that held.
_LINE: Final = ":::MLLOG "
_WARM_UP: Final = 5
_NAMES: Final = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
    "server": "Server",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadJob(Job):
    """A job for LoadGen; `runs` are its fewest queries.

    Attributes:
        scenario: "single-stream", "multi-stream", "offline" or "server".
        expected_ms: What one inference takes, about: LoadGen reckons with it.
        target_per_s: The server's queries a second; None for the others.
        limit_ms: The server's limit for its 99th percentile; None for the others.
    """

    scenario: str
    expected_ms: float
    target_per_s: float | None
    limit_ms: float | None


def drive(job: LoadJob) -> dict[str, object]:
    """Run the job and give the last value of each key of LoadGen's detailed log.

    Raises:
        EdgekitError: If the model does not run, or LoadGen is missing or ends in an error.
    """
    loadgen: Any = require("mlperf_loadgen", extra="loadgen")
    session = open_job(job)
    call = session.prepare(run_first(session, job).inputs)
    for _ in range(_WARM_UP):
        call()
    waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    server = threading.Thread(target=_serve, args=(loadgen, call, waiting))
    server.start()

    def send(samples: Sequence[Any]) -> None:
        for sample in samples:
            if job.scenario == "server":
                waiting.put(sample.id)
            else:
                call()
                _answer(loadgen, sample.id)

    system = loadgen.ConstructSUT(send, _nothing)
    # One sample: what a model takes for an inference does not depend on the values.
    library = loadgen.ConstructQSL(1, 1, _ignore, _ignore)
    try:
        with tempfile.TemporaryDirectory() as folder:
            loadgen.StartTestWithLogSettings(
                system, library, _settings(loadgen, job), _logs(loadgen, folder)
            )
            entries = read_entries(Path(folder, "mlperf_log_detail.txt").read_text("utf-8"))
    finally:
        waiting.put(None)
        server.join()
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
        session.close()
    if "result_validity" not in entries:
        raise EnvironmentLackError("LoadGen gave no result", where=str(job.model))
    return entries


def read_entries(text: str) -> dict[str, object]:
    """The last value of each key of a detailed log."""
    entries: dict[str, object] = {}
    for line in text.splitlines():
        if line.startswith(_LINE):
            entry = json.loads(line.removeprefix(_LINE))
            entries[entry["key"]] = entry["value"]
    return entries


def _serve(
    loadgen: Any, call: Callable[[], object], waiting: queue.SimpleQueue[int | None]
) -> None:
    while (sample := waiting.get()) is not None:
        call()
        _answer(loadgen, sample)


def _answer(loadgen: Any, sample: int) -> None:
    # Where the outputs lie matters for accuracy runs alone.
    loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample, 0, 0)])


def _settings(loadgen: Any, job: LoadJob) -> Any:
    settings = loadgen.TestSettings()
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.scenario = getattr(loadgen.TestScenario, _NAMES[job.scenario])
    settings.min_duration_ms = max(1, int(job.min_seconds * 1000))
    settings.min_query_count = job.runs
    expected_ns = max(1, int(job.expected_ms * 1e6))
    settings.single_stream_expected_latency_ns = expected_ns
    settings.multi_stream_expected_latency_ns = (
        expected_ns * settings.multi_stream_samples_per_query
    )
    settings.offline_expected_qps = 1000 / job.expected_ms
    if job.target_per_s is not None and job.limit_ms is not None:
        settings.server_target_qps = job.target_per_s
        settings.server_target_latency_ns = max(1, int(job.limit_ms * 1e6))
    return settings


def _logs(loadgen: Any, folder: str) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir = folder
    logs = loadgen.LogSettings()
    logs.log_output = output
    logs.enable_trace = False
    return logs


def _nothing() -> None:
    """There is nothing to hand over at the end."""


def _ignore(_samples: Sequence[int]) -> None:
    """The sample is in memory from the start."""


def main() -> None:
    """Do the job on standard input and answer on standard output, a refusal included."""
    job = LoadJob.from_line(sys.stdin.readline())
    with take_standard_output() as answer_to:
        try:
            line = json.dumps({"log": drive(job)})
        except EdgekitError as error:
            line = refusal(error)
        answer_to.write(line + "\n")


if __name__ == "__main__":
    main()
