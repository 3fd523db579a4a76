from __future__ import annotations

import re
import socket

import httpx

from edgekit.fleet.access import Role
from edgekit.fleet.api.limits import MAX_BODY_BYTES
from edgekit.fleet.audit import verify_audit
from edgekit.fleet.devices.requests import RequestBook
from edgekit_runtime.requests import DeviceReply

API = "/api/v1"
# The least role for each route that changes something or gives out what is protected.
PROTECTED = [
    ("PUT", "/devices/oven-9", {"labels": {}}, Role.OPERATOR),
    ("PATCH", "/devices/oven-1/labels", {"labels": {}}, Role.OPERATOR),
    ("GET", "/devices/oven-1/export", None, Role.ADMIN),
    ("DELETE", "/devices/oven-2", None, Role.ADMIN),
    ("PUT", "/groups/g", {"query": "site"}, Role.OPERATOR),
    ("DELETE", "/groups/g", None, Role.OPERATOR),
    ("PATCH", "/versions/digits/1.0.0/tags", {"tags": {}}, Role.RELEASE_MANAGER),
    ("POST", "/versions/digits/1.0.0/metrics", {"name": "f1", "value": 1}, Role.RELEASE_MANAGER),
    ("POST", "/versions/digits/1.0.0/stage", {"stage": "staging"}, Role.RELEASE_MANAGER),
    ("POST", "/rollouts", {"plan": {}}, Role.RELEASE_MANAGER),
    ("POST", "/rollouts/r1/pause", {}, Role.OPERATOR),
    ("POST", "/rollouts/r1/stop", {}, Role.OPERATOR),
    ("POST", "/rollouts/r1/resume", {}, Role.RELEASE_MANAGER),
    ("POST", "/rollouts/r1/abort", {}, Role.RELEASE_MANAGER),
    ("POST", "/rollouts/r1/approval", None, Role.RELEASE_MANAGER),
    ("POST", "/experiments", {}, Role.RELEASE_MANAGER),
    ("POST", "/experiments/e1/stop", None, Role.OPERATOR),
    ("POST", "/shadows", {}, Role.RELEASE_MANAGER),
    ("POST", "/shadows/s1/stop", None, Role.OPERATOR),
    ("POST", "/feedback", {"items": []}, Role.OPERATOR),
    ("GET", "/tokens", None, Role.ADMIN),
    ("POST", "/tokens", {"name": "x", "role": "admin"}, Role.ADMIN),
    ("DELETE", "/tokens/" + "0" * 16, None, Role.ADMIN),
    ("PATCH", "/retention", {"events_days": 9}, Role.ADMIN),
    ("GET", "/enrolment-tokens", None, Role.OPERATOR),
    ("POST", "/enrolment-tokens", {}, Role.ADMIN),
    ("DELETE", "/enrolment-tokens/" + "0" * 16, None, Role.OPERATOR),
    ("POST", "/devices/oven-1/revocation", None, Role.OPERATOR),
    ("GET", "/requests", None, Role.OPERATOR),
    ("POST", "/requests", {"query": "site", "kind": "logs"}, Role.OPERATOR),
    ("GET", "/devices/oven-1/requests", None, Role.OPERATOR),
    ("POST", "/devices/oven-1/requests", {"kind": "logs"}, Role.OPERATOR),
    ("POST", "/devices/oven-1/requests", {"kind": "samples"}, Role.RELEASE_MANAGER),
    ("GET", "/devices/oven-1/requests/1", None, Role.OPERATOR),
    ("DELETE", "/devices/oven-1/requests/1", None, Role.OPERATOR),
]
# What needs no token of a person, and how it answers an empty request.
OPEN = {"/health": 200, "/v1/enrol": 422}


def test_a_role_may_do_what_it_is_for_and_nothing_else(populated) -> None:
    nobody = populated.client(None)
    clients = {role: populated.client(role) for role in Role}
    for method, path, body, least in PROTECTED:
        assert nobody.request(method, API + path, json=body).status_code == 401
        for role, client in clients.items():
            answer = client.request(method, API + path, json=body)
            place = (method, path, role, answer.text)
            if role.includes(least):
                assert answer.status_code not in (401, 403), place
            else:
                assert answer.status_code == 403, place
                assert answer.json()["error"] == "ForbiddenError", place


