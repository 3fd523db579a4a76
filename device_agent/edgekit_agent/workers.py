"""Short-lived processes for what only an update needs: their memory goes when they do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from edgekit_agent.doors import describe_exit
from edgekit_runtime.errors import VerificationError

_MOST_OUTPUT_BYTES: Final = 64 << 20


def run_worker(
    module: str, plan: Callable[[int], str], *, stdin: bytes, seconds: float, task: str
) -> bytes:
    """Run a module of ours as a process, and wait for what it prints.

    Args:
        module: Run as `python -m`.
        plan: Gives the one argument, from the descriptor of the life line that the process
            inherits: it ends when this process does.
        stdin: What it reads.
        seconds: When it is killed.
        task: What it does, for errors: "verifying the order".

    Raises:
        VerificationError: If it fails, or takes too long.
    """
    life_read, life_write = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, plan(life_read)],
            input=stdin,
            stdout=subprocess.PIPE,
            pass_fds=(life_read,),
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise VerificationError(f"{task} took longer than {seconds:g} s") from error
    finally:
        os.close(life_read)
        os.close(life_write)
    if done.returncode != 0:
        raise VerificationError(f"{task} failed: {describe_exit(done.returncode)}")
    if len(done.stdout) > _MOST_OUTPUT_BYTES:
        raise VerificationError(f"{task} said more than it may")
    return done.stdout
