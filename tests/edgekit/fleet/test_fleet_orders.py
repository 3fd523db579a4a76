from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical

from edgekit.cli import edgekit
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keys import director_root, image_root
from edgekit.fleet.order_store import OrderStore
from edgekit.fleet.ordering import device_order, order_bundle, order_device, refresh
from edgekit.fleet.release import release_bundle
from edgekit.fleet.repositories import open_director, open_images, ordered_devices
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.orders import ORDER_FIELD, Budget, BundleOrder, Gates, parse_order

START = datetime(2026, 11, 24, tzinfo=UTC)


def wanted(version: str, bundle: str = "digits") -> BundleOrder:
    return BundleOrder(
        bundle=bundle,
        version=version,
        budget=Budget(trial_seconds=2.5, latency_ms=0.1),
        gates=Gates(min_requests=5, max_error_share=0.125),
    )


@pytest.fixture
def released(fleet: Fleet, make_bundle) -> Fleet:
    release_bundle(fleet, make_bundle("1.0.0"))
    release_bundle(fleet, make_bundle("1.1.0"))
    release_bundle(fleet, make_bundle("0.3.0", name="faces"))
    return fleet


def test_an_order_verifies_and_agrees_with_the_image_repository(released: Fleet, updater) -> None:
    order = wanted("1.1.0")
    assert order_device(released, "dev-1", [order, wanted("0.3.0", "faces")]) == 1
    director = updater(
        open_director(released).published("dev-1"), director_root(released), trusted="director"
    )
    images = updater(open_images(released).published(), image_root(released), trusted="image")
    path = order.target_path
    ordered, image = director.get_targetinfo(path), images.get_targetinfo(path)
    assert (ordered.path, ordered.hashes, ordered.length) == (
        image.path,
        image.hashes,
        image.length,
    )
    assert parse_order(path, ordered.custom) == order


def test_orders_count_up_for_each_device_and_a_downgrade_is_an_order(
    released: Fleet, updater
) -> None:
    files = []
    for number, version in enumerate(("1.0.0", "1.1.0", "1.0.0"), start=1):
        assert order_device(released, "dev-1", [wanted(version)]) == number
        files.append(open_director(released).published("dev-1"))
    assert order_device(released, "dev-2", [wanted("1.1.0")]) == 1
    for published in files:
        client = updater(published, director_root(released))
        client.refresh()
    assert client.get_targetinfo(wanted("1.0.0").target_path) is not None
    assert client.get_targetinfo(wanted("1.1.0").target_path) is None
    assert device_order(released, "dev-1").bundles == (wanted("1.0.0"),)


def test_a_replayed_order_is_refused_by_a_tuf_client(released: Fleet, updater) -> None:
    from tuf.api.exceptions import BadVersionNumberError

    order_device(released, "dev-1", [wanted("1.0.0")])
    old = open_director(released).published("dev-1")
    order_device(released, "dev-1", [wanted("1.1.0")])
    updater(open_director(released).published("dev-1"), director_root(released)).refresh()
    client = updater(old, director_root(released))
    with pytest.raises(BadVersionNumberError):
        client.refresh()


def test_an_order_names_its_device(released: Fleet) -> None:
    """TUF cannot tell two devices apart: the same keys sign for both, only the field differs."""
    from tuf.api.metadata import Metadata, Targets

    for device in ("dev-1", "dev-2"):
        order_device(released, device, [wanted("1.0.0")])
        data = open_director(released).published(device)["1.targets.json"]
        signed = Metadata[Targets].from_bytes(data).signed
        assert signed.unrecognized_fields[ORDER_FIELD] == {"device": device}


def test_orders_of_another_device_are_not_built_upon(released: Fleet) -> None:
    order_device(released, "dev-1", [wanted("1.0.0")])
    store = OrderStore(released)
    kept = store.get("dev-1")
    assert kept is not None
    store.put({"dev-2": kept[1]})
    with pytest.raises(VerificationError, match="another device"):
        device_order(released, "dev-2")
    with pytest.raises(VerificationError, match="another device"):
        order_device(released, "dev-2", [wanted("1.0.0")])


