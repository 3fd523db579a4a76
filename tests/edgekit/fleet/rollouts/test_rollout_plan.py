from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.rollouts.labels import parse_query
from edgekit.fleet.rollouts.plan import Criteria, Stage, check_plan, plan_from_json
from edgekit.fleet.rollouts.selection import choose_members, stage_bounds
from edgekit.fleet.rollouts.windows import Window, is_open, parse_window
from edgekit_runtime.errors import UsageError
from edgekit_runtime.orders import Gates
from tests.edgekit.fleet.rollouts.worlds import NEW, make_plan

PI = {"site": "berlin", "arch": "aarch64", "ram": 1.0e9, "agent": "1.10.0", "canary": "yes"}


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("", True),
        ("site=berlin", True),
        ("site=berlin and ram>=1GB", True),
        ("ram>=1GiB", False),
        ("ram>0.5GB and ram<2GB", True),
        ("site=paris or arch=aarch64", True),
        ("not site=berlin", False),
        ("not (site=paris or site=rome)", True),
        ("site in (paris, berlin)", True),
        ("arch in ('armv7l', \"armv6l\")", False),
        ("canary", True),
        ("gpu", False),
        ("gpu!=orin", True),
        ("gpu=orin", False),
        ("agent>=1.9.0", True),
        ("agent<1.9.0", False),
        ("site=berlin and gpu or arch=aarch64", True),
    ],
)
def test_queries(query: str, matches: bool) -> None:
    assert parse_query(query).matches(PI) is matches


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("site=", "ends where a value is expected, after 'site='"),
        ("site berlin", "'berlin' is not expected here"),
        ("(site=berlin", "')' is expected"),
        ("site=berlin and", "ends where the name of a label is expected"),
        ('site="berlin', "a quote is not closed"),
        ("=berlin", "'=' is no name of a label"),
        ("not " * 40 + "a", "nested deeper than 32"),
        ("a" * 1_001, "longer than 1000 characters"),
    ],
)
def test_queries_that_cannot_be_read(query: str, fault: str) -> None:
    with pytest.raises(UsageError, match=r".*") as caught:
        parse_query(query)
    assert fault in str(caught.value)


@given(st.text(alphabet="ab=<>!() ,'\"1GBandornotin", max_size=40))
def test_a_query_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        query = parse_query(text)
    except UsageError:
        return
    assert query.matches(PI) in (True, False)


def test_a_plan_survives_its_form_on_disk() -> None:
    plan = make_plan(
        order=replace(NEW, gates=Gates(min_requests=7, max_error_share=0.125)),
        windows=(parse_window("mon-fri 22:00-04:00 Europe/Berlin"),),
        comparable_by=("arch",),
    )
    assert check_plan(plan) is plan
    assert plan_from_json(json.loads(json.dumps(plan.to_json())), where="test") == plan


def test_people_may_write_fractions_as_numbers() -> None:
    document = make_plan().to_json()
    document["order"] = {"bundle": "digits", "version": "2.0.0", "gates": {"min_seconds": 2.5}}
    assert plan_from_json(document, where="test").order.gates.min_seconds == 2.5


def test_every_fault_of_a_plan_is_named() -> None:
    document = make_plan().to_json()
    document |= {
        "id": "a/b",
        "query": "site=",
        "colour": "red",
        "stages": [
            {"name": "a", "count": 5, "criteria": {"min_accuracy": 0.9, "max_error_share": 2}},
            {"name": "a", "count": 3},
            {"name": "c", "count": 9, "percent": 3},
            {"name": "d", "percent": 101},
        ],
        "windows": [{"days": ["mo"], "begin": "25:00", "end": "04:00", "timezone": "Mars"}],
        "order": {"bundle": "digits", "version": "2.0.0", "gates": {"min_request": 1}},
    }
    with pytest.raises(UsageError) as caught:
        plan_from_json(document, where="plan.json")
    for fault in (
        "id: 'a/b'", "query: the query cannot be read", "colour: is unknown",
        "max_error_share: 2 is a share", "min_feedback: must be above 0", "two have the same name",
        "each count must be larger", "needs either a count or a percent", "101 is not between",
        "days: must be some of", "begin: '25:00'", "'Mars' is not known", "min_request: is unknown",
    ):  # fmt: skip
        assert fault in caught.value.what, fault


@pytest.mark.parametrize(
    ("text", "moment", "holds"),
    [
        ("mon-fri 22:00-04:00", "2026-11-25T23:00", True),
        ("mon-fri 22:00-04:00", "2026-11-28T03:59", True),  # Saturday: Friday's window
        ("mon-fri 22:00-04:00", "2026-11-28T04:00", False),
        ("mon-fri 22:00-04:00", "2026-11-28T23:00", False),
        ("sat,sun 00:00-00:00", "2026-11-28T12:00", True),
        ("sat,sun 00:00-00:00", "2026-11-27T23:59", False),
        ("fri-mon 01:00-02:00", "2026-11-29T01:30", True),
        ("wed 09:00-10:00 Europe/Berlin", "2026-11-25T08:30", True),
        ("wed 09:00-10:00 Europe/Berlin", "2026-11-25T09:30", False),
    ],
)
def test_windows(text: str, moment: str, holds: bool) -> None:
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
    assert parse_window(text).holds(now) is holds
    assert is_open([], now)


@pytest.mark.parametrize("text", ["", "mon", "moon 01:00-02:00", "mon 1-2", "mon 01:00-24:00"])
def test_windows_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is no window"):
        parse_window(text)


def test_a_whole_week_is_covered_once_by_seven_days() -> None:
    hours = [3_600.0 * hour for hour in range(7 * 24)]
    window = Window(days=("tue",), begin="20:00", end="06:00")
    assert sum(window.holds(hour) for hour in hours) == 10


def test_the_choice_is_the_same_everywhere_and_another_for_each_rollout() -> None:
    devices = {f"d{n}": PI for n in range(200)}
    query = parse_query("site=berlin")
    chosen = choose_members("r1", devices, query)
    assert chosen == choose_members("r1", dict(reversed(devices.items())), query)
    assert set(chosen) == set(devices)
    other = choose_members("r2", devices, query)
    assert len(set(chosen[:20]) & set(other[:20])) < 12


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    seed=st.integers(0, 1_000),
)
def test_every_stage_resembles_the_whole(counts: list[int], seed: int) -> None:
    devices = {
        f"d{kind}-{n}": {"arch": f"a{kind}"}
        for kind, count in enumerate(counts)
        for n in range(count)
    }
    chosen = choose_members(f"r{seed}", devices, parse_query(""), ("arch",))
    total = sum(counts)
    for size in range(1, total + 1):
        for kind, count in enumerate(counts):
            have = sum(name.startswith(f"d{kind}-") for name in chosen[:size])
            assert abs(have - size * count / total) <= len(counts)


@given(
    count=st.integers(1, 50),
    percents=st.lists(st.integers(1, 100), min_size=1, max_size=4, unique=True),
    members=st.integers(1, 5_000),
)
def test_stages_only_grow(count: int, percents: list[int], members: int) -> None:
    stages = [Stage(name="canary", count=count)]
    stages += [Stage(name=str(p), percent=float(p)) for p in sorted(percents)]
    bounds = stage_bounds(stages, members)
    assert list(bounds) == sorted(bounds)
    assert 1 <= bounds[0] <= members
    assert bounds[-1] <= members
    assert stage_bounds([Stage(name="all", percent=100.0)], members) == (members,)


def test_ten_percent_of_thirty_are_three() -> None:
    assert stage_bounds([Stage(name="a", percent=10.0, criteria=Criteria())], 30) == (3,)
