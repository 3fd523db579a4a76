"""Keep other people's libraries off the terminal; their errors still arrive as exceptions."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Final

# What sets a terminal's colours.
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what is printed, logged and warned inside."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def quiet_below_python() -> Iterator[None]:
    """Swallow what native code writes to the terminal past Python; keep it short."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for descriptor, copy in enumerate(kept, start=1):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)


def one_line(error: BaseException, *, limit: int = 300) -> str:
    """An exception's text without line breaks and colours, or its type where it has none."""
    text = " ".join(_COLOURS.sub("", str(error)).split())
    return text[:limit] or type(error).__name__


def root_cause(error: BaseException) -> BaseException:
    """The first of a chain of exceptions: the others say in whose hands it broke."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
