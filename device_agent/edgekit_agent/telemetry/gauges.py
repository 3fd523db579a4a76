"""How the device is: processors, memory, temperature, disk; read from the kernel's own files."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from edgekit_runtime.telemetry import DeviceGauges


class DeviceProbe:
    """Looks at this machine; the processors' share is since it last looked."""

    def __init__(self, data: Path, *, system: Path = Path("/")) -> None:
        """Look from here.

        Args:
            data: A folder on the disk to look at.
            system: Where `proc` and `sys` are; another place in tests.
        """
        self._data = data
        self._proc = system / "proc"
        self._zones = system / "sys" / "class" / "thermal"
        self._busy, self._total = self._processor_times()

    def look(self, *, agent_rss_bytes: int) -> DeviceGauges:
        """The gauges now; what the machine does not tell is 0, or None for the temperature."""
        busy, total = self._processor_times()
        passed = total - self._total
        share = (busy - self._busy) / passed if passed > 0 else 0.0
        self._busy, self._total = busy, total
        return DeviceGauges(
            cpu_share=round(min(max(share, 0.0), 1.0), 4),
            memory_used_bytes=self._memory_used_bytes(),
            agent_rss_bytes=agent_rss_bytes,
            temperature_c=self._temperature_c(),
            disk_free_bytes=self._disk_free_bytes(),
        )

    def _processor_times(self) -> tuple[int, int]:
        """Ticks of work, and all ticks, of all processors together."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            line = (self._proc / "stat").read_text(encoding="ascii").split("\n", maxsplit=1)[0]
            # user nice system idle iowait irq softirq steal; guests are in the users' already.
            ticks = [int(text) for text in line.split()[1:9]]
            return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
        return 0, 0

    def _memory_used_bytes(self) -> int:
        with contextlib.suppress(OSError, ValueError, KeyError):
            lines = (self._proc / "meminfo").read_text(encoding="ascii").splitlines()
            sizes = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
            return (sizes["MemTotal"] - sizes["MemAvailable"]) * 1024
        return 0

    def _temperature_c(self) -> float | None:
        found = []
        for file in sorted(self._zones.glob("thermal_zone*/temp")):
            # A zone may be there and give an error when it is read.
            with contextlib.suppress(OSError, ValueError):
                found.append(int(file.read_text(encoding="ascii")) / 1000)
        return max(found) if found else None

    def _disk_free_bytes(self) -> int:
        with contextlib.suppress(OSError):
            return shutil.disk_usage(self._data).free
        return 0
