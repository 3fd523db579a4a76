"""Devices come in by the API: with the real agent's own code, and as strangers try it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgekit.fleet.access import Role
from edgekit.fleet.api.attempts import Attempts, TooManyAttemptsError
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.serving import PageServer
from edgekit.fleet.audit import read_audit
from edgekit.fleet.authority import FleetAuthority
from edgekit.fleet.devices.enrolment import create_enrolment_token
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.keys import init_keys
from edgekit_agent.config import load_config
from edgekit_agent.identity.enrolment import enrol
from edgekit_agent.identity.keys import make_key, signing_request
from edgekit_agent.provision import check_agent
from edgekit_runtime.errors import EnvironmentLackError

API = "/api/v1"


@pytest.fixture
def ready(fleet: Fleet) -> Fleet:
    """A fleet with keys, an authority and a broker."""
    init_keys(fleet)
    FleetAuthority.create(fleet)
    return fleet.with_broker(BrokerAddress("broker.example", 8883))


def form(folder: Path, token: str, *, device: str = "cam-1", **changes: Any) -> dict[str, Any]:
    make_key(folder / "key")
    request = signing_request(folder / "key", device=device, fleet="plant-7")
    return {"device": device, "fleet": "plant-7", "token": token, "request": request} | changes


def token_of(site: Any, **options: Any) -> str:
    text: str = create_enrolment_token(site.plane.database, actor="test", **options)[1]
    return text


@pytest.fixture
def https(site: Any, ready: Fleet, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The same control plane over TLS: its address, and what proves it."""
    authority = FleetAuthority.load(ready)
    issued, key = authority.issue("control plane", hosts=("127.0.0.1",))
    paths = [tmp_path / name for name in ("server.pem", "server-key.pem", "ca.pem")]
    for path, data in zip(
        paths, (issued.pem.encode(), key, authority.authorities_pem.encode()), strict=True
    ):
        path.write_bytes(data)
    plane = ControlPlane(fleet=ready, database=site.plane.database)
    server = PageServer(plane, host="127.0.0.1", port=0, certificate=paths[0], key=paths[1])
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"https://{server.address}", paths[2]
    server.stop()
    thread.join()


def test_the_agent_comes_in_with_a_token_and_is_complete(
    site: Any, https: tuple[str, Path], tmp_path: Path
) -> None:
    url, ca = https
    made = site.client(Role.ADMIN).post(
        f"{API}/enrolment-tokens", json={"labels": {"site": "berlin"}, "hours": 2}
    )
    token = made.json()["token"]

    def join(folder: str, device: str) -> Path:
        return enrol(
            url,
            device=device,
            fleet="plant-7",
            token=token,
            folder=tmp_path / folder,
            ca=ca,
            http_port=0,
        )

    config = load_config(join("agent", "cam-1"))
    assert (config.broker_host, config.broker_port) == ("broker.example", 8883)
    assert all(finding.ok for finding in check_agent(tmp_path / "agent" / "agent.toml"))
    with pytest.raises(EnvironmentLackError, match=r"refused: 403 .*it is used"):
        join("other", "cam-2")
    operator = site.client(Role.OPERATOR)
    (listed,) = operator.get(f"{API}/enrolment-tokens").json()
    assert (listed["standing"], listed["device"]) == ("used", "cam-1")
    assert operator.get(f"{API}/devices/cam-1").json()["labels"] == {"site": "berlin"}
    (held,) = operator.get(f"{API}/devices/cam-1/certificates").json()
    assert operator.post(f"{API}/devices/cam-1/revocation").json() == {"revoked": 1}
    assert set(FleetAuthority.load(site.plane.fleet).revoked()) == {int(held["serial"], 16)}
    assert operator.get(f"{API}/devices/cam-1/certificates").json()[0]["revoked"] is not None


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"token": "eke_0000000000000000_" + "A" * 43}, 403, "not known"),
        ({"token": "ekt_x"}, 403, "not known"),
        ({"fleet": "elsewhere"}, 403, "not let cam-1 in: it is for the fleet plant-7"),
        ({"device": "cam-2"}, 400, "is for"),
        ({"request": "-----BEGIN"}, 400, "no certificate signing request"),
        ({"device": "../x"}, 422, "device"),
        ({"request": "x" * 20_000}, 422, "request"),
        ({"token": 7}, 422, "token"),
    ],
)
def test_who_may_not_come_in_is_told_why_and_written_down(
    site: Any, ready: Fleet, tmp_path: Path, changes: dict[str, Any], status: int, says: str
) -> None:
    token = token_of(site)
    secret = token.split("_", 2)[2]
    answer = site.client(None).post("/v1/enrol", json=form(tmp_path, token) | changes)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["what"]
    with site.plane.database.read() as session:
        entries = read_audit(session)
    refused = [entry for entry in entries if entry.action == "enrolment.refused"]
    assert len(refused) == (0 if status == 422 else 1)
    assert secret not in str(entries)
    # Who may read the log need not know who came.
    assert "cam-" not in str(refused)
    assert site.client(None).post("/v1/enrol", json=form(tmp_path, token)).status_code == 200


