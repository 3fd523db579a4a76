"""Joining a fleet: the key stays here, the token works once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit_agent.config import load_config
from edgekit_agent.identity.enrolment import enrol, parse_answer
from edgekit_agent.identity.keys import (
    install_certificate,
    make_key,
    renewal_time,
    signing_request,
)
from edgekit_agent.provision import check_agent
from edgekit_agent.settings import Tls
from edgekit_runtime.errors import EdgekitError, UsageError, VerificationError
from tests.simulators.authority import Authority, EnrolmentServer
from tests.simulators.signed_fleet import SignedFleet


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EnrolmentServer]:
    with EnrolmentServer(tmp_path, fleet=SignedFleet(), tokens={"secret": "cam-7"}) as running:
        yield running


def join(server: EnrolmentServer, folder: Path, **changes: object) -> Path:
    options = {
        "url": server.url,
        "device": "cam-7",
        "fleet": "plant",
        "token": "secret",
        "folder": folder,
        "ca": server.ca,
        "http_port": 0,
        **changes,
    }
    return enrol(options.pop("url"), **options)  # type: ignore[arg-type]


def test_a_token_gives_a_folder_that_is_complete(server: EnrolmentServer, tmp_path: Path) -> None:
    path = join(server, tmp_path / "agent")
    config = load_config(path)
    assert config.tls
    assert config.tls.key
    assert (config.device, config.fleet, config.broker_port) == ("cam-7", "plant", 8883)
    assert config.tls.key.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE KEY" in config.tls.key.read_bytes()
    assert all(finding.ok for finding in check_agent(path)), check_agent(path)
    with pytest.raises(UsageError, match="an agent in this folder"):
        join(server, tmp_path / "agent")


def test_check_looks_at_the_identity(server: EnrolmentServer, tmp_path: Path) -> None:
    path = join(server, tmp_path / "agent")
    tls = load_config(path).tls
    assert tls
    assert tls.key
    assert tls.certificate

    def found() -> str:
        (finding,) = [finding for finding in check_agent(path) if finding.name == "TLS"]
        return f"{finding.ok} {finding.detail}"

    assert found().startswith("True cam-7, certificate valid until 20")
    authorities = tls.ca.read_text()
    tls.ca.write_text("no certificate")
    assert "False TLS cannot be spoken with these files" in found()
    tls.ca.write_text(authorities)
    tls.key.chmod(0o644)
    assert "False others may read the key" in found()
    tls.key.chmod(0o600)
    request = signing_request(tls.key, device="cam-7", fleet="plant")
    tls.certificate.write_text(server.authority.sign(request, days=-1, passed=9))
    assert "False the certificate expired on" in found()
    make_key(tmp_path / "other.pem")
    request = signing_request(tmp_path / "other.pem", device="cam-7", fleet="plant")
    tls.certificate.write_text(server.authority.sign(request))
    assert found() == "False the certificate is for another key"
    tls.key.unlink()
    assert found().startswith("False no such file")


def test_a_token_works_once_and_for_one_device(server: EnrolmentServer, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="403"):
        join(server, tmp_path / "other", device="cam-8")
    join(server, tmp_path / "first")
    with pytest.raises(EdgekitError, match="not valid"):
        join(server, tmp_path / "second")
    assert not (tmp_path / "second" / "agent.toml").exists()


def test_after_a_failure_the_same_key_is_used_again(
    server: EnrolmentServer, tmp_path: Path
) -> None:
    with pytest.raises(EdgekitError, match="403"):
        join(server, tmp_path / "agent", token="wrong")
    key = (tmp_path / "agent" / "identity" / "device-key.pem").read_bytes()
    join(server, tmp_path / "agent")
    assert (tmp_path / "agent" / "identity" / "device-key.pem").read_bytes() == key


def test_an_unproven_control_plane_gets_no_token(server: EnrolmentServer, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.pem"
    stranger.write_text(Authority().pem)
    with pytest.raises(EdgekitError, match="CERTIFICATE_VERIFY_FAILED"):
        join(server, tmp_path / "agent", ca=stranger)
    assert server.tokens == {"secret": "cam-7"}
    with pytest.raises(UsageError, match="over https only"):
        join(server, tmp_path / "agent", url="http://127.0.0.1")


def test_what_is_for_somebody_else_is_refused(server: EnrolmentServer, tmp_path: Path) -> None:
    make_key(tmp_path / "other-key.pem")
    request = signing_request(tmp_path / "other-key.pem", device="cam-7", fleet="plant")
    server.changes = {"certificate": server.authority.sign(request)}
    with pytest.raises(VerificationError, match="for another key"):
        join(server, tmp_path / "agent")
    server.tokens["again"] = "cam-7"
    server.changes = {"fleet": "evil"}
    with pytest.raises(VerificationError, match="this is the fleet evil, not plant"):
        join(server, tmp_path / "agent", token="again")
    assert not (tmp_path / "agent" / "agent.toml").exists()


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"<html>", "no JSON"),
        (b"[]", "must be an object"),
        (b'{"fleet": "a b", "broker": {"host": "h\\"x", "port": 0}}', "fleet:.*host:.*port:.*cert"),
    ],
)
def test_an_answer_that_is_none_is_refused(data: bytes, fault: str) -> None:
    with pytest.raises(VerificationError, match=fault):
        parse_answer(data, where="test")


def test_a_certificate_is_renewed_for_the_same_key_only(tmp_path: Path) -> None:
    authority = Authority()
    tls = Tls(ca=tmp_path / "ca.pem", certificate=tmp_path / "c.pem", key=tmp_path / "k.pem")
    assert tls.key
    assert tls.certificate
    make_key(tls.key)
    old = authority.sign(signing_request(tls.key, device="d", fleet="f"), days=1, passed=9)
    install_certificate(tls, old, authority.pem, device="d")
    new = authority.sign(signing_request(tls.key, device="d", fleet="f"), days=10)
    install_certificate(tls, new, "", device="d")
    assert tls.certificate.read_text() == new
    make_key(tmp_path / "other.pem")
    foreign = authority.sign(signing_request(tmp_path / "other.pem", device="d", fleet="f"))
    for wrong, device in ((foreign, "d"), (new, "e"), ("no certificate", "d")):
        with pytest.raises(VerificationError):
            install_certificate(tls, wrong, "", device=device)
    assert tls.certificate.read_text() == new


def test_two_thirds_of_its_life_are_used(tmp_path: Path) -> None:
    import time

    make_key(tmp_path / "k.pem")
    request = signing_request(tmp_path / "k.pem", device="d", fleet="f")
    certificate = tmp_path / "c.pem"
    certificate.write_text(Authority().sign(request, days=3, passed=6))
    assert renewal_time(certificate) == pytest.approx(time.time(), abs=300)


def test_the_command(server: EnrolmentServer, tmp_path: Path) -> None:
    arguments = [
        *("--url", server.url, "--device", "cam-7", "--fleet", "plant", "--ca", str(server.ca)),
        *("--folder", str(tmp_path / "agent"), "--http-port", "0", "--json"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "edgekit_agent.cli", "enrol", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"EDGEKIT_TOKEN": "secret", "PATH": ""},
    )
    assert done.returncode == 0, done
    assert Path(json.loads(done.stdout)["config"]).exists()
