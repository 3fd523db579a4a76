"""Which version of the agent this is."""

from __future__ import annotations

import importlib.metadata
from typing import Final


def _find() -> str:
    try:
        return importlib.metadata.version("edgekit")
    except importlib.metadata.PackageNotFoundError:
        # Run from a plain copy of the sources, as a single-file package is.
        return "0+unknown"


AGENT_VERSION: Final = _find()
