"""How much memory a process has, and had; of the server too, and so without anything large."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def peak_memory_bytes(pid: int) -> int:
    """The largest resident memory that a process has had; 0 if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def resident_bytes(pid: int) -> int:
    """The resident memory of a process; 0 if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0