def test_ordering_one_bundle_keeps_the_others(released: Fleet) -> None:
    order_device(released, "dev-1", [wanted("1.0.0"), wanted("0.3.0", "faces")])
    assert order_bundle(released, "dev-1", wanted("1.1.0")) == 2
    order = device_order(released, "dev-1")
    assert order.version == 2
    assert order.bundles == (wanted("1.1.0"), wanted("0.3.0", "faces"))
    assert order_bundle(released, "dev-9", wanted("1.1.0")) == 1


def test_a_device_may_be_told_to_run_nothing(released: Fleet, updater) -> None:
    order_device(released, "dev-1", [wanted("1.0.0")])
    assert order_device(released, "dev-1", []) == 2
    assert device_order(released, "dev-1").bundles == ()
    updater(open_director(released).published("dev-1"), director_root(released)).refresh()


def test_only_what_is_released_can_be_ordered(released: Fleet) -> None:
    with pytest.raises(UsageError, match=r"digits 2\.0\.0 is not released") as caught:
        order_device(released, "dev-1", [wanted("2.0.0")])
    assert "1.0.0, 1.1.0" in str(caught.value.fix)
    with pytest.raises(UsageError) as caught:
        order_device(released, "dev-1", [wanted("1.0.0", "noses")])
    assert "digits, faces" in str(caught.value.fix).replace("faces, digits", "digits, faces")
    assert ordered_devices(released) == ()


@pytest.mark.parametrize("share", [float("nan"), float("inf"), -0.5])
def test_numbers_that_a_device_would_refuse_are_refused_here(released: Fleet, share: float) -> None:
    order = BundleOrder(bundle="digits", version="1.0.0", gates=Gates(max_error_share=share))
    with pytest.raises(UsageError, match="max_error_share"):
        order_device(released, "dev-1", [order])


def test_bad_ids_and_doubled_bundles_are_refused(released: Fleet) -> None:
    with pytest.raises(UsageError, match="device id"):
        order_device(released, "../dev", [])
    with pytest.raises(UsageError, match="one version of a bundle"):
        order_device(released, "dev-1", [wanted("1.0.0"), wanted("1.1.0")])


def test_refresh_extends_an_order_without_making_a_new_one(released: Fleet, updater) -> None:
    order_device(released, "dev-1", [wanted("1.0.0")], clock=lambda: START)
    later = START + timedelta(days=29)
    done = refresh(released, clock=lambda: later)
    assert done.devices == 1
    assert done.image_expires == later + timedelta(days=7)
    assert done.needs_offline_keys == ()
    expiries = {item.role: item for item in open_director(released).expiries("dev-1")}
    assert expiries["timestamp"].expires == later + timedelta(days=30)
    assert expiries["snapshot"].expires == later + timedelta(days=30)
    assert expiries["targets"].version == device_order(released, "dev-1").version == 1


def test_refresh_signs_the_order_again_when_half_of_its_time_is_over(released: Fleet) -> None:
    order_device(released, "dev-1", [wanted("1.0.0")], clock=lambda: START)
    refresh(released, clock=lambda: START + timedelta(days=182))
    assert device_order(released, "dev-1").version == 1
    refresh(released, clock=lambda: START + timedelta(days=184))
    assert device_order(released, "dev-1").version == 2
    assert device_order(released, "dev-1").bundles == (wanted("1.0.0"),)


def test_a_damaged_order_keeps_no_other_device_from_being_renewed(released: Fleet) -> None:
    for device in ("dev-1", "dev-2", "dev-3"):
        order_device(released, device, [BundleOrder(bundle="digits", version="1.0.0")])
    store = OrderStore(released)
    kept = store.get("dev-2")
    assert kept is not None
    store.put({"dev-2": replace(kept[1], targets=b"{}")})
    before = {device: store.get(device) for device in store.revisions()}
    done = refresh(released)
    assert (done.devices, done.damaged) == (2, ("dev-2",))
    assert [device for device in before if store.get(device) == before[device]] == ["dev-2"]
    told = CliRunner().invoke(edgekit, ["fleet", "refresh", "--fleet", str(released.path)])
    assert told.exit_code == 0
    assert "Warning: damaged, and not renewed, are the orders of dev-2" in told.output


