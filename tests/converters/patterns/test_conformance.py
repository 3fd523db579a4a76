"""No pattern may change what one of ONNX's own conformance cases computes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit_converters.normalise import normalise
from edgekit_converters.patterns.simplify import simplify
from edgekit_runtime.errors import EdgekitError
from tests.converters.patterns.conftest import run, settle

# Judged in a handful of tests: one for each of them would cost more than what it tests.
SHARES = 8


def plain(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The normalised model before any pattern."""
    with monkeypatch.context() as patch:
        patch.setattr("edgekit_converters.normalise.simplify", lambda model, **_: model)
        return normalise(model, where="test")


def agree(first: Any, second: Any) -> bool:
    if not isinstance(first, np.ndarray) or first.dtype.kind in "OSU":
        return bool(np.all(np.asarray(first, object) == np.asarray(second, object)))
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return bool(np.allclose(first, second, rtol=1e-5, atol=1e-6, equal_nan=True))


@pytest.mark.parametrize("share", range(SHARES))
def test_conformance_cases_compute_the_same(share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)[share::SHARES]
    changed, wrong = 0, []
    for case in cases:
        try:
            before = plain(case.model, monkeypatch)
        except EdgekitError:
            continue
        copy = onnx.ModelProto()
        copy.CopyFrom(before)
        after = simplify(copy, settle=settle)
        if after.SerializeToString() == before.SerializeToString():
            continue
        names = [value.name for value in before.graph.input]
        inputs = dict(zip(names, case.data_sets[0][0], strict=False))
        try:
            expected = run(before, inputs)
        except Exception:  # noqa: BLE001, S112 - the engine lacks some operators
            continue
        changed += 1
        computed = run(after, inputs)
        if not all(agree(*pair) for pair in zip(expected, computed, strict=True)):
            wrong.append(case.name)
    assert wrong == []
    assert changed > 10
