from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from edgekit.fleet.audit import read_audit
from edgekit.fleet.devices.groups import delete_group, list_groups, save_group
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.registry.catalogue import Registry
from edgekit.fleet.store.tables import DeviceBundleRow, DeviceRow, EventRow
from edgekit_runtime.errors import UsageError
from edgekit_runtime.reports import BundleState, DeviceState, Phase


def test_a_device_that_speaks_is_known(inventory, state, event, watch) -> None:
    inventory.hear([state()], [event()])
    device = inventory.get("d1")
    assert (device.online, device.agent, device.order_version) == (True, "0.1.0", 3)
    assert device.bundles["digits"]["active"] == "1.0.0"
    assert device.first_seen == device.last_seen == watch().timestamp()
    assert inventory.get(device.pseudonym) == device
    assert device.pseudonym != "d1"


def test_what_it_says_later_takes_the_place_of_what_it_said(inventory, state, watch) -> None:
    inventory.hear([state()])
    first = inventory.get("d1")
    watch.goes_on(hours=1)
    inventory.hear([state(bundles={"bells": BundleState(phase=Phase.TRYING)}, agent="0.2.0")])
    second = inventory.get("d1")
    assert second.pseudonym == first.pseudonym
    assert second.first_seen == first.first_seen
    assert second.last_seen == first.last_seen + 3600
    assert (set(second.bundles), second.agent) == ({"bells"}, "0.2.0")
    with inventory.database.read() as session:
        assert session.scalars(select(DeviceBundleRow.bundle)).all() == ["bells"]


def test_a_last_will_is_no_sign_of_life(inventory, state, watch) -> None:
    inventory.hear([state()])
    before = inventory.get("d1").last_seen
    watch.goes_on(hours=1)
    inventory.hear([state(online=False)])
    device = inventory.get("d1")
    assert (device.online, device.last_seen) == (False, before)
    assert device.facts(watch().timestamp())["silent"] == 3600


def test_events_count_once_and_make_the_history(inventory, state, event, tmp_path) -> None:
    events = [
        event(1),
        event(2, kind="update.rolled_back", detail="p90 is 90 ms"),
        event(3, kind="server.crashed"),
    ]
    for _ in range(2):
        inventory.hear([], events)
    with inventory.database.read() as session:
        assert session.scalar(select(func.count()).select_from(EventRow)) == 3
    registry = Registry(inventory.database, tmp_path, actor="")
    history = registry.deployments("digits", "1.0.0")
    assert [(d.outcome, d.reason) for d in history] == [
        ("rolled_back", "p90 is 90 ms"),
        ("active", ""),
    ]


def test_a_device_that_was_set_up_anew_counts_from_the_start(inventory, event) -> None:
    inventory.hear([], [event(1)])
    inventory.hear([], [event(1, time=900.0)])
    with inventory.database.read() as session:
        assert session.scalar(select(func.count()).select_from(EventRow)) == 2


def test_a_query_finds_by_labels_and_by_what_devices_report(inventory, state, watch) -> None:
    inventory.hear([state("d1"), state("d2", hardware={"ram_bytes": 500_000_000})])
    inventory.add("d3", {"site": "berlin"})
    inventory.label("d1", {"site": "berlin"})
    found = {
        query: [device.id for device in inventory.find(query)]
        for query in (
            "",
            "site=berlin",
            "site=berlin and ram>=1GB",
            "arch=aarch64 and litert>=2.1",
            "online=no",
            "not silent",
            "id in (d1, d3)",
        )
    }
    assert found == {
        "": ["d1", "d2", "d3"],
        "site=berlin": ["d1", "d3"],
        "site=berlin and ram>=1GB": ["d1"],
        "arch=aarch64 and litert>=2.1": ["d1"],
        "online=no": ["d3"],
        "not silent": ["d3"],
        "id in (d1, d3)": ["d1", "d3"],
    }
    assert inventory.labels()["d1"]["ram"] == 2e9


