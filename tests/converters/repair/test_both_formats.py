"""What the search finds holds in the files of both formats, as their engines run them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit_converters.accuracy import compare_answers, metric_named
from edgekit_converters.diagnosis import Subject, diagnose
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.ranges import collect_ranges
from edgekit_converters.repair.attempts import Candidate, SearchResult
from edgekit_converters.repair.search import Judges, SearchLimits, search
from edgekit_converters.repair.simulation import answers
from edgekit_converters.repair.written import confirmed_drop, written_answers
from edgekit_runtime.errors import UsageError
from edgekit_runtime.formats import ModelFormat
from tests.converters.repair.chain_models import plan_of
from tests.converters.repair.small_networks import Trained, broken, trained

TOP1 = metric_named("top1")
FORMATS = tuple(ModelFormat)


def lost(network: Trained, found: Any) -> float:
    before = answers(network.model, network.evaluation)
    return compare_answers(TOP1, before, found, network.labels).drop


def naive(network: Trained) -> Candidate:
    plan = plan_of(collect_ranges(network.model, network.calibration))
    return Candidate(model=network.model, plan=plan)


def searched(network: Trained, drop: float) -> SearchResult:
    def judge(found: Any) -> float:
        return lost(network, found)

    ticks = itertools.count()
    return search(
        network.model,
        network.calibration,
        Judges(
            drop_of=lambda quantized: judge(answers(quantized, network.evaluation)),
            confirm=confirmed_drop(FORMATS, network.evaluation, judge),
            clock=lambda: float(next(ticks)),
        ),
        SearchLimits(drop=drop),
    )


def written_drops(network: Trained, candidate: Candidate) -> list[float]:
    return [
        lost(network, written_answers(candidate, target, network.evaluation)) for target in FORMATS
    ]


def test_a_trained_depthwise_network_stays_within_a_point_at_full_int8() -> None:
    network = trained(spread=2.6)
    assert min(written_drops(network, naive(network))) >= 0.03
    found = searched(network, 0.01)
    assert found.met
    plan = found.best.candidate.plan
    assert (plan.scheme, plan.keep_float, plan.wide) == (Scheme.INT8, frozenset(), frozenset())
    assert max(written_drops(network, found.best.candidate)) <= 0.01


@pytest.mark.parametrize("apart", [100.0, 1000.0])
def test_a_network_built_to_break_int8_keeps_half_a_point(apart: float) -> None:
    network, pairs = broken(apart=apart)
    plain = naive(network)
    assert min(written_drops(network, plain)) > 0.2
    found = searched(network, 0.005)
    assert found.met
    assert found.best.layers_beyond_int8 == 0
    assert max(written_drops(network, found.best.candidate)) <= 0.005
    named = diagnose(
        network.model, Subject(model=network.model, plan=plain.plan), network.calibration
    ).culprits
    assert {layer.noise.node for layer in named} == {
        network.model.graph.node[0].name,
        *(second for _, second in pairs),
    }


def test_nothing_becomes_worse_where_plain_int8_is_good() -> None:
    network = trained(spread=0.0)
    found = searched(network, 0.005)
    assert found.best.candidate.repairs == ()


def test_the_formats_agree_with_the_simulation() -> None:
    network = trained(spread=2.6)
    candidate = naive(network)
    judged = [written_answers(candidate, target, network.evaluation)["y"] for target in FORMATS]
    classes: list[NDArray[Any]] = [scores.argmax(axis=1) for scores in judged]
    assert np.mean(classes[0] == classes[1]) > 0.95


def test_without_data_there_is_nothing_to_run() -> None:
    network = trained(spread=0.0)
    with pytest.raises(UsageError, match="no data"):
        written_answers(naive(network), ModelFormat.ONNX, [])
