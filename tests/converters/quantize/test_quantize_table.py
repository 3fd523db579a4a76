"""The comparison with other quantizers: what counts as behind, and that ours are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.quantize.scheme import Scheme
from tests.converters.quantize.subjects import ROOT, Judgement

TOOL = ROOT / "tools" / "quantize_table.py"
PAGE = ROOT / "docs" / "quantization.md"


def behind(wrong: int, rival_wrong: int, *, size: int, rival_size: int) -> bool:
    """Of 1000 samples ours gets the first ones wrong, the other one the last ones."""
    sys.path.insert(0, str(TOOL.parent))
    try:
        from quantize_table import Row
    finally:
        sys.path.remove(str(TOOL.parent))
    at = np.arange(1000)

    def judgement(right: Any, size_bytes: int) -> Judgement:
        return Judgement(right=right, source_accuracy=1.0, agreement=1.0, size_bytes=size_bytes)

    row = Row(
        scheme=Scheme.INT8, suffix=".onnx", rival="another",
        ours=judgement(at >= wrong, size), theirs=judgement(at < 1000 - rival_wrong, rival_size),
    )  # fmt: skip
    return bool(row.is_behind)


@pytest.mark.parametrize(
    ("wrong", "rival_wrong", "rival_size", "expected"),
    [
        (20, 0, 100, True),
        (20, 5, 100, True),
        # Three of a thousand are chance; so are twelve where the other one misses ten.
        (3, 0, 100, False),
        (12, 10, 100, False),
        (0, 20, 100, False),
        # More accurate, and larger.
        (20, 0, 150, False),
    ],
)
def test_what_counts_is_more_than_chance_at_the_same_size(
    wrong: int, rival_wrong: int, rival_size: int, expected: bool
) -> None:
    assert behind(wrong, rival_wrong, size=100, rival_size=rival_size) is expected


def test_the_page_has_a_row_for_every_comparison() -> None:
    table = PAGE.read_text("utf-8").partition("<!-- table -->")[2]
    rows = [line for line in table.splitlines() if line.startswith("|") and "/" in line]
    for scheme in (Scheme.INT8, Scheme.INT8_DYNAMIC):
        for form in ("ONNX", "LiteRT"):
            found = [row for row in rows if f"| {scheme} | {form} |" in row]
            assert len(found) >= 8, (scheme, form)


@pytest.mark.slow
def test_ours_are_not_behind(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_quantizer", reason="what is compared with is not installed")
    environment = {**os.environ, "EDGEKIT_SHARED": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, str(TOOL), "--check"],
        env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fails:") == 0
    assert len([line for line in done.stdout.splitlines() if line.startswith("|")]) >= 23
