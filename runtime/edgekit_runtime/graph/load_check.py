"""Find out whether the engine installed here takes a model, in a process of its own.

An engine that stumbles over a model may end its process; the one that asks must not end with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit_runtime.errors import EdgekitError, EnvironmentLackError
from edgekit_runtime.formats import ModelFormat

_TIMEOUT_S: Final = 60.0
# LiteRT repeats itself for each tensor concerned.
_LONGEST_REASON: Final = 300
_ENGINES: Final = {ModelFormat.ONNX: "onnxruntime", ModelFormat.LITERT: "litert"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCheck:
    """The engine's answer.

    Attributes:
        loads: True, False, or None where no engine for the format is installed.
        runtime: The engine that was asked, with its version, where one answered.
        reason: Why not, where it does not load or could not be asked.
    """

    loads: bool | None
    runtime: str
    reason: str = ""


def check_loads(path: Path, model_format: ModelFormat) -> LoadCheck:
    """Open a model with the engine for its format and close it again."""
    runtime = _ENGINES[model_format]
    command = [sys.executable, "-m", "edgekit_runtime.graph.load_check", str(path.resolve())]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return LoadCheck(loads=False, runtime=runtime, reason=f"no answer in {_TIMEOUT_S:g} s")
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        last = lines[-1] if lines else ""
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        return LoadCheck(
            loads=False, runtime=runtime, reason=f"the engine ended with {how} {last}".strip()
        )
    # Engines may write lines of their own before the answer.
    answer = json.loads(done.stdout.decode("utf-8").strip().splitlines()[-1])
    return LoadCheck(
        loads=answer["loads"], runtime=answer["runtime"] or runtime, reason=answer["reason"]
    )


def answer_for(path: Path) -> LoadCheck:
    """Open a model in this process: what the child does."""
    from edgekit_runtime.session import open_session

    try:
        session = open_session(path)
    except EnvironmentLackError as error:
        return LoadCheck(loads=None, runtime="", reason=str(error))
    except EdgekitError as error:
        return LoadCheck(loads=False, runtime="", reason=error.what[:_LONGEST_REASON])
    info = session.runtime
    session.close()
    return LoadCheck(loads=True, runtime=f"{info.name} {info.version}")


if __name__ == "__main__":
    found = answer_for(Path(sys.argv[1]))
    sys.stdout.write(
        json.dumps({"loads": found.loads, "runtime": found.runtime, "reason": found.reason}) + "\n"
    )