def test_refresh_says_what_only_the_offline_keys_can_renew(released: Fleet) -> None:
    order_device(released, "dev-1", [wanted("1.0.0")])
    later = datetime.now(UTC) + timedelta(days=340)
    assert refresh(released, clock=lambda: later).needs_offline_keys == ("image targets",)
    later = datetime.now(UTC) + timedelta(days=3 * 365 - 10)
    assert refresh(released, clock=lambda: later).needs_offline_keys == (
        "image root",
        "image targets",
        "director root",
    )


def test_an_order_that_nobody_refreshed_expires(released: Fleet, updater) -> None:
    from tuf.api.exceptions import ExpiredMetadataError

    past = datetime.now(UTC).replace(microsecond=0) - timedelta(days=31)
    order_device(released, "dev-1", [wanted("1.0.0")], clock=lambda: past)
    client = updater(open_director(released).published("dev-1"), director_root(released))
    with pytest.raises(ExpiredMetadataError):
        client.refresh()
    refresh(released)
    updater(open_director(released).published("dev-1"), director_root(released)).refresh()


def test_devices_are_listed_once_they_are_ordered_something(released: Fleet) -> None:
    assert ordered_devices(released) == ()
    assert device_order(released, "dev-1").version == 0
    order_device(released, "dev-2", [])
    order_device(released, "dev-1", [])
    assert ordered_devices(released) == ("dev-1", "dev-2")


NUMBERS = st.one_of(st.integers(1, 10**6), st.floats(1.0, 1e15), st.floats(1e-9, 1.0))


@given(st.floats(1.0, 1e9), st.integers(1, 2**40), NUMBERS, NUMBERS)
def test_every_number_of_an_order_survives_canonical_json(
    seconds: float, memory: int, latency: float, share: float
) -> None:
    """TUF signs canonical JSON, which has no fractions."""
    order = BundleOrder(
        bundle="digits",
        version="1.0.0",
        budget=Budget(trial_seconds=seconds, memory_bytes=memory, latency_ms=latency),
        gates=Gates(max_error_share=share),
    )
    text = encode_canonical(order.to_custom())
    assert parse_order(order.target_path, json.loads(text)) == order


def test_gates_are_given_on_the_command_line(fleet: Fleet, make_bundle) -> None:
    release_bundle(fleet, make_bundle())
    arguments = [
        "fleet", "order", "d1", "digits@1.0.0", "--fleet", str(fleet.path),
        "--min-requests", "7", "--max-p90-ms", "12.5",
        "--max-psi", "0.25", "--max-nonfinite-share", "0.01",
    ]  # fmt: skip
    done = CliRunner().invoke(edgekit, arguments)
    assert done.exit_code == 0, done.output
    (order,) = device_order(fleet, "d1").bundles
    assert order.gates == Gates(
        min_requests=7, max_p90_ms=12.5, max_psi=0.25, max_nonfinite_share=0.01
    )


def test_conditions_are_given_on_the_command_line(fleet: Fleet, make_bundle) -> None:
    release_bundle(fleet, make_bundle())
    arguments = [
        "fleet", "order", "d1", "digits@1.0.0", "--fleet", str(fleet.path),
        "--window", "sat,sun 00:00-24:00", "--window", "daily 22:00-04:00",
        "--not-before", "2027-01-01", "--go-live-by", "2027-02-01T12:00",
        "--min-battery", "40", "--max-load", "0.5",
    ]  # fmt: skip
    done = CliRunner().invoke(edgekit, arguments)
    assert done.exit_code == 0, done.output
    (order,) = device_order(fleet, "d1").bundles
    conditions = order.conditions
    assert [str(window) for window in conditions.windows] == arguments[7:10:2]
    assert (conditions.not_before, conditions.deadline) == (1_798_761_600, 1_801_483_200)
    assert (conditions.min_battery_percent, conditions.max_load) == (40, 0.5)
    wrong = CliRunner().invoke(edgekit, [*arguments[:6], "--window", "at night"])
    assert isinstance(wrong.exception, UsageError)
    assert "no maintenance window" in wrong.exception.what
