"""Facts about a machine are read from the kernel's files, and doubts follow from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekit_benchmarks.machine import MachineFacts, read_machine, warnings_about

CALM = MachineFacts(
    board=None,
    cpu_model="Cortex-A72",
    architecture="aarch64",
    cores=4,
    ram_bytes=1 << 30,
    system="Linux 6.6",
    governor="performance",
    load_average=0.3,
)


def test_reads_the_kernels_files(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "processor : 0\nmodel name : Cortex-A72\n",
        "proc/meminfo": "MemTotal:        1000 kB\nMemFree: 1 kB\n",
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    machine = read_machine(tmp_path)
    assert machine.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert machine.cpu_model == "Cortex-A72"
    assert machine.ram_bytes == 1_024_000
    assert machine.governor == "ondemand"
    assert machine.cores >= 1


def test_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.board, machine.ram_bytes, machine.governor) == (None, None, None)
    assert machine.cpu_model


def test_a_calm_machine_gives_no_warning() -> None:
    assert warnings_about(CALM, threads=4) == ()


def test_a_busy_machine_a_lazy_clock_and_too_many_threads_are_said() -> None:
    machine = replace(CALM, load_average=2.5, governor="powersave")
    busy, threads, clock = warnings_about(machine, threads=8)
    assert "load average 2.5 on 4 cores" in busy
    assert "8 threads shared 4 cores" in threads
    assert "'powersave'" in clock
