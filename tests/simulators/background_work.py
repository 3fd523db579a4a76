"""Work of the control plane in a thread of its own, and waiting for what comes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def running(run: Callable[[Callable[[], bool]], None]) -> Iterator[None]:
    """Let something work that asks whether to go on; it is ended at the end."""
    stop = threading.Event()
    thread = threading.Thread(target=run, args=[lambda: not stop.is_set()])
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait_until(holds: Callable[[], bool], what: str, *, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)
