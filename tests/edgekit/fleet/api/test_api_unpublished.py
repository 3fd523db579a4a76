"""What devices could not get is refused at once, whoever asks for it, and with the fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.fleet.access import Role
from edgekit.fleet.experiments.assignment import Arm
from edgekit.fleet.folder import BrokerAddress
from edgekit.fleet.keys import init_keys
from edgekit.fleet.release import release_bundle

ORDERS = {
    "rollouts": {
        "plan": {
            "id": "x1",
            "order": {"bundle": "digits", "version": "2.0.0"},
            "stages": [{"name": "all", "percent": 100}],
        }
    },
    "shadows": {"id": "x1", "bundle": "digits", "version": "2.0.0"},
    "experiments": {
        "id": "x1",
        "bundle": "digits",
        "version_a": "1.0.0",
        "version_b": "2.0.0",
        "metric": "errors",
        "margin": 0.02,
    },
}
wanted = pytest.mark.parametrize("kind", ORDERS)


@wanted
def test_a_version_that_is_not_released_or_not_published_is_refused(
    populated, make_bundle: Callable[..., Path], kind: str
) -> None:
    manager = populated.client(Role.RELEASE_MANAGER)
    fleet = populated.plane.fleet
    init_keys(fleet)
    answer = manager.post(f"/api/v1/{kind}", json=ORDERS[kind])
    assert answer.status_code == 400
    assert "not released" in answer.json()["what"]
    for version in ("1.0.0", "2.0.0"):
        release_bundle(fleet, make_bundle(version, model=version.encode()))
    answer = manager.post(f"/api/v1/{kind}", json=ORDERS[kind])
    assert answer.status_code == 400
    problem = answer.json()
    assert "released, but not published" in problem["what"]
    assert problem["fix"] == "run: edgekit fleet publish --broker HOST:PORT"
    assert manager.get(f"/api/v1/{kind}").json() == []


@wanted
def test_what_is_published_is_begun(offered, kind: str) -> None:
    manager = offered.client(Role.RELEASE_MANAGER)
    answer = manager.post(f"/api/v1/{kind}", json=ORDERS[kind])
    assert answer.status_code == 201, answer.text
    assert [item["id"] for item in manager.get(f"/api/v1/{kind}").json()] == ["x1"]


def test_a_broker_that_is_away_is_said_to_be(offered) -> None:
    offered.plane.fleet.with_broker(BrokerAddress("127.0.0.1", 1))
    manager = offered.client(Role.RELEASE_MANAGER)
    answer = manager.post("/api/v1/rollouts", json=ORDERS["rollouts"])
    assert (answer.status_code, answer.json()["where"]) == (503, "127.0.0.1:1")
    assert manager.get("/api/v1/rollouts").json() == []


def test_an_experiment_is_shown_and_stopped(offered) -> None:
    offered.client(Role.RELEASE_MANAGER).post(
        "/api/v1/experiments", json=ORDERS["experiments"]
    ).raise_for_status()
    offered.plane.experiments.begin("x1", {"oven-1": Arm.A, "oven-2": Arm.B})
    operator, viewer = offered.client(Role.OPERATOR), offered.client(Role.VIEWER)
    shown = operator.get("/api/v1/experiments/x1").json()
    assert shown["devices"] == {"oven-1": "a", "oven-2": "b"}
    assert shown["state"] == "telling devices"
    seen = viewer.get("/api/v1/experiments/x1")
    assert sorted(seen.json()["devices"].values()) == ["a", "b"]
    assert "oven" not in seen.text
    assert operator.post("/api/v1/experiments/x1/stop").json()["state"] == "over"
    assert operator.get("/api/v1/experiments/x2").status_code == 404
