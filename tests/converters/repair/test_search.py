"""The cheapest repair is found, in time, and the best is kept whatever happens."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from edgekit_converters.accuracy import PairedAccuracy, compare_answers, metric_named
from edgekit_converters.graph import read_graph
from edgekit_converters.quantize.plan import QuantizationPlan
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.write_onnx import write_onnx
from edgekit_converters.ranges import RangeMethod, collect_ranges
from edgekit_converters.repair.attempts import Attempt, Candidate, choose, trade_off
from edgekit_converters.repair.search import Judges, SearchLimits, search
from edgekit_converters.repair.sensitivity import sensitivities
from edgekit_converters.repair.simulation import answers, simulate
from edgekit_converters.repair.units import unit_of
from edgekit_runtime.errors import UnsupportedModelError
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
        return 0.0 if plain <= 5 else 0.5

    found = search(
        network.model,
        network.calibration,
        judges(network, drop_of=drop_of, progress=said.append),
        SearchLimits(drop=0.1),
    )
    assert found.met
    assert found.best.candidate.plan.scheme is Scheme.MIXED
    floats = found.best.candidate.plan.keep_float
    graph = read_graph(network.model)
    units = [unit_of(node, graph) for node in graph.nodes if node.name in found.sensitive]
    count = int(found.best.candidate.repairs[-1].removeprefix("float for what ").split()[0])
    chosen = [unit for unit in units if unit[0] in found.sensitive[:count]]
    assert floats == frozenset().union(*chosen)
    tried = [line for line in said if "float for what" in line]
    assert any(f"what {count - 1} layer" in line for line in tried)


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


class Clock:
    """Time that only passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float, result: float) -> Any:
        """A judge that needs so long."""

        def judge(_: Any) -> float:
            self.now += seconds
            return result

        return judge


@pytest.mark.parametrize("seconds", [2.0, 9.0, 31.0])
def test_a_search_keeps_to_its_time(seconds: float) -> None:
    network = trained(spread=2.6)
    clock = Clock()
    said: list[str] = []
    found = search(
        network.model,
        network.calibration,
        judges(network, drop_of=clock.taking(3.0, 0.5), clock=clock, progress=said.append),
        SearchLimits(drop=0.0, seconds=seconds),
    )
    assert found.ending == "time"
    # Plain int8 is tried however little time there is; nothing is begun that would not end.
    assert len(found.attempts) == max(1, int(seconds / 3 - 1e-9))
    assert clock.now - 1000 <= max(seconds, 3.0)
    assert f"(3 of {seconds:.0f} s)" in said[1]
    assert "the time was over" in found.verdict("0 points of top1")


def test_without_a_limit_a_search_ends_when_nothing_is_left() -> None:
    network = trained(spread=2.6)
    clock = Clock()
    found = search(
        network.model,
        network.calibration,
        judges(network, drop_of=clock.taking(3600.0, 0.5), clock=clock),
        SearchLimits(drop=0.0),
    )
    assert found.ending == "exhausted"
    assert len(found.attempts) < 30
    assert found.sensitive


def test_a_model_all_in_float_is_no_quantized_model() -> None:
    network = trained(spread=2.6)

    def drop_of(quantized: Any) -> float:
        return 0.5 if any("Linear" in node.op_type for node in quantized.graph.node) else 0.0

    said: list[str] = []
    found = search(
        network.model,
        network.calibration,
        judges(network, drop_of=drop_of, progress=said.append),
        SearchLimits(drop=0.1),
    )
    assert (found.ending, found.best.drop) == ("exhausted", 0.5)
    assert any("nothing would be left in integers" in line for line in said)
    everything = frozenset(node.name for node in network.model.graph.node)
    with pytest.raises(UnsupportedModelError, match="nothing would be left"):
        search(
            network.model,
            network.calibration,
            judges(network),
            SearchLimits(drop=0.1),
            template=QuantizationPlan(scheme=Scheme.INT8, keep_float=everything),
        )


def test_only_what_holds_is_tried_as_files_and_the_files_count() -> None:
    network = trained(spread=2.6)
    drops = itertools.chain([0.5, 0.01, 0.01], itertools.repeat(0.4))
    tried: list[str] = []
    confirmed = iter([0.3, 0.02])

    def confirm(candidate: Candidate) -> float:
        tried.append(candidate.label)
        return next(confirmed)

    found = search(
        network.model,
        network.calibration,
        judges(network, drop_of=lambda _: next(drops), confirm=confirm),
        SearchLimits(drop=0.1),
    )
    assert [one.drop for one in found.attempts] == [0.5, 0.3, 0.02]
    assert tried == [one.candidate.label for one in found.attempts[1:]]
    assert found.met
    assert "holds with" in found.verdict("10 points of top1")


