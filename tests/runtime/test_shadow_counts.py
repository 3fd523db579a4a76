from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.orders import Budget, BundleOrder, ShadowOrder, parse_order
from edgekit_runtime.shadow import OutputGaps, ShadowCounts, merge_shadows, read_shadow
from edgekit_runtime.telemetry import (
    DeviceGauges,
    FeatureCounts,
    ModelCounts,
    Window,
    read_window,
)

SHADOW = ShadowOrder(
    run="digits-2",
    version="2.0.0",
    digest="ab" * 32,
    length=1234,
    rate=0.25,
    max_per_second=2.5,
    seconds=3600.0,
    budget=Budget(memory_bytes=100 << 20),
)
ORDER = BundleOrder(bundle="digits", version="1.0.0", shadow=SHADOW)

buckets = st.dictionaries(st.integers(0, 199), st.integers(1, 1000), max_size=5)


@st.composite
def shadow_counts(draw: st.DrawFn) -> ShadowCounts:
    agreed, failed, insane, other = (draw(st.integers(0, 100)) for _ in range(4))
    gaps = draw(buckets)
    return ShadowCounts(
        run="r",
        active="1.0.0",
        compared=agreed + failed + insane + other,
        agreed=agreed,
        failed=failed,
        insane=insane,
        dropped=draw(st.integers(0, 9)),
        outputs={"y": OutputGaps(gaps=gaps, largest=draw(st.floats(0, 9)), relative=0.5)},
        latency=draw(buckets),
        active_latency=draw(buckets),
    )


def test_an_order_says_what_runs_beside() -> None:
    custom = json.loads(json.dumps(ORDER.to_custom()))
    assert not any(isinstance(value, float) for value in custom["shadow"].values())
    assert parse_order(ORDER.target_path, custom) == ORDER
    assert ORDER.target_paths == ("digits/1.0.0/index.json", "digits/2.0.0/index.json")


def test_an_order_without_a_shadow_is_what_it_was() -> None:
    plain = replace(ORDER, shadow=None)
    assert "shadow" not in plain.to_custom()
    assert plain.target_paths == (plain.target_path,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", "a/b"),
        ("version", "two"),
        ("version", "1.0.0"),
        ("digest", ""),
        ("length", 0),
        ("length", 1 << 40),
        ("rate", "0.0"),
        ("rate", "1.5"),
        ("rate", None),
        ("max_per_second", "0.0"),
        ("seconds", "0.5"),
        ("free_bytes", -1),
        ("budget", None),
    ],
)
def test_an_invalid_shadow_makes_the_order_invalid(field: str, value: object) -> None:
    custom = ORDER.to_custom()
    custom["shadow"] = {**SHADOW.to_custom(), field: value}
    with pytest.raises(VerificationError, match=rf"shadow\.{field}"):
        parse_order(ORDER.target_path, custom)


@given(shadow_counts(), shadow_counts())
def test_counts_travel_and_add_up(first: ShadowCounts, second: ShadowCounts) -> None:
    reader = FieldReader(json.loads(json.dumps(first.to_json())))
    assert read_shadow(reader) == first
    assert not reader.faults
    total = first.merge(second)
    assert merge_shadows([first, second]) == (total,)
    assert second.merge(first) == total
    later = total.since(first)
    assert (later.compared, later.agreed, later.dropped) == (
        second.compared,
        second.agreed,
        second.dropped,
    )
    assert later.latency == second.latency
    assert later.outputs["y"].gaps == second.outputs["y"].gaps


def test_counters_that_fell_were_begun_anew() -> None:
    before = ShadowCounts(run="r", active="1.0.0", compared=10, agreed=10)
    now = ShadowCounts(run="r", active="1.0.0", compared=3, agreed=1)
    assert now.since(before) == now


def test_more_answers_than_comparisons_are_refused() -> None:
    reader = FieldReader(
        ShadowCounts(run="r", active="1.0.0", compared=5, agreed=4, failed=2).to_json()
    )
    read_shadow(reader)
    assert reader.faults == ["agreed: is more than was compared"]


def test_a_window_holds_counts_of_a_version_that_does_not_serve() -> None:
    mine = ShadowCounts(run="r", active="1.0.0", compared=3, agreed=3)
    window = Window(start=0.0, end=1.0, bundle="digits", version="2.0.0", shadows=(mine,))
    assert read_window(FieldReader(json.loads(json.dumps(window.to_json())))) == window
    # It has become the version that serves: both stand in one window of a coarser time.
    served = Window(
        start=1.0, end=2.0, bundle="digits", version="2.0.0", model=ModelCounts(requests=4)
    )
    both = window.merge(served).merge(window)
    assert both.model == ModelCounts(requests=4)
    assert both.shadows == (mine.merge(mine),)
    assert read_window(FieldReader(json.loads(json.dumps(both.to_json())))) == both


def test_a_window_of_the_device_holds_no_shadow() -> None:
    document = Window(start=0.0, end=1.0, device=DeviceGauges()).to_json()
    reader = FieldReader({**document, "shadows": []})
    read_window(reader)
    assert "must hold either a model or a device" in reader.faults[0]


def test_values_that_are_no_numbers_are_a_share_of_all() -> None:
    counts = FeatureCounts(expected=(0.5, 0.5), counts=(3, 3), nonfinite=2)
    assert counts.nonfinite_share == 0.25
    merged = counts.merge(FeatureCounts(expected=(0.5, 0.5), counts=(1, 1), nonfinite=0))
    assert (merged.total, merged.nonfinite) == (8, 2)
    window = Window(
        start=0.0,
        end=1.0,
        bundle="digits",
        version="1.0.0",
        model=ModelCounts(requests=2, features={"input:x": merged}),
    )
    assert read_window(FieldReader(json.loads(json.dumps(window.to_json())))) == window
    assert FeatureCounts(expected=(1.0,), counts=(0,)).nonfinite_share == 0.0
