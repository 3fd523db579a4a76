"""Random models through the converter and LiteRT, against onnxruntime node by node."""

from __future__ import annotations

from collections import Counter

import pytest

from converters.random_graphs.grow import FAMILIES, grow
from converters.random_graphs.judge import FAULTS, PASSED, as_text, judge
from converters.random_graphs.shrink import shrink
from edgekit_converters.litert.layout import BorderLayout

_SEEDS = 30
_MIXED_SEEDS = 150


def _check(seed: int, families: tuple[str, ...], layout: BorderLayout) -> str:
    """How the model of a seed came out; where it is at fault, the test fails with the model."""
    draft = grow(seed, families=families)
    verdict = judge(draft, layout=layout)
    if verdict.outcome in FAULTS:
        part = shrink(draft, lambda d: judge(d, layout=layout).outcome == verdict.outcome)
        reason = judge(part, layout=layout).reason
        pytest.fail(f"seed {seed} is {verdict.outcome}: {reason}\n{as_text(part)}")
    return verdict.outcome


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_one_family(family: str) -> None:
    outcomes = Counter(_check(seed, (family,), BorderLayout.KEEP) for seed in range(_SEEDS))
    # Most models convert: a generator that makes others tests nothing.
    assert outcomes[PASSED] >= _SEEDS / 2, outcomes


@pytest.mark.parametrize("layout", list(BorderLayout))
def test_models_of_all_kinds(layout: BorderLayout) -> None:
    outcomes = Counter(_check(seed, (), layout) for seed in range(1000, 1000 + _MIXED_SEEDS))
    assert outcomes[PASSED] >= _MIXED_SEEDS * 0.8, outcomes


def test_one_seed_gives_one_model() -> None:
    assert as_text(grow(7)) == as_text(grow(7))
