"""The table in the docs is that of the shipped profiles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_page_of_devices_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools" / "device_docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
