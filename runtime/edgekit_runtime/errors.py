"""Every error that edgekit raises on purpose: what went wrong, where, and how to mend it.

Libraries raise these and never print or exit; a command line catches `EdgekitError` once.
"""

from __future__ import annotations

from typing import ClassVar


class EdgekitError(Exception):
    """Something edgekit refused or could not do.

    Args:
        what: One sentence that says what is wrong.
        where: The file, node, field or address concerned.
        fix: What the reader can do about it.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        """The same three parts on one line, for logs."""
        parts = [self.what]
        if self.where:
            parts.append(f"[{self.where}]")
        if self.fix:
            parts.append(f"Fix: {self.fix}")
        return " ".join(parts)

    def as_json(self) -> dict[str, object]:
        """The error as a JSON object, for `--json`."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "fix": self.fix,
            "exit_code": self.exit_code,
        }


class UsageError(EdgekitError):
    """The call cannot work as it was made: a missing file, a wrong option, a bad value."""


class GateFailedError(EdgekitError):
    """A check that the user asked for, or that protects them, did not hold."""

    exit_code = 1


class UnsupportedModelError(EdgekitError):
    """The model is not one, is damaged, or uses something that edgekit cannot handle."""

    exit_code = 3


class EnvironmentLackError(EdgekitError):
    """The machine lacks something: a package, a permission, a free port, a program."""

    exit_code = 4


class InvalidBundleError(UnsupportedModelError):
    """A bundle, its manifest or its index breaks the format."""


class VerificationError(GateFailedError):
    """Bytes from outside did not prove what they claim: a signature, a hash, a version, a size."""
