"""Write `docs/devices.md` from the shipped profiles, or check that it is what they say.

Run: `python tools/device_docs.py [--check]`
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgekit_benchmarks.profile import Profile, list_profiles

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "devices.md"
METHOD = ROOT / "tools" / "device_docs_method.md"
HEAD = """# Devices, and how well latencies are predicted for them

Written by `python tools/device_docs.py` from the shipped profiles; a test fails when it is out of
date. `edgekit profiles check` computes the table again from the measurements.

Every error is that of predictions for a family of models (all MobileNetV2, all ResNet, ...) of
which no board's prices had seen any; where a combination has one family, a single model was left
out. "In band" is the share of left-out latencies inside the band for nine in ten. With 5 to
8 models it can only be 100 %, or 80 to 88.

| board | profile | engine | dtype | threads | models | mean error | median | p90 | in band | band |
|---|---|---|---|---|---|---|---|---|---|---|
"""


ESTIMATED = """

*Estimate only*, and labelled so in every prediction, because no measurement of them with
these engines is known. They have the prices of a board with the same core, and the band is wider by
what boards of one core made of each other's prices where both were measured (from 1/1.85 to 1.81
times). They are no part of the family `raspberrypi`: name them. The Raspberry Pi 3B was measured
with Tengine, an engine of which nothing else is known here: seven models took 1.5 to 2.0 times as
long as on the 3B+ with ncnn, inside the bands.

"""


def main() -> int:
    """Write or check the page; returns the exit code."""
    text = render()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.name} is out of date: run `python tools/device_docs.py`", file=sys.stderr)
        return 1
    return 0


def render() -> str:
    """The page."""
    boards = list_profiles()
    lines = [line for board in boards if not board.taken_from for line in table_lines(board)]
    estimated = [
        f"- {board.title} (`{board.name}`): the {board.taken_from}'s prices."
        for board in boards
        if board.taken_from
    ]
    weak = [
        f"- {board.title}: {board.calibrations[0].weak}."
        for board in boards
        if board.calibrations and all(c.weak for c in board.calibrations)
    ]
    return (
        HEAD
        + "\n".join(lines)
        + "\n\nWeak, and labelled so in every prediction:\n\n"
        + "\n".join(weak)
        + ESTIMATED
        + "\n".join(estimated)
        + "\n\n"
        + METHOD.read_text(encoding="utf-8")
    )


def table_lines(board: Profile) -> list[str]:
    """One line for each calibration of a board."""
    return [
        f"| {board.title} | `{board.name}` | {c.runtime} {c.runtime_version} | {c.dtype} "
        f"| {c.threads} | {c.measurements} | {c.lofo_mape:.1%} | {c.lofo_median:.1%} "
        f"| {c.lofo_p90:.1%} | {c.coverage:.0%} | / {c.band:.2f} to x {c.band:.2f} |"
        for c in board.calibrations
    ]


if __name__ == "__main__":
    sys.exit(main())
