"""Judge by hand: `PYTHONPATH=tests python -m converters.random_graphs START COUNT [options]`.

Each seed is judged in a child process, so that one that ends the engine is one finding more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter

from converters.random_graphs.grow import FAMILIES, grow
from converters.random_graphs.judge import FAULTS, PASSED, as_text, judge
from converters.random_graphs.shrink import shrink
from edgekit_converters.litert.layout import BorderLayout

_CRASHED = "crashed"
_AT, _OUTCOME = "\0at ", "\0outcome "


def main(arguments: list[str]) -> None:
    """Judge all seeds, and print what is at fault and how many came out how."""
    options = _parser().parse_args(arguments)
    if options.child:
        _judge_all(options)
        return
    outcomes: Counter[str] = Counter()
    seed, end = options.start, options.start + options.count
    while seed < end:
        command = [sys.executable, *(f"-W{w}" for w in sys.warnoptions), "-m",
                   "converters.random_graphs", str(seed), str(end - seed), "--child",
                   *(a for a in arguments if a.startswith("--") or a in FAMILIES)]  # fmt: skip
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in child.stdout or ():
            if line.startswith(_AT):
                seed = int(line.removeprefix(_AT))
            elif line.startswith(_OUTCOME):
                outcomes[line.removeprefix(_OUTCOME).strip()] += 1
            else:
                sys.stdout.write(line)
                sys.stdout.flush()
        if child.wait():
            sys.stdout.write(f"{_CRASHED} {seed}\n")
            outcomes[_CRASHED] += 1
        seed += 1
    sys.stdout.write(f"{dict(outcomes)}\n")


def _judge_all(options: argparse.Namespace) -> None:
    layout = BorderLayout.NHWC if options.nhwc else BorderLayout.KEEP
    for seed in range(options.start, options.start + options.count):
        sys.stdout.write(f"{_AT}{seed}\n")
        sys.stdout.flush()
        draft = grow(seed, families=tuple(options.family))
        verdict = judge(draft, layout=layout)
        sys.stdout.write(f"{_OUTCOME}{verdict.outcome}\n")
        told = verdict.outcome in FAULTS or (options.all and verdict.outcome != PASSED)
        if told or options.show:
            names = " ".join(node.op_type for node in draft.nodes)
            sys.stdout.write(
                f"{verdict.outcome} {seed} opset {draft.opset} [{names}]: {verdict.reason}\n"
            )
        if options.show:
            sys.stdout.write(as_text(draft) + "\n")
        if options.shrink and verdict.outcome in FAULTS:
            part = shrink(draft, lambda d, o=verdict.outcome: judge(d, layout=layout).outcome == o)
            sys.stdout.write(f"{judge(part, layout=layout).reason}\n{as_text(part)}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m converters.random_graphs")
    parser.add_argument("start", type=int)
    parser.add_argument("count", type=int, nargs="?", default=1)
    parser.add_argument("--family", action="append", choices=FAMILIES, default=[])
    parser.add_argument("--nhwc", action="store_true", help="ask for channels last at the border")
    parser.add_argument("--all", action="store_true", help="tell of all that did not pass")
    parser.add_argument("--show", action="store_true", help="print every model")
    parser.add_argument("--shrink", action="store_true", help="print the smallest part at fault")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
