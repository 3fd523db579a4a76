"""What must not be in the memory of processes that stay."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Each costs one to twenty megabytes, and only an update, a command or the server needs it.
HEAVY = (
    *("numpy", "onnxruntime", "ai_edge_litert", "tuf", "securesystemslib", "cryptography"),
    *("click", "importlib.metadata", "PIL"),
)


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ("edgekit_agent.supervise, edgekit_agent.transports.mqtt", HEAVY),
        (
            "edgekit_agent.server, edgekit_agent.hosted, edgekit_runtime.engines.tflite",
            (*HEAVY[1:], "sqlite3", "paho", "subprocess", "ssl", "_hashlib"),
        ),
    ],
)
def test_a_process_that_stays_holds_no_more_than_it_needs(
    modules: str, forbidden: tuple[str, ...]
) -> None:
    code = f"import sys, {modules}\nprint([m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
