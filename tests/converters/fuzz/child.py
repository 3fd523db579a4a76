"""Run an importer on files of any content in a process of its own, and see how it ends.

Native code may end its process: the test that looks for that must survive it. A child serves many
files; it is started again after each that it did not survive.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

# An import takes milliseconds; on a machine under load, a second.
DEADLINE_S: Final = 120.0
# What a small model may need at most, address space of the engines included.
_MEMORY_BYTES: Final = 8 << 30
_STACK_CHARACTERS: Final = 3000

Importer = Callable[[Path], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one file went.

    Attributes:
        kind: "taken", "refused" (an `EdgekitError`), "fault" (any other error), "crash" or "hang".
        text: What was said.
    """

    kind: str
    text: str

    @property
    def good(self) -> bool:
        """Whether that is how a file of unknown content may end."""
        return self.kind in {"taken", "refused"}


class Child:
    """A process that imports one file after the other."""

    def __init__(self, importer: str, *, deadline_s: float = DEADLINE_S) -> None:
        """Args: `importer` is the name of one in `converters.fuzz.importers`."""
        self._importer = importer
        self._deadline_s = deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        self._log.close()

    def run(self, path: Path) -> Outcome:
        """Import one file."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(f"{path}\n".encode())
        process.stdin.flush()
        content = b""
        while not content.endswith(b"\n"):
            if not select.select([self._answers], [], [], self._deadline_s)[0]:
                self._stop()
                return Outcome(kind="hang", text=f"no answer in {self._deadline_s:g} s")
            part = os.read(self._answers, 1 << 16)
            if not part:
                code = process.wait()
                self._stop()
                self._log.seek(0)
                said = self._log.read()[-_STACK_CHARACTERS:].decode("utf-8", "replace")
                return Outcome(kind="crash", text=f"the process ended with {code}: {said}")
            content += part
        answer = json.loads(content)
        return Outcome(kind=answer["kind"], text=answer["text"])

    def _start(self) -> subprocess.Popen[bytes]:
        self._answers, theirs = os.pipe()
        self._log.seek(0)
        self._log.truncate()
        tests = str(Path(__file__).parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "converters.fuzz.child",
             self._importer, str(theirs)],
            stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, pass_fds=[theirs],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])},
        )  # fmt: skip
        os.close(theirs)
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            os.close(self._answers)
        self._process = None


def _serve(importer: Importer, answers: int) -> None:
    from edgekit_runtime.errors import EdgekitError

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        try:
            answer = {"kind": "taken", "text": importer(Path(line.rstrip("\n")))}
        except EdgekitError as error:
            whole = error.what and error.where
            answer = {"kind": "refused" if whole else "fault", "text": str(error)}
        except Exception:  # noqa: BLE001 - what is looked for
            answer = {"kind": "fault", "text": traceback.format_exc()[-_STACK_CHARACTERS:]}
        os.write(answers, (json.dumps(answer) + "\n").encode())


def _main() -> None:
    from converters.fuzz.importers import IMPORTERS

    importers: Mapping[str, Importer] = IMPORTERS
    _serve(importers[sys.argv[1]], int(sys.argv[2]))


if __name__ == "__main__":
    _main()
