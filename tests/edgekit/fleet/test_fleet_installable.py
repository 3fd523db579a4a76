"""A version is refused at once where devices could not get it, and the fix is named."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.fleet import installable
from edgekit.fleet.broker import RunningBroker
from edgekit.fleet.connection import connected_to
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.installable import require_installable
from edgekit.fleet.publisher import publish, publish_metadata
from edgekit.fleet.release import release_bundle
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.protocol import Topics


@pytest.fixture
def released(fleet: Fleet, make_bundle: Callable[..., Path]) -> Fleet:
    release_bundle(fleet, make_bundle("1.0.0"))
    return fleet


def refused(fleet: Fleet, *versions: str, broker: BrokerAddress | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        require_installable(fleet, "digits", versions, broker=broker)
    return caught.value


def test_what_is_published_may_be_run_and_what_is_not_is_refused(
    released: Fleet, broker: RunningBroker, make_bundle: Callable[..., Path]
) -> None:
    error = refused(released, "1.0.0")
    assert error.what == "digits 1.0.0 is released, but not published: devices could not fetch that"
    assert error.where == str(released.path)
    assert error.fix == "run: edgekit fleet publish --broker HOST:PORT"
    publish(released, broker.address)
    # `released` was opened before: which broker it is, is read anew.
    require_installable(released, "digits", ["1.0.0"])
    for version in ("1.1.0", "1.2.0"):
        release_bundle(released, make_bundle(version, model=version.encode()))
    error = refused(released, "1.0.0", "1.2.0", "1.1.0")
    assert error.what.startswith("digits 1.1.0 and 1.2.0 are released, but not published")
    assert (error.where, error.fix) == (str(broker.address), "run: edgekit fleet publish")
    publish(released, broker.address)
    require_installable(released, "digits", ["1.0.0", "1.1.0", "1.2.0"])


def test_what_is_not_released_is_refused_with_what_is(released: Fleet) -> None:
    error = refused(released, "2.0.0", "1.0.0", "3.0.0")
    assert error.what == "digits 2.0.0 and 3.0.0 are not released"
    assert "edgekit release add; released are: digits@1.0.0" in (error.fix or "")


def test_a_broker_that_has_only_the_list_has_nothing_to_fetch(
    released: Fleet, broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installable, "_WAIT_SECONDS", 0.3)
    with connected_to(broker.address) as connection:
        publish_metadata(released, connection)
    assert "not published" in refused(released, "1.0.0", broker=broker.address).what


@pytest.mark.parametrize("message", [b"", b"rubbish"])
def test_a_broker_that_has_nothing_of_ours_is_no_place_to_fetch_from(
    released: Fleet, broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, message: bytes
) -> None:
    """It has lost its memory, or somebody else uses it."""
    monkeypatch.setattr(installable, "_WAIT_SECONDS", 0.3)
    if message:
        with connected_to(broker.address) as connection:
            connection.publish([(Topics(released.id).metadata, message)])
    assert "not published" in refused(released, "1.0.0", broker=broker.address).what


def test_a_broker_that_is_away_is_said_to_be(released: Fleet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(EnvironmentLackError) as caught:
        require_installable(released, "digits", ["1.0.0"], broker=BrokerAddress("127.0.0.1", port))
    assert str(port) in str(caught.value)
