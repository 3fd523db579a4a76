"""Start a program that dies with the process that wanted it (Linux).

`python -m edgekit.fleet.tethered PARENT_PID PROGRAM ARGUMENT...` asks the kernel for SIGTERM at
the parent's death, and becomes the program. Asked for here, in a fresh process, and not between
fork and exec of the parent, whose other threads make that unsafe.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def tethered(command: Sequence[str]) -> list[str]:
    """The command that starts a program tethered to this process; only on Linux is there one."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-m", "edgekit.fleet.tethered", str(os.getpid()), *command]


def main() -> None:
    """Become the program that the arguments name."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # Had the parent died before the call, no signal would ever come.
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(program[0], program)  # noqa: S606 - an argument list, and no shell


if __name__ == "__main__":
    main()
