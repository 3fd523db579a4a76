"""How long fuzzing takes: some seconds, the same examples each time, or as long as is asked for.

    EDGEKIT_FUZZ_EXAMPLES=200000 pytest tests/converters/fuzz

tries so many random examples of each kind. A file that an importer does not survive is named in
the failure; make it small, and give it a test in `test_found.py`, named after what it shows.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, settings

from converters.fuzz.child import Child

_ASKED: Final = os.environ.get("EDGEKIT_FUZZ_EXAMPLES")


def fuzzing(examples: int) -> settings:
    """Settings for a test of so many examples in CI."""
    return settings(
        max_examples=int(_ASKED) if _ASKED else examples,
        derandomize=not _ASKED,
        database=None,
        deadline=None,
        # Each example is a whole import: explaining a failure would repeat it hundreds of times.
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=bool(_ASKED),
    )


def assert_survives(child: Child, content: bytes, suffix: str) -> None:
    """Import a file of this content; if that ends badly, keep the file and say where."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        path.write_bytes(content)
        outcome = child.run(path)
    if not outcome.good:
        kept = Path(tempfile.gettempdir()) / f"edgekit-fuzz-{outcome.kind}{suffix}"
        kept.write_bytes(content)
        raise AssertionError(f"{outcome.kind} on {kept}: {outcome.text}")
