"""What several people make at the same moment: one of them is right, the others are told so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgekit.fleet.audit import verify_audit
from edgekit.fleet.devices.groups import list_groups, save_group
from edgekit.fleet.experiments.ab import Metric, Question
from edgekit.fleet.experiments.shadow import ShadowSettings
from edgekit.fleet.registry.catalogue import Registry
from edgekit.fleet.registry.entries import Stage
from edgekit.fleet.rollouts import plan
from edgekit.fleet.storage.local import FolderStorage
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.experiments import ExperimentTable
from edgekit.fleet.store.rollouts import RolloutTable
from edgekit.fleet.store.shadows import ShadowTable
from edgekit_runtime.errors import UsageError
from edgekit_runtime.orders import BundleOrder

PEOPLE = [f"person-{number}" for number in range(6)]


def at_once(make: Callable[[str], object]) -> list[str]:
    """What each of some people is told who do something at the same moment; "" for done."""
    together = threading.Barrier(len(PEOPLE))

    def one(who: str) -> str:
        together.wait(60)
        try:
            make(who)
        except UsageError as error:
            return error.what
        return ""

    with ThreadPoolExecutor(len(PEOPLE)) as pool:
        return sorted(pool.map(one, PEOPLE))


def test_of_runs_of_one_bundle_that_are_made_at_once_one_is(database: Database) -> None:
    table = ShadowTable(database)
    told = at_once(
        lambda who: table.create(
            who, bundle="digits", version="2.0.0", query="", settings=ShadowSettings(), who=who
        )
    )
    (run,) = table.open()
    refusal = f"the shadow run {run.id!r} of digits has not ended"
    assert told == ["", *[refusal] * (len(PEOPLE) - 1)]
    verify_audit(database)


def test_of_experiments_of_one_id_that_are_made_at_once_one_is(database: Database) -> None:
    table = ExperimentTable(database)
    told = at_once(
        lambda who: table.create(
            "e1",
            bundle="digits",
            version_a="1.0.0",
            version_b="2.0.0",
            query="",
            question=Question(metric=Metric.ERRORS, margin=0.05),
            who=who,
        )
    )
    refusal = "there is an experiment 'e1' already"
    assert told == ["", *[refusal] * (len(PEOPLE) - 1)]


def test_of_rollouts_of_one_id_that_are_made_at_once_one_is(database: Database) -> None:
    table = RolloutTable(database)

    def make(who: str) -> None:
        table.create(
            plan.RolloutPlan(
                id="r1",
                order=BundleOrder(bundle="digits", version="2.0.0"),
                query="",
                stages=(plan.Stage(name="all", percent=100),),
                created=datetime(2026, 1, 1, tzinfo=UTC).timestamp(),
                created_by=who,
            )
        )

    refusal = "there is a rollout 'r1' already, with another plan"
    assert at_once(make) == ["", *[refusal] * (len(PEOPLE) - 1)]


@pytest.fixture
def registry(database: Database, make_bundle: Callable[..., Path], tmp_path: Path) -> Registry:
    """With a version for each person, and one that nobody has registered yet."""
    made = Registry(database, FolderStorage(tmp_path / "bundles"), actor="alice")
    for number in range(len(PEOPLE)):
        made.add(make_bundle(f"1.{number}.0"))
    return made


def test_of_versions_that_are_promoted_at_once_one_is_in_production(registry: Registry) -> None:
    versions = dict(zip(PEOPLE, (entry.version for entry in registry.all()), strict=True))
    told = at_once(lambda who: registry.promote("digits", versions[who], Stage.PRODUCTION))
    assert told == [""] * len(PEOPLE)
    stages = [entry.stage for entry in registry.all()]
    assert stages.count(Stage.PRODUCTION) == 1
    assert stages.count(Stage.ARCHIVED) == len(PEOPLE) - 1


def test_a_version_that_is_registered_at_once_is_one(
    registry: Registry, make_bundle: Callable[..., Path]
) -> None:
    bundle = make_bundle("2.0.0")
    assert at_once(lambda _who: registry.add(bundle)) == [""] * len(PEOPLE)
    assert len(registry.all()) == len(PEOPLE) + 1


def test_a_group_that_is_saved_at_once_is_one(database: Database) -> None:
    assert at_once(lambda who: save_group(database, "bakery", "site=x", actor=who)) == [""] * 6
    (group,) = list_groups(database)
    assert group.name == "bakery"
    verify_audit(database)
