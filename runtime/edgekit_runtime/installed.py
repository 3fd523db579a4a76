"""Which version of a distribution is installed, told from the names of folders.

`importlib.metadata` says the same, and keeps 4 MB in memory for it: too much for a small device.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def installed_version(distribution: str) -> str:
    """The version of an installed distribution; empty if it is not installed.

    Args:
        distribution: Its name, as pip knows it.
    """
    wanted = _normal(distribution)
    for entry in sys.path:
        try:
            folders = [path.name for path in Path(entry or ".").iterdir()]
        except OSError:
            continue
        for folder in folders:
            name, _, version = folder.removesuffix(".dist-info").partition("-")
            if folder.endswith(".dist-info") and version and _normal(name) == wanted:
                return version
    return ""


def _normal(name: str) -> str:
    # https://packaging.python.org/en/latest/specifications/name-normalization/
    return re.sub(r"[-_.]+", "-", name).lower()
