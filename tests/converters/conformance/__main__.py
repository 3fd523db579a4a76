"""Judge cases by hand: `PYTHONPATH=tests python -m converters.conformance Elu test_resize...`.

Each argument is an operator or a part of a case's name; without one, all cases are judged.
"""

from __future__ import annotations

import sys
from collections import Counter

from converters.conformance.cases import all_cases
from converters.conformance.judge import PASSED
from converters.conformance.runner import judge_all

names = [
    case.name
    for case in all_cases()
    if not sys.argv[1:]
    or any(
        wanted == case.operator or wanted in case.operators or wanted in case.name
        for wanted in sys.argv[1:]
    )
]
verdicts = judge_all(names)
for verdict in verdicts:
    if verdict.outcome != PASSED:
        sys.stdout.write(
            f"{verdict.outcome} {verdict.case} ({verdict.operator}): {verdict.reason}\n"
        )
sys.stdout.write(f"{dict(Counter(verdict.outcome for verdict in verdicts))}\n")
