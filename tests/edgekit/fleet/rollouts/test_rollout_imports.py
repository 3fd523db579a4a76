from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("tuf", "paho", "amqtt", "cryptography", "securesystemslib", "numpy", "sqlalchemy")


@pytest.mark.parametrize(
    "module", ["rollouts.driving", "experiments.ab", "telemetry.watching", "simulation.trial"]
)
def test_nothing_heavy_is_loaded_before_it_is_used(module: str) -> None:
    code = f"import sys, edgekit.fleet.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".", maxsplit=1)[0] for name in done.stdout.split()}
    assert not loaded.intersection(HEAVY)
