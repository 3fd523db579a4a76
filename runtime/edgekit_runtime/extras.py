"""Optional packages: import one, or say the exact command that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType

from edgekit_runtime.errors import EnvironmentLackError


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: The dotted name to import.
        extra: The extra of the `edgekit` distribution that brings it.

    Raises:
        EnvironmentLackError: If it is not installed; the fix is the command that installs it.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise EnvironmentLackError(
            f"this needs the Python package {package!r}, which is not installed",
            where=f"extra {extra!r}",
            fix=f'pip install "edgekit[{extra}]"',
        ) from error
