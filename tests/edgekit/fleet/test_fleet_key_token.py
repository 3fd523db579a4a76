from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("key_token_cases.py")


def test_keys_in_a_token(tmp_path: Path) -> None:
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
    if shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM is not installed")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--basetemp", str(tmp_path / "cases"), str(CASES)),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # None was skipped, and none is missing.
    assert re.search(r"^7 passed in ", done.stdout, re.MULTILINE), done.stdout
