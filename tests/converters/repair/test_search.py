"""The cheapest repair is found, in time, and the best is kept whatever happens."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from edgekit_converters.accuracy import PairedAccuracy, compare_answers, metric_named
from edgekit_converters.quantize.plan import QuantizationPlan
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.write_onnx import write_onnx
from edgekit_converters.ranges import collect_ranges
from edgekit_converters.repair.attempts import Attempt, Candidate, choose, trade_off
from edgekit_converters.repair.search import Judges, SearchLimits, search
from edgekit_converters.repair.sensitivity import sensitivities
from edgekit_converters.repair.simulation import answers, simulate
from edgekit_runtime.session import open_session
from tests.converters.repair.chain_models import plan_of
from tests.converters.repair.small_networks import Trained, broken, trained

TOP1 = metric_named("top1")


def measured(network: Trained, quantized: Any) -> PairedAccuracy:
    before = answers(network.model, network.evaluation)
    after = answers(quantized, network.evaluation)
    return compare_answers(TOP1, before, after, network.labels)


def naive_drop(network: Trained) -> float:
    plan = plan_of(collect_ranges(network.model, network.calibration))
    return measured(network, simulate(network.model, plan)).drop


def judges(network: Trained, **more: Any) -> Judges:
    ticks = itertools.count()
    return Judges(
        **{
            "drop_of": lambda quantized: measured(network, quantized).drop,
            "clock": lambda: float(next(ticks)),
            **more,
        }
    )


def written_drop(network: Trained, found: Candidate, folder: Any) -> float:
    """Of the file that is written in the end, in the engine's plain kernels."""
    path = folder / "int8.onnx"
    write_onnx(found.model, found.plan, path, where="network")
    session = open_session(path, reference_kernels=True)
    parts = [session.run(batch)["y"] for batch in network.evaluation]
    session.close()
    before = answers(network.model, network.evaluation)
    return compare_answers(TOP1, before, {"y": np.concatenate(parts)}, network.labels).drop


def test_a_trained_depthwise_network_keeps_its_accuracy_at_full_int8(tmp_path: Any) -> None:
    network = trained(spread=2.6)
    assert naive_drop(network) >= 0.03
    found = search(network.model, network.calibration, judges(network), SearchLimits(drop=0.01))
    assert found.met
    assert found.best.drop <= 0.01
    plan = found.best.candidate.plan
    assert (plan.scheme, plan.keep_float, plan.wide) == (Scheme.INT8, frozenset(), frozenset())
    assert written_drop(network, found.best.candidate, tmp_path) <= 0.01


def test_a_network_built_to_break_int8_keeps_the_budget(tmp_path: Any) -> None:
    network, _ = broken()
    assert naive_drop(network) > 0.2
    found = search(network.model, network.calibration, judges(network), SearchLimits(drop=0.005))
    assert found.met
    assert found.best.candidate.plan.scheme is Scheme.INT8
    assert "equalized channels" in found.best.candidate.repairs
    assert written_drop(network, found.best.candidate, tmp_path) <= 0.005


def test_plain_int8_is_kept_where_it_does() -> None:
    network = trained(spread=0.0)
    found = search(network.model, network.calibration, judges(network), SearchLimits(drop=0.02))
    assert found.met
    assert len(found.attempts) == 1
    assert found.best.candidate.label == "plain min-max"


def test_as_few_layers_as_do_get_16_bits_or_float() -> None:
    network = trained(spread=2.6)
    said: list[str] = []

    def drop_of(quantized: Any) -> float:
        operators = [node.op_type for node in quantized.graph.node]
        plain = operators.count("QuantizeLinear")
        return 0.0 if plain <= 8 else 0.5

    found = search(
        network.model,
        network.calibration,
        judges(network, drop_of=drop_of, progress=said.append),
        SearchLimits(drop=0.1),
    )
    assert found.met
    assert found.best.candidate.plan.scheme is Scheme.MIXED
    floats = found.best.candidate.plan.keep_float
    assert set(floats) == set(found.sensitive[: len(floats)])
    tried = {len(one.candidate.plan.keep_float) for one in found.attempts}
    assert len(floats) - 1 in tried
    assert any("float for" in line for line in said)


def test_an_unreachable_budget_keeps_the_best() -> None:
    network = trained(spread=2.6)
    drops = itertools.chain([0.5, 0.2, 0.4], itertools.repeat(0.3))
    found = search(
        network.model,
        network.calibration,
        judges(network, drop_of=lambda _: next(drops)),
        SearchLimits(drop=0.0),
    )
    assert (found.met, found.ending, found.best.drop) == (False, "exhausted", 0.2)
    assert found.to_json()["ending"] == "exhausted"


def test_the_time_ends_a_search() -> None:
    network = trained(spread=2.6)
    ticks = iter([0.0, 1.0, 2.0, 99.0, 99.0, 99.0])
    found = search(
        network.model,
        network.calibration,
        judges(network, drop_of=lambda _: 0.5, clock=lambda: next(ticks)),
        SearchLimits(drop=0.0, seconds=10),
    )
    assert found.ending == "time"
    assert len(found.attempts) == 2


def test_ctrl_c_keeps_the_best_so_far() -> None:
    network = trained(spread=2.6)
    calls = itertools.count()

    def interrupted(_: Any) -> float:
        number = next(calls)
        if number == 2:
            raise KeyboardInterrupt
        return 0.5 - 0.1 * number

    limits = SearchLimits(drop=0.0)
    found = search(network.model, network.calibration, judges(network, drop_of=interrupted), limits)
    assert (found.ending, found.best.drop) == ("interrupted", 0.4)

    def at_once(_: Any) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(network.model, network.calibration, judges(network, drop_of=at_once), limits)


def test_what_the_user_fixed_stays() -> None:
    network = trained(spread=0.0)
    template = QuantizationPlan(
        scheme=Scheme.INT8, keep_float=frozenset({network.model.graph.node[0].name}), io="int8"
    )
    found = search(
        network.model,
        network.calibration,
        judges(network),
        SearchLimits(drop=0.02),
        template=template,
    )
    plan = found.best.candidate.plan
    assert (plan.keep_float, plan.io) == (template.keep_float, "int8")


def test_the_worst_layers_are_those_around_what_was_broken() -> None:
    network, pairs = broken()
    plan = plan_of(collect_ranges(network.model, network.calibration))
    found = sensitivities(network.model, plan, network.evaluation[:1])
    assert {one.node for one in found[:4]} == {name for pair in pairs for name in pair}
    assert [one.noise for one in found] == sorted((one.noise for one in found), reverse=True)


def attempt(drop: float, size: int, latency: float | None = None) -> Attempt:
    candidate = Candidate(model=None, plan=QuantizationPlan(scheme=Scheme.INT8))
    return Attempt(candidate=candidate, drop=drop, size_bytes=size, latency_ms=latency)


def test_the_cheapest_within_the_budget_is_chosen() -> None:
    small, good, slow = attempt(0.3, 10, 1.0), attempt(0.01, 20, 2.0), attempt(0.0, 20, 9.0)
    tried = [slow, small, good]
    assert choose(tried, 0.02) is good
    assert choose(tried, 0.5) is small
    assert choose(tried, 0.005) is slow
    assert choose(tried, 0.005, max_latency_ms=5.0) is good
    assert choose([slow], 0.005, max_latency_ms=5.0) is slow
    assert trade_off([*tried, attempt(0.4, 30, 8.0)]) == (small, good, slow)
