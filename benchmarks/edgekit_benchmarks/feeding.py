"""The first inference: the user's inputs, or made-up ones that the model turns out to take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit_benchmarks.inputs import is_index, load_inputs, make_inputs, resolve_shapes
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.session import open_session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgekit_benchmarks.job import Job
    from edgekit_runtime.session import EngineSession, Session
    from edgekit_runtime.tensors import TensorSpec

# Made-up indices are 0 and 1. What does not take both may be a table of one row, or a length.
_OTHER_INDICES = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRun:
    """The first inference that worked.

    Attributes:
        inputs: What was fed.
        nanoseconds: How long it took.
    """

    inputs: dict[str, NDArray[np.generic]]
    nanoseconds: int


def open_job(job: Job) -> EngineSession:
    """Load a job's model as it asks.

    Raises:
        UnsupportedModelError: If the engine refuses it.
        EnvironmentLackError: If the engine is not installed.
    """
    return open_session(
        job.model,
        threads=job.threads,
        runtime=job.runtime,
        reference_kernels=job.reference_kernels,
        provider=job.provider,
    )


def run_first(session: Session, job: Job) -> FirstRun:
    """Feed a model for the first time.

    Raises:
        UsageError: If the user's inputs or shapes do not fit the model.
        UnsupportedModelError: If the engine fails on it with the user's inputs, or with all that
            could be made up.
    """
    shapes = resolve_shapes(session.inputs, job.input_shapes)
    if job.inputs:
        return _run(session, load_inputs(job.inputs, session.inputs, shapes))
    inputs = make_inputs(session.inputs, shapes)
    try:
        return _run(session, inputs)
    except UnsupportedModelError as error:
        for index in _OTHER_INDICES if any(map(is_index, session.inputs)) else ():
            try:
                return _run(session, _with_indices(session.inputs, inputs, index))
            except UnsupportedModelError:
                continue
        raise UnsupportedModelError(
            error.what,
            where=error.where,
            fix="the values were made up, and indices among them may be outside of their table: "
            "give real inputs with --inputs",
        ) from error


def _run(session: Session, inputs: dict[str, NDArray[np.generic]]) -> FirstRun:
    start = time.perf_counter_ns()
    session.run(inputs)
    return FirstRun(inputs=inputs, nanoseconds=time.perf_counter_ns() - start)


def _with_indices(
    specs: Sequence[TensorSpec], inputs: Mapping[str, NDArray[np.generic]], index: int
) -> dict[str, NDArray[np.generic]]:
    indices = {spec.name for spec in specs if is_index(spec)}
    return {
        name: np.full_like(values, index) if name in indices else values
        for name, values in inputs.items()
    }
