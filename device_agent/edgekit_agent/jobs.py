"""A thread that does slow things one after another, so that the supervisor stays awake."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class JobThread:
    """Runs jobs in the order in which they come."""

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job after those before it; it posts its own result, and must not raise."""
        self._jobs.put(job)

    def close(self, *, seconds: float) -> None:
        """Finish what was submitted, and end."""
        self._jobs.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # noqa: BLE001 - it must not take the jobs after it along
                _log.exception("a job failed")
