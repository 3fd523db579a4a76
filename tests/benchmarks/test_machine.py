"""Facts about a machine are read from the kernel's files, and doubts follow from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekit_benchmarks.machine import (
    CpuTime,
    MachineFacts,
    others_share,
    read_cpu_time,
    read_machine,
    warnings_about,
    warnings_between,
)

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
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1800000\n",
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
        "sys/class/thermal/thermal_zone1/temp": "51000\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50004\n",
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
    assert (machine.frequency_mhz, machine.most_mhz) == (1500, 1800)
    assert machine.temperature_c == 51
    assert machine.throttled is True
    assert machine.describe().startswith("Raspberry Pi 4 Model B Rev 1.4, Cortex-A72, ")
    assert machine.describe().endswith("governor ondemand, 1500 MHz of 1800, 51 °C")


def test_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.board, machine.ram_bytes, machine.governor) == (None, None, None)
    assert machine.cpu_model
    assert machine.describe().endswith("governor not known, clock not known, temperature not known")


def test_a_calm_machine_gives_no_warning() -> None:
    assert warnings_about(CALM, threads=4) == ()


def test_a_busy_machine_a_lazy_clock_and_too_many_threads_are_said() -> None:
    machine = replace(CALM, load_average=2.5, governor="powersave")
    busy, threads, clock = warnings_about(machine, threads=8)
    assert "load average 2.5 on 4 cores" in busy
    assert "8 threads shared 4 cores" in threads
    assert "'powersave'" in clock


def test_what_happened_meanwhile_is_said() -> None:
    cool = replace(CALM, frequency_mhz=1800.0, temperature_c=50.0)
    hot = replace(CALM, frequency_mhz=1200.0, temperature_c=84.0)
    assert warnings_between(cool, cool, others=0.02) == ()
    others, clock, heat = warnings_between(cool, hot, others=0.4)
    assert "other processes used 40%" in others
    assert "fell from 1800 to 1200 MHz" in clock
    assert "84 °C" in heat
    (throttled,) = warnings_between(cool, replace(cool, throttled=True), others=None)
    assert "firmware held its clock down" in throttled


def test_other_processes_are_what_is_not_this_one(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 1 1 1\n")
    seen = read_cpu_time(tmp_path)
    assert seen is not None
    assert seen.busy_seconds / seen.total_seconds == 0.2
    before = CpuTime(busy_seconds=10, total_seconds=100)
    after = CpuTime(busy_seconds=14, total_seconds=120)
    assert others_share(before, after, own_seconds=1.0) == 0.15
    assert others_share(before, after, own_seconds=9.0) == 0
    assert others_share(None, after, own_seconds=1.0) is None
    assert read_cpu_time(tmp_path / "none") is None
