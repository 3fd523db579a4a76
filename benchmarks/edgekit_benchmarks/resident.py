"""Peak resident memory of this very process, as Linux counts it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

# proc(5): writing 5 resets the peak resident set size ("high water mark") to the present one.
_RESET_PEAK: Final = "5"


def reset_peak_bytes(process: Path = Path("/proc/self")) -> int | None:
    """Forget the peak so far, and return the present resident memory.

    Returns:
        Bytes; None where the kernel does not offer this (not Linux, or a locked-down /proc).
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        (process / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return None
    return peak_bytes(process)


def peak_bytes(process: Path = Path("/proc/self")) -> int | None:
    """The most memory that was resident at once since the last reset, in bytes, or None."""
    try:
        status = (process / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
