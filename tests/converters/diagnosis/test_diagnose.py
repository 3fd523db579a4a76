"""A diagnosis names the layers that break int8, and why, and no others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit_converters.diagnosis import QuantizationDiagnosis, Subject, diagnose
from edgekit_converters.diagnosis.causes import Cause
from edgekit_converters.graph import read_graph
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.plan import Range
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.ranges import collect_ranges
from edgekit_converters.repair.bias_correction import correct_biases
from edgekit_converters.repair.equalize import equalize
from edgekit_converters.repair.pieces import Pieces
from edgekit_runtime.errors import UsageError
from tests.converters.repair.chain_models import chain_model, images, int8_plan, plan_of
from tests.converters.repair.small_networks import Trained, broken, trained


def plain(network: Trained) -> QuantizationDiagnosis:
    plan = plan_of(collect_ranges(network.model, network.calibration))
    return diagnose(network.model, Subject(model=network.model, plan=plan), network.calibration[:4])


def small(nodes: list[Any], constants: dict[str, NDArray[Any]], channels: int = 2) -> Any:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return normalise(onnx.shape_inference.infer_shapes(model), where="small")


def diagnosed(model: Any, batches: list[dict[str, NDArray[Any]]]) -> QuantizationDiagnosis:
    return diagnose(model, Subject(model=model, plan=int8_plan(model, batches)), batches)


def with_kept(
    model: Any, batches: Sequence[dict[str, NDArray[Any]]], fix: str
) -> QuantizationDiagnosis:
    """After what a fix says was done."""
    kept = frozenset(fix.split()[1::2])
    plan = dataclasses.replace(
        plan_of(collect_ranges(model, batches)), scheme=Scheme.MIXED, keep_float=kept
    )
    return diagnose(model, Subject(model=model, plan=plan), batches)


def test_exactly_the_layers_that_were_built_in_are_named() -> None:
    network, pairs = broken()
    found = diagnose(
        network.model,
        Subject(
            model=network.model,
            plan=plan_of(collect_ranges(network.model, network.calibration)),
        ),
        network.calibration,
    )
    reading = {second for _, second in pairs}
    first = network.model.graph.node[0].name
    # The outlier of the image reaches the second layer too: that is no reason of its own.
    assert {layer.noise.node: layer.findings[0].cause for layer in found.culprits} == {
        **dict.fromkeys(reading, Cause.CHANNELS),
        first: Cause.OUTLIERS,
    }
    inherited = [layer for layer in found.layers if any(f.inherited for f in layer.findings)]
    assert inherited
    assert f"outliers of {network.model.graph.input[0].name}" in inherited[0].findings[0].text
    assert set(found.fixes) == {"--max-accuracy-drop 0.5%", "--range-method percentile"}
    assert found.first_parting is not None
    assert found.first_parting.noise.sqnr_db is not None
    assert found.first_parting.noise.sqnr_db < 15


def test_what_the_findings_say_to_keep_in_float_mends_them() -> None:
    network, pairs = broken(outlier=1.0)
    found = plain(network)
    fixes = [layer.findings[0].fixes[1] for layer in found.culprits]
    assert sorted(fixes) == sorted(f"--keep-float {b} --keep-float {a}" for a, b in pairs)
    mended = with_kept(network.model, network.calibration[:4], " ".join(fixes))
    assert (mended.culprits, mended.first_parting) == ((), None)


def test_a_good_network_has_no_culprits() -> None:
    found = plain(trained(spread=0.0))
    assert (found.first_parting, found.culprits, found.fixes) == (None, (), ())
    assert len(found.layers) == len(trained(spread=0.0).model.graph.node)
    assert all((layer.noise.sqnr_db or 0) > 30 for layer in found.layers)


def test_a_range_that_cuts_is_told() -> None:
    network = trained(spread=0.0)
    plan = plan_of(collect_ranges(network.model, network.calibration))
    name = network.model.graph.node[1].output[0]
    cut = dict(plan.ranges) | {name: Range(low=0.0, high=plan.ranges[name].high / 8)}
    found = diagnose(
        network.model,
        Subject(model=network.model, plan=dataclasses.replace(plan, ranges=cut)),
        network.calibration[:4],
    )
    [finding] = found.culprits[0].findings
    assert (finding.cause, finding.fixes) == (Cause.SATURATED, ("--range-method min-max",))
    assert found.culprits[0].spread is not None
    assert found.culprits[0].spread.clipped_share > 0.01
    assert found.culprits[0].spread.kept_high == cut[name].high


def test_weights_that_do_not_fit_are_told() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 2, 3, 3)).astype(np.float32)
    # A pixel that is always black: its weight matters to nothing but the scale.
    weights[:, 0, 0, 0] = 4000
    model = small([helper.make_node("Conv", ["x", "w"], ["y"], name="only")], {"w": weights})
    batch = rng.normal(size=(4, 2, 4, 4)).astype(np.float32)
    batch[:, 0] = 0
    found = diagnosed(model, [{"x": batch}])
    [culprit] = found.culprits
    assert culprit.findings[0].cause is Cause.WEIGHTS
    assert culprit.findings[0].fixes == ("--keep-float only",)


def test_an_operator_that_needs_finer_steps_is_told() -> None:
    rng = np.random.default_rng(0)
    model = small(
        [
            helper.make_node("Conv", ["x", "w"], ["h"], name="first"),
            helper.make_node("Exp", ["h"], ["y"], name="grows"),
        ],
        {"w": np.ones((3, 2, 1, 1), np.float32)},
    )
    batches = [{"x": rng.uniform(-400, 1, (64, 2, 4, 4)).astype(np.float32)}]
    found = diagnosed(model, batches)
    [culprit] = found.culprits
    assert (culprit.noise.node, culprit.noise.own_sqnr_db) == ("grows", None)
    assert culprit.findings[0].cause is Cause.OPERATOR
    assert culprit.findings[0].fixes == ("--keep-float grows --keep-float first",)
    assert found.first_parting is culprit
    assert with_kept(model, batches, culprit.findings[0].fixes[0]).first_parting is None


def test_a_name_that_a_shell_would_split_is_quoted() -> None:
    weights = np.array([1, -1], np.float32).reshape(1, 2, 1, 1)
    model = small([helper.make_node("Conv", ["x", "w"], ["y"], name="a;b")], {"w": weights})
    batch = np.random.default_rng(0).uniform(100, 101, (4, 2, 4, 4)).astype(np.float32)
    found = diagnosed(model, [{"x": batch}])
    assert found.culprits[0].findings[0].fixes[1] == "--keep-float 'a;b'"


def test_noise_without_a_cause_says_so() -> None:
    # A small difference of large values.
    weights = np.array([1, -1], np.float32).reshape(1, 2, 1, 1)
    model = small([helper.make_node("Conv", ["x", "w"], ["y"], name="apart")], {"w": weights})
    batch = np.random.default_rng(0).uniform(100, 101, (4, 2, 4, 4)).astype(np.float32)
    found = diagnosed(model, [{"x": batch}])
    assert found.culprits[0].findings[0].cause is Cause.UNKNOWN
    assert found.fixes == ("--max-accuracy-drop 0.5%",)


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT16X8])
def test_scaled_channels_are_compared_with_scaled_channels(scheme: Scheme) -> None:
    relu = helper.make_node("Relu", ["h0"], ["h1"])
    model = chain_model((relu,))
    batches = images()
    statistics = collect_ranges(model, batches)
    equalized = equalize(model, statistics).model
    plan = dataclasses.replace(int8_plan(equalized, batches), scheme=scheme)
    corrected = correct_biases(equalized, plan, batches)
    found = diagnose(model, Subject(model=corrected, plan=plan), batches, statistics=statistics)
    assert found.culprits == ()
    assert all((layer.noise.sqnr_db or 0) > 20 for layer in found.layers)
    second = found.layers[-1].spread
    assert second is not None
    assert second.channels_apart < 16


def test_what_stays_float_has_no_noise_of_its_own() -> None:
    network = trained(spread=0.0)
    plan = plan_of(collect_ranges(network.model, network.calibration))
    first = network.model.graph.node[0].name
    found = diagnose(
        network.model,
        Subject(model=network.model, plan=dataclasses.replace(plan, keep_float=frozenset({first}))),
        network.calibration[:1],
    )
    assert found.layers[0].noise.own_sqnr_db is None
    assert (found.layers[0].noise.sqnr_db or 0) > 100
    assert found.layers[0].spread is None


def test_large_batches_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained(spread=0.0)
    graph = read_graph(network.model)
    whole = plain(network)
    batches = list(network.calibration[:2])
    assert [len(piece["x"]) for piece in Pieces(batches, graph)] == [32, 32]
    monkeypatch.setattr("edgekit_converters.repair.pieces._MOST_BYTES", 600_000)
    pieces = Pieces(batches, graph)
    sizes = [len(piece["x"]) for piece in pieces]
    assert 1 < sizes[0] < 32
    assert sum(sizes) == 64
    assert [len(piece["x"]) for piece in pieces] == sizes
    assert whole.samples == 128
    for one, other in zip(whole.layers, plain(network).layers, strict=True):
        assert one.noise.sqnr_db == pytest.approx(other.noise.sqnr_db, abs=1e-3)
        assert one.noise.own_sqnr_db == pytest.approx(other.noise.own_sqnr_db, abs=1e-3)


def test_the_json_keeps_to_its_schema() -> None:
    schema = json.loads(
        (files("edgekit_converters.diagnosis") / "diagnosis_schema.json").read_text()
    )
    network, _ = broken()
    for found in (plain(network), plain(trained(spread=0.0))):
        document = json.loads(json.dumps(found.to_json(), allow_nan=False))
        jsonschema.validate(document, schema, cls=jsonschema.Draft202012Validator)
        assert len(document["layers"]) == len(found.layers)
    assert plain(network).samples == sum(len(batch["x"]) for batch in network.calibration[:4])


def test_without_samples_there_is_nothing_to_say() -> None:
    network = trained(spread=0.0)
    plan = plan_of(collect_ranges(network.model, network.calibration))
    with pytest.raises(UsageError, match="no calibration data"):
        diagnose(network.model, Subject(model=network.model, plan=plan), [])
