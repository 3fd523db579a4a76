"""One model in this process: loaded, warm, counted; preprocessing, model, postprocessing.

Every door leads here: HTTP and MQTT through the server, batches and Python in their own process.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgekit_agent.live_stats import LiveStats
from edgekit_agent.slot_files import SlotFiles
from edgekit_agent.telemetry.counting import ValueCounter
from edgekit_agent.telemetry.references import load_references
from edgekit_runtime.bundle.golden import load_arrays, run_variant, samples_of
from edgekit_runtime.bundle.manifest import TensorContract
from edgekit_runtime.engines.checks import check_inputs
from edgekit_runtime.errors import EdgekitError, GateFailedError, UsageError
from edgekit_runtime.processing import apply_steps
from edgekit_runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_agent.plans import ModelPlan
    from edgekit_agent.samples import SampleKeeper
    from edgekit_agent.shadow.tap import Tap


class InsaneAnswerError(GateFailedError):
    """The model's answer holds NaN or infinity."""


class BusyError(EdgekitError):
    """As many requests wait for the model as may; the same one may be answered a little later."""

    exit_code = 1

    def __init__(self, what: str, *, retry_seconds: int) -> None:
        super().__init__(what)
        self.retry_seconds = retry_seconds


class HostedModel:
    """A model that answers requests, one at a time; safe for use by several threads."""

    def __init__(
        self,
        plan: ModelPlan,
        *,
        running: memoryview | None = None,
        queue_requests: int | None = None,
        samples: SampleKeeper | None = None,
    ) -> None:
        """Load the model and run its first golden sample, so that the first request is not slow.

        Args:
            plan: Which one.
            running: One byte of shared memory, set while the model computes: a native crash
                leaves it set, and so tells which model did it.
            queue_requests: How many requests may wait while one is computed; None for any number.
            samples: Is offered every request and its answer; None where none may be kept.

        Raises:
            EdgekitError: If it cannot be loaded or run.
        """
        files = SlotFiles(plan)
        self.plan = plan
        self.manifest = files.manifest()
        self.variant = self.manifest.variant(plan.variant)
        self._counter = ValueCounter(load_references(files.read, self.manifest))
        self._stats = LiveStats()
        self._running = memoryview(bytearray(1)) if running is None else running
        self._most = None if queue_requests is None else queue_requests + 1
        self._samples = samples
        # What runs beside it, while something does; set by another thread.
        self.tap: Tap | None = None
        self._inside = 0
        self._counting = threading.Lock()
        self._lock = threading.Lock()
        self._specs = tuple(
            TensorSpec(name=item.name, dtype=item.dtype, shape=item.shape)
            for item in self.manifest.inputs
        )
        self._running[0] = 1
        self._session = files.open_session(self.variant)
        golden = self.manifest.golden_inputs
        for sample in samples_of(load_arrays(files.read(golden), where=golden)):
            run_variant(self._session, self.variant, sample)
            break
        self._running[0] = 0

    @property
    def stats(self) -> LiveStats:
        """What it has done so far, at one moment."""
        now = LiveStats(
            values={name: c.tolist() for name, c in self._counter.counts.items()},
            nonfinite=dict(self._counter.nonfinite),
        )
        with self._counting:
            now.merge(self._stats)
        return now

    @property
    def platform(self) -> str:
        """The engine and its version."""
        return f"{self._session.runtime.name} {self._session.runtime.version}"

    @property
    def only_input(self) -> TensorContract:
        """The input of a model that takes one.

        Raises:
            UsageError: If it takes several.
        """
        if len(self.manifest.inputs) != 1:
            names = ", ".join(item.name for item in self.manifest.inputs)
            raise UsageError(
                f"the model takes several inputs: {names}",
                where=self.plan.bundle,
                fix="send an inference request that names each",
            )
        return self.manifest.inputs[0]

    def infer(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Answer one request, from an application's inputs to its outputs.

        Raises:
            UsageError: If the inputs do not fit; the request does not count.
            BusyError: If too many requests wait already.
            InsaneAnswerError: If the answer holds NaN or infinity.
            EdgekitError: If the model fails on them.
        """
        check_inputs(self._specs, inputs, where=self.plan.bundle)
        self._enter()
        try:
            with self._lock:
                return self._answer(inputs)
        finally:
            with self._counting:
                self._inside -= 1

    def close(self) -> None:
        """Let go of the model, when the request at hand is answered."""
        with self._lock:
            self._session.close()

    def _enter(self) -> None:
        with self._counting:
            if self._most is not None and self._inside >= self._most:
                self._stats.busy += 1
                wait_ms = self._inside * self._stats.latency.quantile_ms(0.5)
                raise BusyError(
                    f"busy: {self._inside} requests wait for {self.plan.bundle}",
                    retry_seconds=max(1, math.ceil(wait_ms / 1e3)),
                )
            self._inside += 1

    def _answer(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        started = time.perf_counter()
        self._running[0] = 1
        with self._counting:
            self._stats.requests += 1
        try:
            prepared = apply_steps(self.manifest.preprocessing, inputs)
            given = run_variant(self._session, self.variant, prepared)
            outputs = apply_steps(self.manifest.postprocessing, given)
        except BaseException:
            with self._counting:
                self._stats.errors += 1
            raise
        finally:
            self._running[0] = 0
        latency_ms = (time.perf_counter() - started) * 1e3
        sane = all(_is_sane(array) for array in outputs.values())
        with self._counting:
            self._stats.latency.add(latency_ms)
            self._stats.insane += not sane
        # Before anything is refused: values that are no number are what one wants to hear of.
        self._counter.count(inputs, outputs)
        if not sane:
            raise InsaneAnswerError("the model gave no finite number", where=f"{self.plan.bundle}")
        if self._samples:
            self._samples.offer(self.plan, inputs, outputs)
        # Once: the thread that looks for what runs beside may take it away meanwhile.
        tap = self.tap
        if tap is not None:
            tap.offer(inputs, outputs, latency_ms)
        return outputs


def _is_sane(array: NDArray[np.generic]) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
