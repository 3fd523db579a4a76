"""What callers of the control plane's memory decide by."""

from __future__ import annotations

from edgekit_runtime.errors import UsageError


class NotFoundError(UsageError):
    """There is nothing of that name."""
