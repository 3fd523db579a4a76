"""The database adds up a shadow run as the counts themselves do."""

from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.experiments.shadow import NOTHING, ShadowSettings, judge_shadow
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.errors import NotFoundError
from edgekit.fleet.store.shadow_sums import shadow_devices, total_of
from edgekit.fleet.store.shadows import ShadowTable
from edgekit.fleet.store.tables import ShadowDeviceRow
from edgekit_runtime.reports import BundleState, DeviceState, ShadowPhase, ShadowState
from edgekit_runtime.shadow import OutputGaps, ShadowCounts

DEVICES = [f"d{number}" for number in range(4)]
ASKED = ShadowSettings(min_agreement=0.9)

numbers = st.integers(0, 2**40)
buckets = st.dictionaries(st.integers(0, 199), st.integers(1, 2**40), max_size=3)
sizes = st.floats(0, 1e30)
gaps = st.builds(OutputGaps, gaps=buckets, largest=sizes, relative=sizes)
reports = st.builds(
    ShadowCounts,
    run=st.just("s1"),
    active=st.sampled_from(["1.0.0", "1.1.0-a+b.7"]),
    compared=numbers,
    agreed=numbers,
    failed=numbers,
    insane=numbers,
    dropped=numbers,
    outputs=st.dictionaries(st.sampled_from(["y", 'ö\' "z"', "a.b[0]"]), gaps, max_size=2),
    latency=buckets,
    active_latency=buckets,
)


@pytest.fixture
def table(database: Database) -> ShadowTable:
    table = ShadowTable(database)
    states = [DeviceState(device=name, online=True) for name in DEVICES]
    Inventory(database, actor="test").hear(states)
    for run, bundle in (("s1", "digits"), ("s2", "bells")):
        table.create(run, bundle=bundle, version="2.0.0", query="", settings=ASKED, who="alice")
        table.choose(run, DEVICES)
    return table


def keep(database: Database, run: str, said: list[list[ShadowCounts]]) -> None:
    with database.write() as session:
        for device, counts in zip(DEVICES, said, strict=True):
            row = session.get(ShadowDeviceRow, (run, device))
            assert row is not None
            row.counts = [item.to_json() for item in counts]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(st.lists(reports, max_size=2), min_size=len(DEVICES), max_size=len(DEVICES)))
def test_sums_are_those_of_the_counts(
    table: ShadowTable, database: Database, said: list[list[ShadowCounts]]
) -> None:
    keep(database, "s1", said)
    keep(database, "s2", [[ShadowCounts(run="s2", active="9.0.0", compared=7)] for _ in DEVICES])
    wanted = functools.reduce(ShadowCounts.merge, (item for each in said for item in each), NOTHING)
    with database.read() as session:
        devices = shadow_devices(session, "s1", "digits")
        total = total_of(session, "s1", devices)
    assert total == wanted
    assert [item.device for item in devices] == DEVICES
    for device, counts in zip(devices, said, strict=True):
        own = functools.reduce(ShadowCounts.merge, counts, NOTHING)
        for name in ("compared", "agreed", "failed", "insane", "dropped"):
            assert getattr(device, name) == getattr(own, name)
        assert device.active == tuple(sorted(item.active for item in counts))


def test_a_run_is_shown_as_it_is_now_and_showing_writes_nothing(
    table: ShadowTable, database: Database
) -> None:
    counts = ShadowCounts(run="s1", active="1.0.0", compared=1_000, agreed=990, latency={80: 9})
    keep(database, "s1", [[counts]] * 4)
    said = ShadowState(run="s1", version="2.0.0", phase=ShadowPhase.ENDED, reason="it crashed")
    bundles = {"digits": BundleState(shadow=said)}
    Inventory(database, actor="test").hear([DeviceState(device="d2", online=True, bundles=bundles)])
    before = table.get("s1")
    run, devices = table.show("s1")
    assert [(item.phase, item.reason) for item in devices[1:3]] == [
        ("", ""),
        ("ended", "it crashed"),
    ]
    assert run.result["phases"] == {"not heard of yet": 3, "ended": 1}
    assert run.result["ended"] == {"it crashed": 1}
    judged = judge_shadow(
        [(990, 1_000)] * 4, counts.merge(counts).merge(counts).merge(counts), ASKED
    )
    assert run.result.items() >= judged.to_json().items()
    assert table.get("s1") == before
    assert table.look("s1") == table.result("s1")
    assert table.get("s1").result == run.result


def test_a_run_of_nobody_says_so(table: ShadowTable) -> None:
    table.create("s3", bundle="horns", version="2.0.0", query="", settings=ASKED, who="alice")
    run, devices = table.show("s3")
    assert (run.result["sentence"], devices) == ("nothing was compared yet", ())
    with pytest.raises(NotFoundError):
        table.show("s4")
