from __future__ import annotations

import pytest

from edgekit.fleet.registry.comparison import compare_versions
from edgekit.fleet.registry.search import search_versions
from edgekit_runtime.errors import UsageError


@pytest.fixture
def three(registry, make_version):
    registry.add(make_version("1.0.0", top1=0.90), tags={"team": "vision"})
    registry.add(make_version("1.1.0", top1=0.97), tags={"team": "vision"}, note="For Berlin")
    registry.add(make_version("0.1.0", name="bells", top1=0.80), tags={"team": "sound"})
    return registry.all()


@pytest.mark.parametrize(
    ("words", "query", "found"),
    [
        ("", "", ["bells@0.1.0", "digits@1.1.0", "digits@1.0.0"]),
        ("berlin", "", ["digits@1.1.0"]),
        ("VISION team", "", ["digits@1.1.0", "digits@1.0.0"]),
        ("vision sound", "", []),
        ("", "team=sound or top1>=0.95", ["bells@0.1.0", "digits@1.1.0"]),
        ("", "bundle=digits and version<1.1.0", ["digits@1.0.0"]),
        ("", "size<1kB", []),
        ("", "not stage=development", []),
    ],
)
def test_versions_are_found(three, words: str, query: str, found: list[str]) -> None:
    assert [entry.name for entry in search_versions(three, words=words, query=query)] == found


def test_a_query_that_breaks_the_grammar_says_where(three) -> None:
    with pytest.raises(UsageError, match="ends where a value is expected"):
        search_versions(three, query="top1>=")


def test_two_versions_stand_side_by_side(registry, make_version) -> None:
    before = registry.add(make_version("1.0.0", top1=0.90), tags={"a": "1"})
    after = registry.add(
        make_version("2.0.0", top1=0.95, revision="def", model=b"smaller"), tags={"b": ""}
    )
    done = compare_versions(before, after)
    (metric,) = done.metrics
    assert (metric.name, metric.change) == ("onnx-float: top1", pytest.approx(0.05))
    assert [(d.name, d.before, d.after) for d in done.variants] == [("onnx-float", 240_000, 7)]
    assert [(d.name, d.before, d.after) for d in done.lineage] == [("revision", "abc", "def")]
    assert {d.name for d in done.tags} == {"a", "b"}
    assert (done.contract, done.processing, done.golden) == ((), False, True)


def test_what_breaks_applications_is_seen(registry, make_version) -> None:
    from dataclasses import replace

    before = registry.add(make_version("1.0.0"))
    image = replace(before.manifest.inputs[0], shape=(None, 16))
    manifest = replace(before.manifest, inputs=(image,), golden_inputs="expected.npz")
    done = compare_versions(before, replace(before, version="2.0.0", manifest=manifest))
    (contract,) = done.contract
    assert (contract.before, contract.after) == ("float32 (?, 8)", "float32 (?, 16)")
    assert contract.change is None
    assert not done.golden
