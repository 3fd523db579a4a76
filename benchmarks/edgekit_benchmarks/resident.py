"""Peak resident memory of this very process, as Linux counts it."""

from __future__ import annotations

import ctypes
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
    return _status(process, "VmHWM:")


def give_back_freed() -> bool:
    """Let the allocator return what was freed to the system; whether it can (malloc_trim(3))."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return False
    return True


def mapped_bytes(file: Path, process: Path = Path("/proc/self")) -> int | None:
    """How much of a file is resident because it is mapped, in bytes, or None."""
    try:
        text = (process / "smaps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    total, inside = 0, False
    for line in text.splitlines():
        fields = line.split()
        if "-" in fields[0]:
            inside = line.endswith(str(file))
        elif inside and fields[0] == "Rss:":
            total += int(fields[1]) * 1024
    return total


def _status(process: Path, name: str) -> int | None:
    try:
        status = (process / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return None
