"""Every official conformance case passes, or is refused by name before a file exists."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converters.conformance.cases import all_cases, generated_cases, stored_cases
from converters.conformance.judge import PASSED, REFUSED, Verdict
from converters.conformance.runner import judge_all
from edgekit_converters.litert.lower import registered

_LEAST_PASSED = 1200
_ROOT = Path(__file__).resolve().parents[3]
# Operators that no kernel of LiteRT and no combination of them can express.
_INEXPRESSIBLE = {
    "ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit",
    "TfIdfVectorizer",
}  # fmt: skip


@pytest.fixture(scope="session")
def verdicts() -> dict[str, Verdict]:
    return {verdict.case: verdict for verdict in judge_all()}


def test_all_cases_are_there() -> None:
    assert len(generated_cases()) >= 1884
    assert len(stored_cases()) >= 82
    names = Counter(case.name for case in all_cases())
    assert max(names.values()) == 1


@pytest.mark.parametrize("name", [case.name for case in all_cases()])
def test_case(name: str, verdicts: dict[str, Verdict]) -> None:
    verdict = verdicts[name]
    assert verdict.outcome in {PASSED, REFUSED}, verdict.reason
    # A refusal says which node, input or output is at fault, and why.
    assert verdict.outcome == PASSED or len(verdict.reason) > 10


def test_most_cases_pass(verdicts: dict[str, Verdict]) -> None:
    outcomes = Counter(verdict.outcome for verdict in verdicts.values())
    assert outcomes[PASSED] >= _LEAST_PASSED, outcomes


def test_every_expressible_operator_is_attempted(verdicts: dict[str, Verdict]) -> None:
    refused = {
        verdict.operator
        for verdict in verdicts.values()
        if "no LiteRT equivalent is known" in verdict.reason
    }
    passed = {verdict.operator for verdict in verdicts.values() if verdict.outcome == PASSED}
    assert {op for op in refused - passed if "." not in op} <= _INEXPRESSIBLE
    assert len(registered()) > 100


def test_the_documentation_says_what_was_found(verdicts: dict[str, Verdict]) -> None:
    tool = _load_tool()
    if not tool.describes(onnx.__version__):
        pytest.skip(f"docs/operators.md is about another onnx than {onnx.__version__}")
    page = (_ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    assert page == tool.render(list(verdicts.values()), onnx.__version__)


def test_a_wrong_result_is_found() -> None:
    from converters.conformance import judge as judging

    case = next(case for case in generated_cases() if case.name == "test_tanh_example")
    assert judging.judge(case).outcome == PASSED
    (given, (wanted,)) = case.data_sets[0]
    off = np.asarray(wanted) + np.float32(0.01)
    spoilt = judging.Case(
        name=case.name, model=case.model, data_sets=((given, (off,)),), rtol=1e-3, atol=1e-7
    )
    assert judging.judge(spoilt).outcome == judging.WRONG


def _load_tool() -> Any:
    spec = importlib.util.spec_from_file_location(
        "operator_docs", _ROOT / "tools" / "operator_docs.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