def test_every_changing_route_is_in_the_list_above(viewer: httpx.Client) -> None:
    paths = viewer.get(f"{API}/openapi.json").json()["paths"]
    changing = {
        (method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        if method != "get" and path not in OPEN
    }
    listed = {(method, API + path) for method, path, _, _ in PROTECTED}
    patterns = {(method, re.sub(r"\{[a-z]+\}", "[^/]+", path)): path for method, path in changing}
    for (method, pattern), path in patterns.items():
        assert any(m == method and re.fullmatch(pattern, p) for m, p in listed), (method, path)


def test_every_route_but_the_open_ones_wants_a_token(site) -> None:
    client = site.client(None)
    schema = client.get(f"{API}/openapi.json").json()
    for path, methods in schema["paths"].items():
        concrete = re.sub(r"\{[a-z]+\}", "x1", path)
        for method in methods:
            status = client.request(method, concrete).status_code
            assert status == OPEN.get(path, 401), (method, path)


def test_devices_are_asked_and_their_answers_read(populated, admin: httpx.Client) -> None:
    form = {"kind": "bench", "arguments": {"bundle": "digits"}, "hours": 2}
    asked = admin.post(f"{API}/devices/oven-1/requests", json=form).json()
    assert (asked["standing"], asked["created_by"]) == ("waiting", "a-admin")
    many = admin.post(f"{API}/requests", json={"query": "site=berlin", "kind": "samples"}).json()
    assert [item["device"] for item in many] == ["oven-1"]
    for item in (asked, many[0]):
        parts = {"median_ms": 2.5} if item is asked else {"sample": "secret"}
        reply = DeviceReply(device="oven-1", number=item["number"], ok=True, result=parts)
        RequestBook(populated.plane.database, actor="service").take([reply])
    path = f"{API}/devices/oven-1/requests/"
    operator = populated.client(Role.OPERATOR)
    shown = operator.get(path + str(asked["number"])).json()
    assert (shown["standing"], shown["answer"]) == ("done", [{"median_ms": 2.5}])
    # What people asked a model is not for whoever may restart a device.
    hidden = operator.get(path + str(many[0]["number"]))
    assert hidden.status_code == 403
    assert "secret" not in hidden.text
    assert operator.get(f"{API}/requests").json() == []
    assert len(operator.get(f"{API}/requests", params={"over": True}).json()) == 2
    waiting = admin.post(f"{API}/devices/oven-1/requests", json={"kind": "logs"}).json()
    gone = operator.delete(path + str(waiting["number"])).json()
    assert gone["standing"] == "withdrawn"
    for body, status in (
        ({"kind": "bench"}, 400),
        ({"kind": "certificate"}, 422),
        ({"kind": "logs", "arguments": {"eggs": 1}}, 400),
    ):
        assert admin.post(path[:-1], json=body).status_code == status
    nobody = admin.post(f"{API}/requests", json={"query": "site=mars", "kind": "logs"})
    assert (nobody.status_code, nobody.json()["what"]) == (404, "no device matches")


def test_a_viewer_sees_devices_by_pseudonym_only(populated, viewer: httpx.Client, plan) -> None:
    pseudonym = (
        populated.plane.inventory(
            type("A", (), {"name": "x"})()  # only its name is asked for
        )
        .get("oven-2")
        .pseudonym
    )
    for path in (
        f"{API}/devices",
        f"{API}/devices/{pseudonym}",
        f"{API}/versions/digits/2.0.0/deployments",
        f"{API}/alarms",
        f"{API}/audit",
        "/devices",
        f"/devices/{pseudonym}",
        "/versions/digits/2.0.0",
        "/",
    ):
        answer = viewer.get(path)
        assert answer.status_code == 200, path
        assert "oven-" not in answer.text, path
    assert pseudonym in viewer.get(f"{API}/devices").text
    assert "oven-2" in populated.client(Role.OPERATOR).get(f"{API}/devices").text


def test_devices_are_found_labelled_exported_and_deleted(populated, admin: httpx.Client) -> None:
    found = admin.get(f"{API}/devices", params={"query": "site=berlin and ram>=1GB"}).json()
    assert (found["total"], found["devices"][0]["id"]) == (1, "oven-1")
    admin.put(f"{API}/devices/oven-3", json={"labels": {"site": "rome"}}).raise_for_status()
    changed = admin.patch(
        f"{API}/devices/oven-3/labels", json={"labels": {"site": None, "line": "3"}}
    ).json()
    assert changed["labels"] == {"line": "3"}
    admin.put(f"{API}/groups/lines", json={"query": "line"}).raise_for_status()
    assert admin.get(f"{API}/groups").json() == [{"name": "lines", "query": "line", "devices": 1}]
    exported = admin.get(f"{API}/devices/oven-2/export").json()
    assert exported["events"][0]["detail"] == "<b>p90</b> is 90 ms"
    assert admin.delete(f"{API}/devices/oven-2").status_code == 204
    assert admin.get(f"{API}/devices/oven-2").status_code == 404
    assert admin.get(f"{API}/devices/oven-2/events").status_code == 404
    page = admin.get(f"{API}/devices", params={"offset": 1, "limit": 1}).json()
    assert (page["total"], [d["id"] for d in page["devices"]]) == (2, ["oven-3"])


def test_an_error_says_what_where_and_how_to_mend_it(populated, admin: httpx.Client) -> None:
    answer = admin.get(f"{API}/devices", params={"query": "site="})
    assert answer.status_code == 400
    problem = answer.json()
    assert problem["error"] == "UsageError"
    assert "cannot be read" in problem["what"]
    assert problem["where"] == "site="
    assert "site=berlin" in problem["fix"]
    answer = admin.post(f"{API}/versions/digits/1.0.0/stage", json={"stage": "x", "y": 1})
    assert answer.status_code == 422
    assert "body.stage" in answer.json()["what"]
    assert "body.y" in answer.json()["what"]


def test_versions_are_shown_compared_and_promoted(populated, admin: httpx.Client) -> None:
    listed = admin.get(f"{API}/versions", params={"query": "version>=2.0.0"}).json()
    assert [entry["version"] for entry in listed] == ["2.0.0"]
    compared = admin.get(f"{API}/versions/digits/2.0.0/compared", params={"before": "1.0.0"}).json()
    assert compared["variants"][0]["after"] == 5
    entry = admin.post(f"{API}/versions/digits/2.0.0/stage", json={"stage": "production"}).json()
    assert entry["stage"] == "production"
    admin.post(f"{API}/versions/digits/2.0.0/metrics", json={"name": "f1", "value": 0.9})
    shown = admin.get(f"{API}/versions/digits/2.0.0").json()
    assert shown["metrics"][0]["value"] == 0.9
    assert shown["manifest"]["name"] == "digits"
    assert admin.get(f"{API}/versions/digits/9.0.0").status_code == 404


def test_a_rollout_is_made_paused_resumed_and_stopped(offered, plan) -> None:
    from dataclasses import replace

    from edgekit.fleet.rollouts.state import Phase

    maker = offered.client(Role.RELEASE_MANAGER, "maker")
    second = offered.client(Role.RELEASE_MANAGER, "second")
    made = maker.post(f"{API}/rollouts", json={"plan": plan})
    assert made.status_code == 201, made.text
    assert (made.json()["phase"], made.json()["created_by"]) == ("new", "maker")
    assert maker.post(f"{API}/rollouts/r1/approval").status_code == 409
    assert second.post(f"{API}/rollouts/r1/approval").status_code == 200
    # What the engine would do.
    store = offered.plane.rollouts
    stored = store.load("r1")
    store.save("r1", replace(stored.state, phase=Phase.RUNNING), revision=stored.revision)
    paused = maker.post(f"{API}/rollouts/r1/pause", json={"reason": "lunch"}).json()
    assert (paused["phase"], paused["reason"]) == ("paused", "lunch")
    assert maker.post(f"{API}/rollouts/r1/resume", json={}).json()["phase"] == "running"
    stopped = maker.post(f"{API}/rollouts/r1/stop", json={}).json()
    assert stopped["phase"] in ("rolling_back", "rolled_back")
    assert maker.post(f"{API}/rollouts/r1/stop", json={}).status_code == 400
    shown = maker.get(f"{API}/rollouts/r1").json()
    assert [d["who"] for d in shown["decisions"]][:2] == ["second", "maker"]
    assert shown["plan"]["query"] == "site=berlin"
    audited = maker.get(f"{API}/audit", params={"subject": "rollout r1"}).json()
    assert [entry["actor"] for entry in audited[::-1]][:3] == ["maker", "second", "maker"]
    assert maker.get(f"{API}/rollouts/r9").status_code == 404


def test_a_plan_that_makes_no_sense_is_refused_with_all_its_faults(populated, plan) -> None:
    answer = populated.client(Role.ADMIN).post(
        f"{API}/rollouts", json={"plan": plan | {"id": "a/b", "stages": [], "eggs": 1}}
    )
    assert answer.status_code == 400
    for part in ("eggs: is unknown", "id:", "stages:"):
        assert part in answer.json()["what"]


def test_tokens_are_made_used_and_ended(site, admin: httpx.Client) -> None:
    made = admin.post(f"{API}/tokens", json={"name": "bob", "role": "viewer"}).json()
    as_bob = {"Authorization": f"Bearer {made['token']}"}
    status = httpx.get(f"{site.url}{API}/status", headers=as_bob).json()
    assert status["you"] == {"name": "bob", "role": "viewer"}
    assert admin.delete(f"{API}/tokens/{made['id']}").status_code == 204
    assert httpx.get(f"{site.url}{API}/status", headers=as_bob).status_code == 401
    assert made["token"].split("_", 2)[2] not in admin.get(f"{API}/tokens").text


def test_every_change_is_in_the_audit_log(populated, admin: httpx.Client) -> None:
    before = verify_audit(populated.plane.database).sequence
    admin.put(f"{API}/devices/oven-7", json={"labels": {"a": "b"}})
    admin.put(f"{API}/groups/g", json={"query": "a"})
    admin.patch(f"{API}/versions/digits/1.0.0/tags", json={"tags": {"x": ""}})
    admin.patch(f"{API}/retention", json={"events_days": 9})
    head = verify_audit(populated.plane.database)
    assert head.sequence == before + 4
    checked = admin.get(
        f"{API}/audit/verification", params={"sequence": head.sequence, "digest": head.digest}
    )
    assert checked.json() == {"sequence": head.sequence, "digest": head.digest}
    forged = admin.get(
        f"{API}/audit/verification", params={"sequence": head.sequence, "digest": "0" * 64}
    )
    assert forged.status_code == 409
    assert {e["actor"] for e in admin.get(f"{API}/audit?limit=4").json()} == {"a-admin"}


def test_prometheus_reads_the_figures(populated, viewer: httpx.Client) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    answer = viewer.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {f.name: f for f in text_string_to_metric_families(answer.text)}
    assert families["edgekit_devices"].samples[0].value == 2
    assert {
        (s.labels["version"], s.labels["phase"], s.value)
        for s in families["edgekit_bundle_devices"].samples
    } == {("1.0.0", "active", 1.0), ("1.0.0", "rolled_back", 1.0)}
    assert "oven" not in answer.text


def test_a_fleet_of_many_versions_has_a_bounded_number_of_series(site, viewer) -> None:
    from edgekit.fleet.api.figures import MAX_SERIES
    from edgekit.fleet.devices.inventory import Inventory
    from edgekit_runtime.reports import BundleState, DeviceState

    Inventory(site.plane.database, actor="test").hear(
        DeviceState(
            device=f"d{number}",
            online=True,
            bundles={"digits": BundleState(active=f"1.0.{number}")},
        )
        for number in range(MAX_SERIES + 50)
    )
    lines = [
        line
        for line in viewer.get("/metrics").text.splitlines()
        if line.startswith("edgekit_bundle_devices{")
    ]
    assert len(lines) == MAX_SERIES
    assert sum(float(line.rsplit(" ", 1)[1]) for line in lines) == MAX_SERIES + 50
    assert any('version="other"' in line for line in lines)


def raw_put(site, body_headers: str, *pieces: bytes) -> bytes:
    """Send a request as it stands, and read the answer's first line: no client gets in between."""
    host, port = site.url.removeprefix("http://").split(":")
    head = f"PUT {API}/groups/g HTTP/1.1\r\nHost: {host}\r\n{body_headers}"
    token = f"Authorization: Bearer {site.tokens[Role.ADMIN]}\r\n"
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall((head + token + "Content-Type: application/json\r\n\r\n").encode())
        for piece in pieces:
            connection.sendall(piece)
        return connection.makefile("rb").readline()


def test_a_request_that_is_too_large_is_not_read(site, admin: httpx.Client) -> None:
    stated = raw_put(site, f"Content-Length: {MAX_BODY_BYTES + 1}\r\n")
    assert stated.split()[1] == b"413"
    # Without a stated length it is noticed when the limit is passed.
    chunk = b"%x\r\n%s\r\n" % (1 << 16, b"x" * (1 << 16))
    many = [chunk] * (MAX_BODY_BYTES >> 16) + [b"1\r\nx\r\n"]
    assert raw_put(site, "Transfer-Encoding: chunked\r\n", *many).split()[1] == b"413"
    assert admin.get(f"{API}/groups").json() == []


def test_a_database_that_cannot_be_used_is_said(site, admin, monkeypatch) -> None:
    from contextlib import contextmanager

    from edgekit.fleet.store.database import Database
    from edgekit_runtime.errors import EnvironmentLackError

    @contextmanager
    def gone(self):
        raise EnvironmentLackError("the database cannot be used: gone", where="there")
        yield

    monkeypatch.setattr(Database, "read", gone)
    for path in ("/health", f"{API}/status", "/metrics"):
        answer = admin.get(path)
        assert (answer.status_code, answer.json()["where"]) == (503, "there")


def test_a_rollout_that_a_command_line_made_is_seen_and_paused_too(offered, plan) -> None:
    from dataclasses import replace

    from edgekit.fleet.rollouts.plan import FORMAT, FORMAT_VERSION, plan_from_json
    from edgekit.fleet.rollouts.state import Phase
    from edgekit.fleet.store.rollouts import RolloutTable

    table = RolloutTable(offered.plane.database)
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "created_by": "x", "created": 1.0}
    made = plan_from_json(head | plan, where="here")
    table.create(made)
    table.save("r1", replace(table.load("r1").state, phase=Phase.RUNNING), revision=1)
    operator = offered.client(Role.OPERATOR)
    assert operator.get(f"{API}/status").json()["rollouts"] == {"running": 1}
    assert [r["id"] for r in operator.get(f"{API}/rollouts").json()] == ["r1"]
    assert operator.post(f"{API}/rollouts/r1/pause", json={}).json()["phase"] == "paused"
    assert table.load("r1").state.phase is Phase.PAUSED
    audited = operator.get(f"{API}/audit", params={"subject": "rollout r1"}).json()
    assert [entry["actor"] for entry in audited] == ["a-operator", "x"]
    again = offered.client(Role.ADMIN).post(f"{API}/rollouts", json={"plan": plan})
    assert again.status_code == 400
    assert "already" in again.json()["what"]


def test_feedback_counts_once_and_what_never_ran_is_refused(populated) -> None:
    operator = populated.client(Role.OPERATOR)
    item = {"device": "oven-1", "bundle": "digits", "id": "r/1", "right": 2, "wrong": 1}
    running = populated.plane.inventory(type("A", (), {"name": "x"})()).get("oven-1").bundles
    version = running["digits"]["active"]
    items = [item | {"version": version}, item | {"version": "9.9.9", "id": "r/2"}]
    for counted, known in ((1, 0), (0, 1)):
        answer = operator.post(f"{API}/feedback", json={"items": items})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["counted"], found["known"]) == (counted, known)
        assert found["refused"] == ["r/2: oven-1 never said that it runs digits 9.9.9"]
    (shown,) = populated.client(Role.VIEWER).get(f"{API}/feedback").json()
    assert (shown["version"], shown["right"], shown["wrong"]) == (version, 2, 1)
    for wrong in ({"right": 0, "wrong": 0}, {"right": -1}, {"id": ""}, {"extra": 1}):
        bad = {"items": [items[0] | wrong]}
        assert operator.post(f"{API}/feedback", json=bad).status_code in (400, 422)
