"""Updates that end by `kill -9`: a process that forks one for each line that it is told.

Run as `python -m tests.simulators.killed_updates FLEET`, the name of a pickled fleet. A line is a
folder and a number: in a fork, the folder's device updates to version 2 and kills itself at that
change of its disk. The answer is how the fork ended. A process without threads may fork; a test
runner may not.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace, TracebackType

from tests.simulators.signed_fleet import SignedFleet
from tests.simulators.update_engine import FailingDisk, UpdateEngine

_ROOT = Path(__file__).resolve().parents[2]


class Killer:
    """The other side of it; use it in a `with` statement."""

    def __init__(self, folder: Path, fleet: SignedFleet) -> None:
        path = folder / "fleet.pickle"
        # Keys are not needed to fetch what was signed.
        path.write_bytes(
            pickle.dumps(SimpleNamespace(released=fleet.released, chunks=fleet.chunks))
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.simulators.killed_updates", str(path)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Killer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=60)

    def update(self, folder: Path, *, kill_at: int) -> bool:
        """Update, and whether it was killed on the way."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{kill_at} {folder}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer in ("0", str(-signal.SIGKILL)), answer
        return answer != "0"


def main() -> None:
    fleet = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 - our own test wrote it
    for line in sys.stdin:
        number, folder = line.rstrip("\n").split(" ", 1)
        child = os.fork()
        if child == 0:
            update(Path(folder), fleet, int(number))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def update(folder: Path, fleet: SignedFleet, kill_at: int) -> None:
    disk = FailingDisk(
        folder,
        cut_at=kill_at,
        tear=False,
        on_cut=lambda: os.kill(os.getpid(), signal.SIGKILL),
    )
    with disk.attached():
        engine = UpdateEngine(folder, fleet)
        engine.start()
        engine.order("2.0.0", order_version=2)


if __name__ == "__main__":
    main()
