"""Facts about the machine that measures: without them a latency means nothing."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

# A load average counts this process's own recent past too, hence not zero.
_BUSY_SHARE: Final = 0.5
_OTHERS_SHARE: Final = 0.1
_SLOWER_CLOCK: Final = 0.95
# Raspberry Pi's firmware begins to hold the clock down at 80 °C.
_HOT_C: Final = 80.0
_TICKS: Final = 100
# vcgencmd get_throttled: under-voltage, frequency capped, throttled, soft temperature limit, now.
_THROTTLED_NOW: Final = 0xF


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
        frequency_mhz: The clock of the first core at that moment; None if unknown.
        most_mhz: Its highest clock; None if unknown.
        temperature_c: Of the hottest thermal zone at that moment; None if unknown.
        throttled: Whether the firmware says that it holds the clock down; None if it is not asked.
    """

    board: str | None
    cpu_model: str
    architecture: str
    cores: int
    ram_bytes: int | None
    system: str
    governor: str | None
    load_average: float | None
    frequency_mhz: float | None = None
    most_mhz: float | None = None
    temperature_c: float | None = None
    throttled: bool | None = None

    def describe(self) -> str:
        """The facts on one line, as far as they are known."""
        ram = f"{self.ram_bytes / 1e9:.1f} GB" if self.ram_bytes else ""
        clock = f"{self.frequency_mhz:.0f} MHz" if self.frequency_mhz else ""
        if clock and self.most_mhz:
            clock += f" of {self.most_mhz:.0f}"
        return ", ".join(
            part
            for part in (
                self.board or "",
                self.cpu_model,
                self.architecture,
                f"{self.cores} core{'s' * (self.cores > 1)}",
                ram,
                self.system,
                f"governor {self.governor}" if self.governor else "governor not known",
                clock or "clock not known",
                f"{self.temperature_c:.0f} °C"
                if self.temperature_c is not None
                else "temperature not known",
            )
            if part
        )

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
        frequency_mhz=_megahertz(root, "scaling_cur_freq"),
        most_mhz=_megahertz(root, "cpuinfo_max_freq"),
        temperature_c=_temperature_c(root),
        throttled=_throttled(root),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTime:
    """Processor time of the whole machine since it started, in seconds over all cores.

    Attributes:
        busy_seconds: Spent on anything.
        total_seconds: That, and idle time.
    """

    busy_seconds: float
    total_seconds: float


def read_cpu_time(root: Path = Path("/")) -> CpuTime | None:
    """The first line of proc/stat, or None where there is none (proc(5))."""
    text = _read(root / "proc/stat")
    if text is None or not text.startswith("cpu "):
        return None
    ticks = [int(field) for field in text.splitlines()[0].split()[1:9]]
    rate = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else _TICKS
    # user, nice, system, idle, iowait, irq, softirq, steal
    total = sum(ticks) / rate
    return CpuTime(busy_seconds=total - (ticks[3] + ticks[4]) / rate, total_seconds=total)


def others_share(before: CpuTime | None, after: CpuTime | None, own_seconds: float) -> float | None:
    """The share of all cores that other processes used in between, or None if unknown."""
    if before is None or after is None or after.total_seconds <= before.total_seconds:
        return None
    busy = after.busy_seconds - before.busy_seconds - own_seconds
    return max(0.0, busy / (after.total_seconds - before.total_seconds))


def warnings_between(
    before: MachineFacts, after: MachineFacts, *, others: float | None
) -> tuple[str, ...]:
    """What happened to the machine during a measurement, one sentence each."""
    warnings = []
    if others is not None and others > _OTHERS_SHARE:
        warnings.append(
            f"other processes used {others:.0%} of the machine's cores meanwhile; the latencies "
            "may be too high"
        )
    if after.throttled or before.throttled:
        warnings.append(
            "the board's firmware held its clock down (heat or power supply); the latencies are "
            "those of a throttled board"
        )
    elif (
        before.frequency_mhz
        and after.frequency_mhz
        and after.frequency_mhz < before.frequency_mhz * _SLOWER_CLOCK
    ):
        warnings.append(
            f"the clock fell from {before.frequency_mhz:.0f} to {after.frequency_mhz:.0f} MHz "
            "meanwhile: throttled, or left to the governor"
        )
    if after.temperature_c is not None and after.temperature_c >= _HOT_C:
        warnings.append(f"the processor was at {after.temperature_c:.0f} °C afterwards")
    return tuple(warnings)


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


def _megahertz(root: Path, name: str) -> float | None:
    text = _read(root / "sys/devices/system/cpu/cpu0/cpufreq" / name)
    return int(text) / 1000 if text and text.isdigit() else None


def _temperature_c(root: Path) -> float | None:
    texts = [
        _read(zone / "temp") for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    ]
    degrees = [int(text) / 1000 for text in texts if text and text.lstrip("-").isdigit()]
    return max(degrees, default=None)


def _throttled(root: Path) -> bool | None:
    text = _read(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    try:
        return bool(int(text, 16) & _THROTTLED_NOW) if text else None
    except ValueError:
        return None


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
