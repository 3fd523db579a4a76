"""Say why a file is not loaded: it could run any code as the user who loads it."""

from __future__ import annotations

from typing import NoReturn

from edgekit_runtime.errors import UsageError


def refuse_untrusted(where: str, *, what: str, safe: str) -> NoReturn:
    """Raise the error for a file that needs `--trust-pickle`.

    Args:
        where: The file.
        what: What it is, or what is in it that runs code.
        safe: What to give instead.
    """
    raise UsageError(
        f"this is {what}: loading it can run any program with your rights, before anything in it "
        "can be checked",
        where=where,
        fix=f"{safe}; if you made this file yourself or trust who did, add --trust-pickle",
    )
