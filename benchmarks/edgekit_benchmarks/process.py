"""Processes that run a model for one job and end; whatever becomes of them is said."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError

if TYPE_CHECKING:
    from edgekit_benchmarks.job import Job

_LAST_WORDS: Final = 400


def command_of(module: str) -> tuple[str, ...]:
    """The command that starts one of this package's programs."""
    # -P: a file called numpy.py in the user's folder must not get in the way.
    return (sys.executable, "-P", "-m", f"edgekit_benchmarks.{module}")


def unwatched(_pid: int) -> None:
    """The default for `started`."""


def run_process(
    job: Job,
    *,
    command: Sequence[str],
    timeout_s: float,
    started: Callable[[int], None] = unwatched,
) -> str:
    """Give a process its job on standard input, and return what it answers.

    Args:
        job: What it is to do.
        command: The program.
        timeout_s: After this long it is ended.
        started: Told the process's id.

    Raises:
        UnsupportedModelError: If the engine crashed, or the process failed otherwise.
        EnvironmentLackError: If it could not start, was killed, or took too long.
    """
    # The write end stays here: the worker ends by itself should this process be killed.
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            command, stdin=read_end, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        os.close(write_end)
        raise EnvironmentLackError(
            f"cannot start the measuring process: {error.strerror or error}", where=command[0]
        ) from error
    finally:
        os.close(read_end)
    started(process.pid)
    try:
        with os.fdopen(write_end, "wb", buffering=0) as stdin:
            # If it died before it could read, how it died says more than a broken pipe.
            with contextlib.suppress(BrokenPipeError):
                stdin.write(job.to_line().encode() + b"\n")
            stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise EnvironmentLackError(
            f"measuring took longer than {timeout_s:g} s and was ended",
            where=str(job.model),
            fix="ask for fewer runs, or allow more time",
        ) from error
    finally:
        # On Ctrl-C and on every other way out: no process may stay behind.
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    if process.returncode != 0:
        raise _death_of(process.returncode, stderr, job)
    return stdout.decode("utf-8", errors="replace")


def _death_of(code: int, stderr: bytes, job: Job) -> UnsupportedModelError | EnvironmentLackError:
    words = " ".join(stderr.decode("utf-8", errors="replace").split())[-_LAST_WORDS:]
    where = str(job.model)
    if code == -getattr(signal, "SIGKILL", 9):
        return EnvironmentLackError(
            "the measuring process was killed; most likely the machine ran out of memory",
            where=where,
            fix="free memory, or measure a smaller model",
        )
    if code < 0:
        return UnsupportedModelError(
            f"the engine crashed while it ran the model (signal {signal.Signals(-code).name})"
            + (f": {words}" if words else ""),
            where=where,
            fix="run `edgekit inspect` on it; export it again, or try another engine version",
        )
    return UnsupportedModelError(
        f"the measuring process failed (exit code {code})" + (f": {words}" if words else ""),
        where=where,
    )
