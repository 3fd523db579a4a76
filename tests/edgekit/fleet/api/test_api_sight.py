"""What a viewer cannot find out: which device a pseudonym stands for."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from edgekit.fleet.access import Role
from edgekit.fleet.devices.groups import save_group
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.experiments.ab import question_from_json
from edgekit.fleet.experiments.shadow import settings_from_json
from edgekit.fleet.rollouts.commands import pause
from edgekit.fleet.rollouts.plan import FORMAT, FORMAT_VERSION, plan_from_json
from edgekit_runtime.reports import BundleState, DeviceEvent, DeviceState, Phase

API = "/api/v1"
ASKING = ("id=oven-1", "id<oven-2", "not (id >= 'oven-2')", "site=berlin and id in (oven-1)", "id")
QUOTING = "id=oven-2 or id in (oven-9, 'oven-1')"


@pytest.fixture
def pseudonyms(populated) -> dict[str, str]:
    return Inventory(populated.plane.database, actor="test").pseudonyms()


def test_a_viewer_finds_out_no_id_by_asking(
    populated, viewer: httpx.Client, pseudonyms: dict[str, str]
) -> None:
    operator = populated.client(Role.OPERATOR)
    for path, refused in ((f"{API}/devices", 403), ("/devices", 200)):
        for query in ASKING:
            answer = viewer.get(path, params={"query": query})
            assert answer.status_code == refused
            assert "may not ask by id" in answer.text
            assert not any(name in answer.text for name in pseudonyms.values())
            # Who may know them still asks by them.
            seen = operator.get(path, params={"query": query})
            assert (seen.status_code, "oven-1" in seen.text) == (200, True)


def test_a_viewer_opens_devices_by_pseudonym_only(
    populated, viewer: httpx.Client, pseudonyms: dict[str, str]
) -> None:
    operator = populated.client(Role.OPERATOR)
    for path in (f"{API}/devices/NAME", f"{API}/devices/NAME/events", "/devices/NAME"):
        known, unknown = (viewer.get(path.replace("NAME", n)) for n in ("oven-1", "oven-3"))
        assert (known.status_code, unknown.status_code) == (404, 404)
        # Nor does the answer tell whether there is a device of that id.
        assert known.text.replace("oven-1", "oven-3") == unknown.text
        for client, name in ((viewer, pseudonyms["oven-1"]), *((operator, n) for n in pseudonyms)):
            assert client.get(path.replace("NAME", name)).status_code == 200


def test_the_order_of_a_viewers_list_tells_nothing(site, viewer: httpx.Client) -> None:
    inventory = Inventory(site.plane.database, actor="test")
    for number in range(20):
        inventory.add(f"oven-{number:02}", {"site": "berlin"})
    in_order = sorted(inventory.pseudonyms().values())
    for query in ("", "site=berlin"):
        shown = viewer.get(f"{API}/devices", params={"query": query}).json()
        assert [device["id"] for device in shown["devices"]] == in_order
        page = viewer.get("/devices", params={"query": query}).text
        places = [page.index(f"/devices/{name}") for name in in_order]
        assert places == sorted(places)
    seen = site.client(Role.OPERATOR).get(f"{API}/devices").json()
    assert [device["id"] for device in seen["devices"]] == sorted(inventory.pseudonyms())


def test_queries_that_name_devices_are_shown_to_a_viewer_with_pseudonyms(
    populated, viewer: httpx.Client, pseudonyms: dict[str, str], plan
) -> None:
    plane = populated.plane
    save_group(plane.database, "two", QUOTING, actor="test")
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    made = {"created_by": "somebody", "created": 1.0, "query": QUOTING}
    begun = plan_from_json({**head, **plan, **made}, where="a test")
    plane.rollouts.create(begun)
    stored = plane.rollouts.load("r1")
    reason = f"no device matches {QUOTING!r}"
    running = replace(stored.state, phase=type(stored.state.phase).RUNNING)
    paused = pause(begun, running, who="somebody", now=2.0, reason=reason)
    plane.rollouts.save("r1", paused, revision=stored.revision)
    plane.experiments.create(
        "e1",
        bundle="digits",
        version_a="1.0.0",
        version_b="2.0.0",
        query=QUOTING,
        comparable_by=[],
        question=question_from_json({"metric": "errors", "margin": 0.01}, where="a test"),
        who="somebody",
    )
    plane.shadows.create(
        "s1",
        bundle="digits",
        version="2.0.0",
        query=QUOTING,
        settings=settings_from_json({}, where="a test"),
        who="somebody",
    )
    operator = populated.client(Role.OPERATOR)
    renamed = f"id={pseudonyms['oven-2']} or id in (unknown, "
    for path in (
        f"{API}/groups",
        f"{API}/rollouts",
        f"{API}/rollouts/r1",
        f"{API}/experiments",
        f"{API}/shadows",
        f"{API}/shadows/s1",
        f"{API}/audit",
        "/",
        "/devices",
        "/rollouts",
        "/rollouts/r1",
        "/experiments",
        "/audit",
    ):
        answer = viewer.get(path)
        assert answer.status_code == 200, path
        assert "oven-" not in answer.text, path
        if path != "/devices":
            assert renamed in answer.text, path
        if "audit" not in path:
            assert "oven-2" in operator.get(path).text, path
    assert viewer.get(f"{API}/groups").json()[0]["devices"] == 2
    # A group that a viewer may not ask for is a name, not a link to a refusal.
    assert (">two</a>" in viewer.get("/devices").text, ">two<" in viewer.get("/devices").text) == (
        False,
        True,
    )
    assert ">two</a>" in operator.get("/devices").text


def test_what_a_device_says_of_itself_does_not_give_its_id_away(
    populated, viewer: httpx.Client, pseudonyms: dict[str, str]
) -> None:
    said = "the certificate is for oven-10, not for oven-1"
    Inventory(populated.plane.database, actor="test").hear(
        [
            DeviceState(
                device="oven-1",
                online=True,
                bundles={"digits": BundleState(phase=Phase.REJECTED, reason=said)},
            )
        ],
        [
            DeviceEvent(
                device="oven-1",
                sequence=1,
                time=1.0,
                kind="update.rejected",
                bundle="digits",
                version="2.0.0",
                detail=said,
            )
        ],
    )
    name = pseudonyms["oven-1"]
    for path in (
        f"{API}/devices",
        f"{API}/devices/{name}",
        f"{API}/devices/{name}/events",
        f"{API}/versions/digits/2.0.0/deployments",
        f"/devices/{name}",
        "/versions/digits/2.0.0",
    ):
        assert f"the certificate is for oven-10, not for {name}" in viewer.get(path).text, path
    assert said in populated.client(Role.OPERATOR).get(f"{API}/devices").text
