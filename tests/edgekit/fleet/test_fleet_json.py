"""What the fleet's commands print with --json: one document, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgekit.cli import edgekit
from edgekit.fleet.authority import FleetAuthority
from edgekit.fleet.devices.certificates import add_certificate
from edgekit.fleet.folder import Fleet
from edgekit.fleet.release import release_bundle
from edgekit.fleet.rollouts.plan import FORMAT, FORMAT_VERSION, plan_from_json
from edgekit.fleet.rollouts.state import Phase
from edgekit.fleet.store.database import open_fleet_database
from edgekit.fleet.store.rollouts import RolloutTable

Ask = Callable[..., Any]


@pytest.fixture
def ask(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs a command in a folder of its own, and reads what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_FLEET", str(fleet.path))

    def run(*words: str) -> Any:
        done = CliRunner().invoke(edgekit, [*words, "--json"])
        assert done.exit_code == 0, (words, done.output, done.exception)
        return json.loads(done.stdout)

    return run


def test_keys_and_certificates(ask: Ask, fleet: Fleet, tmp_path: Path) -> None:
    made = ask("keys", "new", "ben", "--folder", "own")
    assert made == {"name": "ben", "public": "own/ben.pub.json", "private": "own/ben.pem"}
    assert Path(made["private"]).is_file()
    ask("fleet", "authority", "init", "--broker-host", "localhost")
    issued = ask("fleet", "authority", "issue", "oven-1", "--days", "9")
    assert (issued["name"], issued["folder"]) == ("oven-1", "oven-1")
    revoked = ask("fleet", "authority", "revoke", issued["serial"])
    assert (revoked["revoked"], revoked["revoked_in_all"]) == ([issued["serial"]], 1)
    assert Path(revoked["revocations"]).is_file()
    shown = CliRunner().invoke(edgekit, ["fleet", "authority", "show"])
    assert "; 1 certificate revoked" in shown.output
    renewed = ask("fleet", "authority", "renew")
    assert Path(renewed["certificate"]).is_file()
    assert renewed["expires"] > issued["expires"]


def test_tokens_and_groups(ask: Ask) -> None:
    for kind, words in (("enrolment", ()), ("token", ("ben", "viewer"))):
        made = ask("fleet", kind, "create", *words)
        assert ask("fleet", kind, "revoke", made["id"]) == {"id": made["id"], "revoked": True}
    saved = ask("fleet", "groups", "save", "ovens", "site=berlin")
    assert saved == {"name": "ovens", "query": "site=berlin", "devices": 0}
    assert ask("fleet", "groups", "delete", "ovens") == {"name": "ovens", "deleted": True}


def test_devices_and_what_they_are_told(
    ask: Ask, fleet: Fleet, make_bundle: Callable[..., Path]
) -> None:
    release_bundle(fleet, make_bundle())
    ask("fleet", "authority", "init", "--broker-host", "localhost")
    ask("fleet", "devices", "add", "oven-1")
    (asked,) = ask("fleet", "request", "logs", "oven-1", "--wait", "0")
    withdrawn = ask("fleet", "request", "withdraw", "oven-1", str(asked["number"]))
    assert (withdrawn["number"], withdrawn["standing"]) == (asked["number"], "withdrawn")
    told = ask("fleet", "order", "oven-1", "digits@1.0.0")
    assert told == {"device": "oven-1", "order": 1, "bundle": "digits", "version": "1.0.0"}
    refreshed = ask("fleet", "refresh")
    assert (refreshed["devices"], refreshed["needs_offline_keys"]) == (1, [])
    assert refreshed["image_expires"].startswith("20")
    with closing(open_fleet_database(fleet, None)) as database, database.write() as session:
        issued, _ = FleetAuthority.load(fleet).issue("oven-1")
        add_certificate(session, "oven-1", issued)
    shut = ask("fleet", "devices", "revoke", "oven-1")
    assert (shut["device"], shut["revoked"]) == ("oven-1", 1)
    gone = ask("fleet", "devices", "delete", "oven-1", "--yes")
    assert (gone["device"], gone["deleted"]) == ("oven-1", True)


def test_versions_taken_out_of_the_registry(
    ask: Ask, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    ask("registry", "add", str(make_bundle()))
    got = ask("registry", "get", "digits@1.0.0", "-o", "copy.ekb")
    assert got == {"bundle": "digits", "version": "1.0.0", "path": "copy.ekb"}
    taken = ask("registry", "export", "digits@1.0.0", f"file://{tmp_path}/out/")
    assert taken["place"].endswith("out/digits-1.0.0.ekb")


def test_what_people_decide_of_a_rollout(ask: Ask, fleet: Fleet) -> None:
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "created": 1.0}
    plan = {
        "id": "r1",
        "created_by": "ada",
        "order": {"bundle": "digits", "version": "2.0.0"},
        "stages": [{"name": "all", "percent": 100, "needs_approval": True}],
    }
    with closing(open_fleet_database(fleet, None)) as database:
        table = RolloutTable(database)
        table.create(plan_from_json(head | plan, where="here"))
        table.save("r1", replace(table.load("r1").state, phase=Phase.RUNNING), revision=1)
    for command, who, phase in (
        ("approve", "ben", "running"),
        ("pause", "ben", "paused"),
        ("resume", "ben", "running"),
        ("abort", "eve", "aborted"),
    ):
        said = ask("fleet", "rollout", command, "r1", "--by", who)
        assert said.keys() == {"plan", "state", "revision"}
        assert (said["state"]["phase"], said["state"]["decisions"][-1][1]) == (phase, who)
