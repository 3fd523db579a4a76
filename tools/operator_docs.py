"""Write `docs/operators.md`: what becomes of ONNX's conformance cases, operator by operator.

Run: `python tools/operator_docs.py [--check]`
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operators.md"
# The cases and their judge are part of the tests.
sys.path.insert(0, str(ROOT / "tests"))

from converters.conformance.judge import PASSED, REFUSED, Verdict  # noqa: E402

HEAD = """# ONNX operators in LiteRT

Written by `make docs`; `make check` fails when it is out of date. Every official conformance case
that the `onnx` package ships goes through the converter exactly as it is given, inputs as inputs
and in ONNX's own order of axes, and then through LiteRT. A case *passed* if every output is within
the case's own tolerance. It was *refused* if the converter named what LiteRT cannot express
before any file existed. No case may be wrong, and no file may be one that LiteRT refuses.

"""
_LONGEST_REASON = 220


def main() -> int:
    """Write or check the page; returns the exit code."""
    import onnx

    from converters.conformance.runner import judge_all

    check = "--check" in sys.argv[1:]
    if check and not describes(onnx.__version__):
        print(f"{PAGE.name} is about another onnx than {onnx.__version__}: not checked")
        return 0
    text = render(judge_all(), onnx.__version__)
    if not check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.name} is out of date: run `make docs`", file=sys.stderr)
        return 1
    return 0


def describes(version: str) -> bool:
    """Whether the page is about the cases of this version of onnx."""
    return PAGE.exists() and f"onnx {version}:" in PAGE.read_text(encoding="utf-8")


def render(verdicts: Sequence[Verdict], version: str) -> str:
    """The page."""
    by_operator: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_operator[verdict.operator].append(verdict)
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    rest = len(verdicts) - outcomes[PASSED] - outcomes[REFUSED]
    lines = [
        f"onnx {version}: {len(verdicts)} cases, {outcomes[PASSED]} passed, "
        f"{outcomes[REFUSED]} refused, {rest} wrong or unusable.",
        "",
        "| operator | cases | passed | refused |",
        "|---|---:|---:|---:|",
    ]
    for operator in sorted(by_operator, key=_order):
        found = Counter(verdict.outcome for verdict in by_operator[operator])
        lines.append(f"| {operator} | {sum(found.values())} | {found[PASSED]} | {found[REFUSED]} |")
    lines += ["", "## Refused cases", ""]
    for operator in sorted(by_operator, key=_order):
        refused = [verdict for verdict in by_operator[operator] if verdict.outcome == REFUSED]
        if refused:
            lines += [f"### {operator}", ""]
            lines += [f"- `{verdict.case}`: {_reason(verdict)}" for verdict in refused]
            lines.append("")
    return HEAD + "\n".join(lines).rstrip() + "\n"


def _order(operator: str) -> tuple[bool, str]:
    """ONNX's own domain first."""
    return "." in operator, operator.lower()


def _reason(verdict: Verdict) -> str:
    reason = re.sub(r"^\d+ operator\(s\) cannot be converted to LiteRT: ", "", verdict.reason)
    # Written-out definitions have long inner names that say the case's name once more.
    reason = re.sub(rf"\w*_?{re.escape(verdict.case)}(_function)?_", "", reason)
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[:_LONGEST_REASON].rsplit(' ', 1)[0]} ..."
    return reason.replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    sys.exit(main())
