"""Judge many cases in child processes, so that a case that kills the engine is one finding more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from converters.conformance.judge import Verdict

CRASHED = "crashed"
_TESTS = Path(__file__).resolve().parents[2]
_PROCESSES = 2


def judge_all(names: Sequence[str] | None = None) -> list[Verdict]:
    """Judge cases by name, all of them if none is named, in the order of all cases."""
    from converters.conformance.cases import all_cases

    operators = {case.name: case.operator for case in all_cases()}
    wanted = list(operators) if names is None else list(names)
    shares = [wanted[start::_PROCESSES] for start in range(_PROCESSES)]
    workers = [_Worker(share) for share in shares if share]
    found: dict[str, Verdict] = {}
    for worker in workers:
        found.update(worker.collect(operators))
    return [found[name] for name in wanted]


class _Worker:
    """One share of the cases; started again behind a case that ended it."""

    def __init__(self, names: list[str]) -> None:
        self._left = names
        self._process = self._start()

    def collect(self, operators: dict[str, str]) -> dict[str, Verdict]:
        found: dict[str, Verdict] = {}
        while True:
            output, errors = self._process.communicate()
            for line in output.splitlines():
                verdict = Verdict(**json.loads(line))
                found[verdict.case] = verdict
            self._left = [name for name in self._left if name not in found]
            if not self._left:
                return found
            victim = self._left.pop(0)
            found[victim] = Verdict(
                case=victim,
                operator=operators[victim],
                outcome=CRASHED,
                reason=f"exit code {self._process.returncode}: {errors.strip()[-300:]}",
            )
            if not self._left:
                return found
            self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "converters.conformance.runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=_TESTS,
            env={**os.environ, "PYTHONPATH": str(_TESTS)},
        )
        assert process.stdin is not None
        process.stdin.write("\n".join(self._left) + "\n")
        process.stdin.close()
        process.stdin = None
        return process


def judge_named(names: Iterable[str]) -> None:
    """Print one verdict a line, as JSON, as soon as it is known."""
    from converters.conformance.cases import all_cases
    from converters.conformance.judge import judge

    cases = {case.name: case for case in all_cases()}
    for name in names:
        # The engines write to standard output too; what is ours goes to the one that was there.
        sys.__stdout__.write(json.dumps(judge(cases[name]).to_json()) + "\n")  # type: ignore[union-attr]
        sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    judge_named(line.strip() for line in sys.stdin if line.strip())