def test_files_that_an_engine_refuses_lose_everything() -> None:
    network = trained(spread=2.6)
    said: list[str] = []

    def confirm(candidate: Candidate) -> float:
        if not candidate.repairs:
            raise UnsupportedModelError("LiteRT refuses it")
        return 0.01

    found = search(
        network.model,
        network.calibration,
        judges(network, drop_of=lambda _: 0.0, confirm=confirm, progress=said.append),
        SearchLimits(drop=0.1),
    )
    assert [one.drop for one in found.attempts] == [np.inf, 0.01]
    assert "plain min-max: LiteRT refuses it" in said
    assert found.met
    document: Any = found.to_json()
    assert document["attempts"][0]["drop"] is None


def test_the_best_trade_under_a_latency_is_shown_as_a_curve() -> None:
    network = trained(spread=2.6)

    def floats(candidate: Candidate) -> int:
        return len(candidate.plan.keep_float)

    # Each node in float takes a millisecond more, and each layer gives back a hundredth.
    def drop_of(quantized: Any) -> float:
        nodes = quantized.graph.node
        integers = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear"}
        layers = [n for n in nodes if n.op_type in {"Conv", "Gemm"} and n.input[0] in integers]
        return 0.1 + len(layers) / 100

    found = search(
        network.model,
        network.calibration,
        judges(network, drop_of=drop_of, latency_of=lambda c: 10.0 + floats(c)),
        SearchLimits(drop=0.01, max_latency_ms=15.0),
    )
    assert not found.met
    fast = [one for one in found.attempts if one.latency_ms is not None and one.latency_ms <= 15]
    assert found.best.drop == min(one.drop for one in fast) < 0.16
    slower = [one for one in found.attempts if one not in fast]
    # Between the last that is fast enough and the first that is not, nothing was left out.
    counts = [one.candidate.repairs[-1] for one in (found.best, *slower)]
    assert {"float for what 3 layers read", "float for what 4 layers read"} <= set(counts)
    curve = trade_off(found.attempts)
    assert len(curve) > 3
    assert [one.latency_ms for one in curve] == sorted(one.latency_ms or 0 for one in curve)
    assert [one.drop for one in curve] == sorted((one.drop for one in curve), reverse=True)
    document: Any = found.to_json()
    assert [one["latency_ms"] for one in document["trade_off"]] == [c.latency_ms for c in curve]


def test_where_float_is_faster_than_int8_more_of_it_is_tried() -> None:
    network = trained(spread=2.6)
    found = search(
        network.model,
        network.calibration,
        judges(
            network,
            drop_of=lambda _: 0.5,
            latency_of=lambda candidate: 20.0 - len(candidate.plan.keep_float),
        ),
        SearchLimits(drop=0.01, max_latency_ms=14.0),
    )
    assert found.best.latency_ms is not None
    assert found.best.latency_ms <= 14


def test_the_users_range_method_comes_first() -> None:
    network = trained(spread=2.6)
    found = search(
        network.model,
        network.calibration,
        judges(network, drop_of=lambda _: 0.5),
        SearchLimits(drop=0.0),
        method=RangeMethod.PERCENTILE,
    )
    labels = [one.candidate.label for one in found.attempts]
    assert labels[0] == "percentile ranges"
    assert sum("min-max" in label for label in labels) == 1


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


def test_the_worst_layers_are_those_that_read_what_was_broken() -> None:
    network, pairs = broken(outlier=1.0)
    plan = plan_of(collect_ranges(network.model, network.calibration))
    found = sensitivities(network.model, plan, network.evaluation[:1])
    assert {one.node for one in found[:2]} == {second for _, second in pairs}
    assert found[1].noise > 10 * found[2].noise
    assert [one.noise for one in found] == sorted((one.noise for one in found), reverse=True)


@pytest.mark.parametrize("field", ["wide", "keep_float"])
def test_a_layer_reads_finer_values_only_together_with_their_makers(field: str) -> None:
    network, pairs = broken(outlier=1.0)
    plan = plan_of(collect_ranges(network.model, network.calibration), scheme=Scheme.MIXED)
    graph = read_graph(network.model)
    readers = [node for node in graph.nodes if node.name in {second for _, second in pairs}]
    units = [unit_of(node, graph) for node in readers]
    assert units == [(second, first) for first, second in pairs]

    def drop_with(names: frozenset[str]) -> float:
        found = simulate(network.model, dataclasses.replace(plan, **{field: names}))
        return measured(network, found).drop

    assert drop_with(frozenset(node.name for node in readers)) > 0.2
    assert drop_with(frozenset().union(*units)) < 0.01


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


def test_without_a_latency_layers_in_8_bits_are_the_cheap_ones() -> None:
    wide = QuantizationPlan(scheme=Scheme.MIXED, wide=frozenset({"a"}))
    smaller = Attempt(
        candidate=Candidate(model=None, plan=wide), drop=0.0, size_bytes=10, latency_ms=None
    )
    assert choose([smaller, attempt(0.0, 20)], 0.01).size_bytes == 20
