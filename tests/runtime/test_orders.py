"""Orders and index pieces, as signed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.orders import (
    Budget,
    BundleOrder,
    Gates,
    index_pieces_custom,
    parse_index_pieces,
    parse_order,
    target_path,
)


@given(
    requests=st.integers(0, 10**6),
    share=st.sampled_from([0.0, 1e-6, 0.015, 1 / 3, 1.0]),
    seconds=st.floats(0.1, 1e6, allow_subnormal=False),
    memory=st.integers(1, 2**40),
)
def test_an_order_survives_the_way(
    requests: int, share: float, seconds: float, memory: int
) -> None:
    order = BundleOrder(
        bundle="digits",
        version="2.0.0",
        budget=Budget(trial_seconds=seconds, memory_bytes=memory),
        gates=Gates(min_requests=requests, max_error_share=share),
    )
    custom = json.loads(json.dumps(order.to_custom()))
    assert parse_order(order.target_path, custom) == order


def test_an_order_under_another_path_is_refused() -> None:
    order = BundleOrder(bundle="digits", version="2.0.0")
    with pytest.raises(VerificationError, match=r"stands under digits/1\.0\.0"):
        parse_order(target_path("digits", "1.0.0"), order.to_custom())


def test_every_fault_of_an_order_is_named() -> None:
    custom = {"bundle": "Digits", "version": "2", "gates": {"max_error_share": -1}, "budget": []}
    with pytest.raises(VerificationError) as raised:
        parse_order("digits/2.0.0/index.json", custom)
    for place in ("bundle", "version", "gates.max_error_share", "budget: must be an object"):
        assert place in raised.value.what


def test_pieces_add_up_to_the_index() -> None:
    pieces = [("a" * 64, 60_000), ("b" * 64, 17)]
    custom = index_pieces_custom(pieces)
    assert parse_index_pieces("x", custom, length=60_017) == pieces
    with pytest.raises(VerificationError, match="do not add up"):
        parse_index_pieces("x", custom, length=60_018)


@pytest.mark.parametrize("item", [["a" * 64], ["z" * 64, 1], ["a" * 64, 0], ["a" * 64, 10**6], 1])
def test_an_invalid_piece_is_refused(item: object) -> None:
    with pytest.raises(VerificationError, match="sha256"):
        parse_index_pieces("x", {"pieces": [item]}, length=1)
