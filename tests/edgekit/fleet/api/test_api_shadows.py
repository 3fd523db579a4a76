from __future__ import annotations

import pytest

from edgekit.fleet.access import Role

ASKED = {"id": "s1", "bundle": "digits", "version": "1.0.0", "query": "site=berlin", "rate": 0.5}


def test_a_run_is_made_shown_and_stopped(offered) -> None:
    manager = offered.client(Role.RELEASE_MANAGER)
    made = manager.post("/api/v1/shadows", json=ASKED)
    assert made.status_code == 201, made.text
    assert made.json()["settings"]["rate"] == 0.5
    assert made.json()["created_by"] == "a-release-manager"
    offered.plane.shadows.choose("s1", ["oven-1"])
    operator, viewer = offered.client(Role.OPERATOR), offered.client(Role.VIEWER)
    shown = operator.get("/api/v1/shadows/s1").json()
    assert list(shown["devices"]) == ["oven-1"]
    assert shown["state"] == "running"
    assert shown["result"]["sentence"] == "nothing was compared yet"
    # A viewer has no need of a device's name.
    assert "oven-1" not in viewer.get("/api/v1/shadows/s1").text
    assert [run["id"] for run in viewer.get("/api/v1/shadows").json()] == ["s1"]
    assert operator.post("/api/v1/shadows/s1/stop").json()["state"] == "being stopped"
    actions = [entry["action"] for entry in operator.get("/api/v1/audit").json()]
    assert {"shadow.created", "shadow.stopped"} <= set(actions)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"rate": 0}, 422),
        ({"rate": 2}, 422),
        ({"query": "site="}, 400),
        ({"id": "a/b"}, 422),
        ({"more": 1}, 422),
    ],
)
def test_what_makes_no_sense_is_refused(offered, change: dict[str, object], status: int) -> None:
    manager = offered.client(Role.RELEASE_MANAGER)
    assert manager.post("/api/v1/shadows", json=ASKED | change).status_code == status


def test_what_is_not_there_is_not_found(populated) -> None:
    operator = populated.client(Role.OPERATOR)
    assert operator.get("/api/v1/shadows/nothing").status_code == 404
    assert operator.post("/api/v1/shadows/nothing/stop").status_code == 404