def test_labels_are_audited_by_pseudonym(inventory) -> None:
    device = inventory.add("oven-7", {"site": "berlin"})
    inventory.label("oven-7", {"site": "berlin"})
    assert inventory.label("oven-7", {"site": None, "line": "3"}).labels == {"line": "3"}
    with inventory.database.read() as session:
        entries = read_audit(session)
    assert [entry.subject for entry in entries] == [f"device {device.pseudonym}"] * 2
    assert "oven-7" not in str(entries)


def test_what_is_no_label_is_refused_all_at_once(inventory) -> None:
    inventory.add("d1")
    with pytest.raises(UsageError) as caught:
        inventory.label("d1", {"a b": "x", "ram": "1", "ok": "a\nb", "and": "x"})
    for part in ("'a b' is no name", "'ram' is what the device reports", "'ok'", "'and' is no"):
        assert part in caught.value.what
    with pytest.raises(UsageError, match="at most 64 labels"):
        inventory.label("d1", {f"l{n}": "" for n in range(65)})
    with pytest.raises(UsageError, match="no valid device id"):
        inventory.add("d/1")
    with pytest.raises(UsageError, match="no device 'ghost'"):
        inventory.get("ghost")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec=None), max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    hardware=st.dictionaries(st.text(st.characters(codec=None), max_size=8), json_values),
    text=st.text(st.characters(codec=None), max_size=300),
)
def test_whatever_a_device_says_is_taken_in(inventory, state, event, hardware, text) -> None:
    """NUL, lone surrogates, NaN, texts of any length: none of it stops the others' reports."""
    odd = BundleState(phase=Phase.REJECTED, active=text, variant=text, reason=text)
    heard = state(hardware=hardware, agent=text, bundles={"digits": odd, text or "x/y": odd})
    inventory.hear([heard, state("d2")], [event(detail=text, bundle=text, version=text)])
    assert inventory.get("d2").hardware["architecture"] == "aarch64"
    assert [device.id for device in inventory.find("arch=aarch64 and id=d2")] == ["d2"]


def test_many_devices_are_taken_in_together(inventory, state) -> None:
    inventory.hear([state(f"d{number}") for number in range(3000)])
    with inventory.database.read() as session:
        assert session.scalar(select(func.count()).select_from(DeviceRow)) == 3000


def test_an_unheard_of_state_says_no_more_than_it_says(inventory) -> None:
    inventory.hear([DeviceState(device="d1", online=False)])
    device = inventory.get("d1")
    assert (device.last_seen, device.hardware, device.bundles) == (None, {}, {})
    assert dict(device.facts(0.0)) == {"id": "d1", "online": "no", "order": 0.0}


def test_groups_are_queries_with_names(inventory, database) -> None:
    save_group(database, "berlin", "site=berlin", actor="alice")
    save_group(database, "berlin", " site=berlin and ram>=1GB ", actor="alice")
    (group,) = list_groups(database)
    assert (group.name, group.query) == ("berlin", "site=berlin and ram>=1GB")
    with pytest.raises(UsageError, match="cannot be read"):
        save_group(database, "broken", "site=", actor="alice")
    with pytest.raises(UsageError, match="no name of a group"):
        save_group(database, "a b", "site", actor="alice")
    delete_group(database, "berlin", actor="alice")
    assert list_groups(database) == ()
    with pytest.raises(UsageError, match="no group 'berlin'"):
        delete_group(database, "berlin", actor="alice")
    with database.read() as session:
        actions = [entry.action for entry in read_audit(session)]
    assert actions == ["group.deleted", "group.saved", "group.saved"]


def test_many_queries_are_counted_with_one_reading_of_the_devices(
    inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory.add("oven-1", {"site": "berlin"})
    inventory.add("oven-2", {"site": "rome"})
    read = Inventory.all
    readings = []
    monkeypatch.setattr(Inventory, "all", lambda self: readings.append(1) or read(self))
    queries = ["", "site=berlin", "site", "site=mars", "id>oven-1"]
    assert inventory.count(queries) == [2, 1, 2, 0, 1]
    assert inventory.count([]) == []
    assert len(readings) == 1
    with pytest.raises(UsageError, match="the query cannot be read"):
        inventory.count(["site=berlin", "site="])
