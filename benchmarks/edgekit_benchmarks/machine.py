"""Facts about the machine that measures: without them a latency means nothing."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

# A load average counts this process's own recent past too, hence not zero.
_BUSY_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """Where a measurement was made.

    Attributes:
        board: What a device tree calls it ("Raspberry Pi 4 Model B Rev 1.4"), or None.
        cpu_model: As the kernel names it.
        architecture: "x86_64", "aarch64".
        cores: How many this process may use.
        ram_bytes: All of it; None if unknown.
        system: Name and release of the operating system.
        governor: How the kernel chooses the clock of the first core; None if it does not say.
        load_average: Processes that wanted to run, over the last minute; None if unknown.
    """

    board: str | None
    cpu_model: str
    architecture: str
    cores: int
    ram_bytes: int | None
    system: str
    governor: str | None
    load_average: float | None

    def to_json(self) -> dict[str, object]:
        """The facts as a JSON object."""
        return asdict(self)


def read_machine(root: Path = Path("/")) -> MachineFacts:
    """Look at this machine.

    Args:
        root: Where `proc` and `sys` are.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return MachineFacts(
        board=_read(root / "proc/device-tree/model"),
        cpu_model=_cpu_model(root),
        architecture=platform.machine(),
        cores=cores,
        ram_bytes=_ram_bytes(root),
        system=f"{platform.system()} {platform.release()}",
        governor=_read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def warnings_about(machine: MachineFacts, *, threads: int) -> tuple[str, ...]:
    """What makes a measurement on that machine less certain, one sentence each."""
    warnings = []
    if machine.load_average is not None and machine.load_average > machine.cores * _BUSY_SHARE:
        warnings.append(
            f"the machine was busy: load average {machine.load_average:.1f} on {machine.cores} "
            "cores; the latencies may be too high"
        )
    if threads > machine.cores:
        warnings.append(f"{threads} threads shared {machine.cores} cores")
    if machine.governor not in {None, "performance"}:
        warnings.append(f"the CPU's clock was left to the governor {machine.governor!r}")
    return tuple(warnings)


def _cpu_model(root: Path) -> str:
    for line in (_read(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model Name", "cpu model"}:
            return value.strip()
    # ARM kernels name no model; the machine's own name is all there is.
    return platform.processor() or platform.machine() or "unknown"


def _ram_bytes(root: Path) -> int | None:
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\0") or None
    except OSError:
        return None