def test_who_is_refused_again_and_again_has_to_wait(
    site: Any, ready: Fleet, tmp_path: Path
) -> None:
    stranger = site.client(None)
    right = form(tmp_path, token_of(site))
    wrong = right | {"token": "eke_0000000000000000_" + "A" * 43}
    statuses = [stranger.post("/v1/enrol", json=wrong).status_code for _ in range(12)]
    assert statuses == [403] * 10 + [429] * 2
    answer = stranger.post("/v1/enrol", json=wrong)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    # From behind the same proxy somebody else comes in.
    assert stranger.post("/v1/enrol", json=right).status_code == 200
    with site.plane.database.read() as session:
        assert sum(e.action == "enrolment.refused" for e in read_audit(session)) == 10


def test_a_control_plane_that_is_not_ready_uses_no_token_up(
    site: Any, fleet: Fleet, tmp_path: Path
) -> None:
    token = token_of(site)
    client = site.client(None)
    steps = [
        ("no certificate authority", lambda: FleetAuthority.create(fleet)),
        ("no keys yet", lambda: init_keys(fleet)),
        ("no broker yet", lambda: fleet.with_broker(BrokerAddress("b", 1883))),
    ]
    for lacks, mend in steps:
        answer = client.post("/v1/enrol", json=form(tmp_path, token))
        assert answer.status_code == 503
        assert lacks in answer.json()["what"]
        mend()
    assert client.post("/v1/enrol", json=form(tmp_path, token)).status_code == 200


def test_a_token_of_a_person_lets_no_device_in(site: Any, ready: Fleet, tmp_path: Path) -> None:
    answer = site.client(None).post("/v1/enrol", json=form(tmp_path, site.tokens[Role.ADMIN]))
    assert answer.status_code == 403
    as_person = httpx.get(
        f"{site.url}{API}/devices", headers={"Authorization": f"Bearer {token_of(site)}"}
    )
    assert as_person.status_code == 401


def test_refusals_are_counted_by_household_and_forgotten_in_time() -> None:
    now = [0.0]
    attempts = Attempts(most=2, seconds=60, clock=lambda: now[0])
    attempts.count("2001:db8::1")
    attempts.count("2001:db8::2")
    with pytest.raises(TooManyAttemptsError) as caught:
        attempts.count("2001:db8::3")
    assert caught.value.seconds == 60
    attempts.count("2001:db8:0:1::1")
    attempts.count("10.0.0.1")
    now[0] = 61
    attempts.count("2001:db8::3")
    for number in range(20_000):
        attempts.count(f"10.{number >> 8 & 255}.{number & 255}.1")
    assert len(attempts._refused) <= 10_000
