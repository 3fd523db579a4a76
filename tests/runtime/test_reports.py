"""What devices say of themselves; a device may lie or talk nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.reports import (
    MAX_REPORT_BYTES,
    BundleState,
    DeviceEvent,
    DeviceState,
    Phase,
    parse_event,
    parse_state,
)


def test_a_state_survives_the_way() -> None:
    state = DeviceState(
        device="pi-1",
        online=True,
        time=12.5,
        agent="0.1.0",
        hardware={"architecture": "aarch64"},
        order_version=3,
        bundles={"digits": BundleState(phase=Phase.TRYING, active="2.0.0", previous="1.0.0")},
    )
    assert parse_state(state.to_json(), where="topic") == state


def test_an_event_survives_the_way() -> None:
    event = DeviceEvent(device="pi-1", sequence=7, time=1.0, kind="update.rolled_back", detail="x")
    assert parse_event(event.to_json(), where="topic") == event


@given(st.binary(max_size=200))
def test_any_bytes_give_the_one_error(message: bytes) -> None:
    with pytest.raises(VerificationError):
        parse_state(message, where="topic")
    with pytest.raises(VerificationError):
        parse_event(message, where="topic")


def test_an_unknown_phase_and_a_huge_report_are_refused() -> None:
    message = b'{"device": "a", "online": true, "bundles": {"b": {"phase": "dancing"}}}'
    with pytest.raises(VerificationError, match=r"bundles\.b\.phase"):
        parse_state(message, where="topic")
    with pytest.raises(VerificationError, match="larger"):
        parse_state(b" " * (MAX_REPORT_BYTES + 1), where="topic")
