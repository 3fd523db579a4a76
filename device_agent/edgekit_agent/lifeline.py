"""A child process that never outlives the supervisor, even one that was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def tie_to_parent(life: int) -> None:
    """End this process as soon as the parent is gone.

    Args:
        life: The reading end of a pipe whose other end only the parent holds. The kernel closes
            that one with the parent, whatever ended it.
    """
    if sys.platform == "linux":
        import ctypes

        # Beside the pipe: it also reaches a process whose threads are stuck in native code.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(life, 1)
        os._exit(0)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
