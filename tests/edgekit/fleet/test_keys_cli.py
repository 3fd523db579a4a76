"""`edgekit keys`, `edgekit fleet init` and `edgekit fleet authority`, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgekit.cli import edgekit
from edgekit.fleet.authority import FleetAuthority
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keyring import CHANGE_FILE
from edgekit_runtime.errors import EdgekitError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("EDGEKIT_PASSPHRASE", "EDGEKIT_FLEET", "EDGEKIT_BROKER"):
        monkeypatch.delenv(name, raising=False)
    run("fleet init --id plant-7")
    return tmp_path


def call(line: str, **environment: str) -> Result:
    return CliRunner().invoke(edgekit, line.split(), env=environment)


def run(line: str, **environment: str) -> str:
    done = call(line, **environment)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def run_json(line: str) -> Any:
    return json.loads(run(f"{line} --json"))


def fails(line: str, **environment: str) -> EdgekitError:
    done = call(line, **environment)
    assert isinstance(done.exception, EdgekitError), (done.output, done.exception)
    return done.exception


def test_keys_are_shown_with_where_they_are(place: Path) -> None:
    run("keys init", EDGEKIT_PASSPHRASE="pw")
    shown = run_json("keys show")
    assert run_json("keys list") == shown
    assert {key["name"]: key["place"] for key in shown["keys"]} == {
        "image-root": "here, encrypted",
        "image-targets": "here, encrypted",
        "image-online": "here",
        "director-root": "here, encrypted",
        "director-online": "here",
    }
    (place / "fleet/keys/image-root.pem").rename(place / "image-root.pem")
    assert "away" in run("keys show")
    assert [(root["role"], root["threshold"]) for root in shown["roots"]] == [
        ("root", 1), ("targets", 1), ("snapshot", 1), ("timestamp", 1), ("root", 1),
    ]  # fmt: skip
    assert (shown["revoked"], shown["unfinished"]) == ([], None)


def test_every_change_is_in_the_audit_log(place: Path) -> None:
    run("keys init")
    assert run_json("keys rotate image-online")["in_force"]
    run("keys revoke director-online --reason stolen")
    run("keys new anna")
    run("keys new ben")
    run("keys add anna.pub.json root")
    assert "anna" in run("keys add ben.pub.json root --threshold 1 --out ben.json") + run(
        "keys show"
    )
    run("keys renew")
    assert "is still in use" in fails("keys remove image-targets").what
    assert run_json("keys remove anna")["removed"].keys() == {"anna"}
    entries = run_json("fleet audit list")
    assert [entry["action"] for entry in reversed(entries)] == [
        "keys.rotated",
        "keys.revoked",
        "keys.added",
        "keys.added",
        "keys.renewed",
        "keys.removed",
    ]
    revoked = entries[-2]
    assert revoked["detail"]["reason"] == "stolen"
    assert revoked["detail"]["signed_by"] == ["director-root"]
    assert run("fleet audit verify")


def test_a_change_waits_in_a_file(place: Path) -> None:
    run("keys init", EDGEKIT_PASSPHRASE="pw")
    assert "no passphrase" in fails("keys rotate image-online").what
    done = run_json("keys rotate image-online --out change.json")
    assert not done["in_force"]
    (lacks,) = done["lacking"]
    assert lacks == "image root 2, root 3: 0 of 1 signatures; may still sign: image-root"
    assert "waits:" in run("keys inspect change.json")
    assert run_json("keys inspect change.json")["lacking"] == [lacks]
    key = "--key fleet/keys/image-root.pem"
    assert call(f"keys sign change.json {key}", EDGEKIT_PASSPHRASE="pw").exit_code == 1
    assert (
        "does not open" in fails(f"keys sign change.json {key} --yes", EDGEKIT_PASSPHRASE="x").what
    )
    assert "enough have signed" in run(
        f"keys sign change.json {key} --yes", EDGEKIT_PASSPHRASE="pw"
    )
    assert "Enough have signed" in run("keys inspect change.json")
    assert "In force" in run("keys apply change.json")
    assert "changed since" in fails("keys apply change.json").what


def test_an_interrupted_change_is_resumed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.fleet import key_applying

    run("keys init")
    assert "No change" in run("keys resume")
    assert run_json("keys resume") == {"in_force": False}
    with monkeypatch.context() as patch:
        patch.setattr(key_applying, "_sign_images_again", lambda *_: 1 / 0)
        assert isinstance(call("keys rotate image-online").exception, ZeroDivisionError)
    assert (place / "fleet/keys" / CHANGE_FILE).exists()
    assert "not finished" in call("keys show").stderr
    assert "image-online-2" in run_json("keys show")["unfinished"]
    assert "In force" in run("keys resume")
    assert run_json("keys show")["unfinished"] is None


def test_a_broker_is_made_with_the_fleet(place: Path) -> None:
    made = run_json("fleet init other --broker-host broker.example --broker-port 9883")
    assert made["broker"]["url"] == "mqtts://broker.example:9883"
    assert Path(made["broker"]["config"]).is_file()
    assert "no name of a host" in fails("fleet init third --broker-host ,").what
    assert not Path("third").exists()
    again = run_json("fleet authority init --broker-host b.example --fleet other")
    assert again["url"] == "mqtts://b.example:8883"
    assert "sh other/mosquitto/run.sh" in run("fleet authority init --fleet other")


def test_the_authority_issues_and_takes_back(place: Path) -> None:
    run("fleet authority issue oven-1 --days 5")
    assert {path.name for path in Path("oven-1").iterdir()} == {
        "device.pem",
        "device-key.pem",
        "ca.pem",
    }
    assert "never overwritten" in fails("fleet authority issue oven-1").what
    assert "no valid device id" in fails("fleet authority issue a/b --out x").what
    assert "cannot be read" in fails("fleet authority issue oven-2 --request none.csr").what
    run("fleet authority issue page --host localhost --host 127.0.0.1 --days 9")
    assert (place / "page/server-key.pem").is_file()
    assert "is for a device" in fails("fleet authority issue x --host x --request x").what
    assert run_json("fleet authority show")["revoked"] == {}
    run("fleet authority revoke oven-1/device.pem 1f")
    assert "neither" in fails("fleet authority revoke moon").what
    shown = run_json("fleet authority show")["revoked"]
    assert len(shown) == 2
    assert "1f" in shown
    assert "2 certificates revoked" in run("fleet authority show")
    authority = FleetAuthority.load(Fleet.open(Path("fleet")))
    assert (place / "fleet/mosquitto/crl.pem").read_bytes() == authority.revocations.read_bytes()
    before = (place / "fleet/mosquitto/broker.pem").read_bytes()
    assert "SIGHUP" in run("fleet authority renew --broker-host broker.example")
    with Path("fleet/fleet.toml").open("a", encoding="utf-8") as settings:
        settings.write('[broker_files]\nchanged = ["true", "broker.example"]\n')
    assert "told by true" in run("fleet authority revoke 2f")
    assert (place / "fleet/mosquitto/broker.pem").read_bytes() != before


def test_the_broker_may_be_named_by_the_environment(place: Path) -> None:
    run("keys init")
    assert "broker is not known" in fails("fleet status").what
    where = "mqtts://localhost:1"
    failure = fails("fleet status", EDGEKIT_BROKER=where)
    assert "no broker answers" in failure.what
    assert failure.where == where
    failure = fails(f"fleet publish --broker {where}?login=none")
    assert "login cannot be read" in failure.what
