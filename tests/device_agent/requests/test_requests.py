"""What a fleet may ask of a device, and who may not."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from edgekit_agent.identity.keys import make_key, signing_request
from edgekit_agent.requests.following import board_name
from edgekit_agent.requests.proving import prove_request
from edgekit_agent.settings import SampleSettings, Tls
from edgekit_agent.transports.arrivals import ReportKind
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.orders import ShadowOrder
from edgekit_runtime.requests import (
    DeviceReply,
    DeviceRequest,
    RequestKind,
    open_request,
    parse_reply,
    sign_request,
)
from tests.simulators.authority import Authority
from tests.simulators.local_agent import DEVICE, RunningAgent, make_config
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import affine_bundle


def signer(key: CryptoSigner) -> Any:
    def sign(data: bytes) -> tuple[str, str]:
        signature = key.sign(data)
        return signature.keyid, signature.signature

    return sign


def message(fleet: SignedFleet, number: int, kind: RequestKind, **changes: Any) -> bytes:
    key = changes.pop("key", fleet.director.signers["targets"])
    request = DeviceRequest(
        device=changes.pop("device", DEVICE),
        number=number,
        expires=changes.pop("expires", time.time() + 60),
        kind=kind,
        arguments=changes,
    )
    return sign_request(request, [signer(key)])


def replies(agent: RunningAgent, number: int) -> list[DeviceReply]:
    found = [
        parse_reply(data, where="test") for data in list(agent.broker.reports[ReportKind.REPLIES])
    ]
    mine = [reply for reply in found if reply.number == number]
    return mine if mine and len(mine) >= mine[0].parts else []


def ask(agent: RunningAgent, number: int, kind: RequestKind, **arguments: Any) -> list[DeviceReply]:
    agent.broker.publish_request(message(agent.fleet, number, kind, **arguments))
    agent.wait_for(lambda: replies(agent, number))
    return replies(agent, number)


FLEET = SignedFleet()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"key": CryptoSigner.generate_ed25519()}, "not signed by the director's keys"),
        ({"key": FLEET.director.signers["timestamp"]}, "not signed by the director's keys"),
        ({"key": FLEET.image.signers["targets"]}, "not signed by the director's keys"),
        ({"device": "device-2"}, "for device-2"),
        ({"number": 5}, "a replay"),
        ({"expires": 1000.0}, "has expired"),
    ],
)
def test_what_does_not_hold_is_refused(changes: dict[str, Any], fault: str) -> None:
    data = message(FLEET, changes.pop("number", 6), RequestKind.LOGS, **changes)
    with pytest.raises(VerificationError, match=fault):
        prove_request(
            open_request(data),
            root=FLEET.director.first_root,
            device=DEVICE,
            last=5,
            now=time.time(),
        )


def test_one_letter_changed_breaks_it() -> None:
    data = message(FLEET, 6, RequestKind.RESTART, what="server").replace(b"server", b"agent!")
    with pytest.raises(VerificationError, match="not signed"):
        prove_request(
            open_request(data), root=FLEET.director.first_root, device=DEVICE, last=5, now=0
        )


@given(st.binary(max_size=300))
def test_no_bytes_bring_it_down(data: bytes) -> None:
    with pytest.raises(VerificationError):
        open_request(data)


@pytest.fixture
def allowing(tmp_path: Path) -> Iterator[RunningAgent]:
    """An agent whose owner allows samples."""
    fleet = SignedFleet()
    samples = SampleSettings(allow=True, random_share=1.0)
    config = dataclasses.replace(make_config(tmp_path, fleet), samples=samples)
    agent = RunningAgent(config=config, fleet=fleet)
    agent.start()
    yield agent
    agent.stop()


def test_an_agent_answers_what_it_is_asked(allowing: RunningAgent) -> None:
    agent = allowing
    agent.install("1.0.0", 2.0)
    (found,) = ask(agent, 1, RequestKind.BENCH, bundle="double")
    assert found.ok
    assert (found.result["version"], found.result["runtime"]) == ("1.0.0", "onnxruntime")
    assert found.result["median_ms"] > 0
    assert found.result["runtime_version"] == agent.state["hardware"]["runtimes"]["onnxruntime"]
    assert found.result["peak_bytes"] > 1 << 20
    (found,) = ask(agent, 2, RequestKind.BENCH, bundle="nothing")
    assert (found.ok, found.result) == (False, {"error": "no such bundle is served here"})
    (found,) = ask(agent, 22, RequestKind.BENCH, bundle="double", version="9.0.0")
    assert (found.ok, found.result) == (False, {"error": "no such version is served here"})
    agent.answer()
    folder = agent.config.data / "samples"
    agent.wait_for(lambda: list(folder.glob("*.npz")))
    sample, *_ = ask(agent, 23, RequestKind.SAMPLES, most=1)
    assert sample.result["sample"].endswith("-double-1.0.0-random.npz")
    (found,) = ask(agent, 24, RequestKind.RENEW)
    assert not found.ok
    assert "no certificate of its own" in found.result["error"]
    parts = ask(agent, 25, RequestKind.LOGS, lines=50)
    lines = [json.loads(line) for part in parts for line in part.result["lines"]]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    told = agent.details("request.followed")
    assert told[:2] == ["bench (number 1)", "bench (number 2)"]


def test_what_runs_beside_is_measured_without_being_served(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    agent.release("double", "2.0.0", affine_bundle("double", "2.0.0", 2.0))
    released = agent.fleet.released["double/2.0.0/index.json"]
    beside = ShadowOrder(
        version="2.0.0",
        digest=released.hashes["sha256"],
        length=released.length,
        run="r1",
        rate=0.1,
        max_per_second=1.0,
        free_bytes=0,
    )
    agent.order(dataclasses.replace(quick_order("double", "1.0.0"), shadow=beside))
    agent.wait_for(lambda: (agent.bundle().get("shadow") or {}).get("phase") == "watching")
    for number, version, measured in (
        (1, "2.0.0", "2.0.0"),
        (2, "1.0.0", "1.0.0"),
        (3, "", "1.0.0"),
    ):
        (found,) = ask(agent, number, RequestKind.BENCH, bundle="double", version=version)
        assert (found.ok, found.result.get("version")) == (True, measured), found
    assert agent.served_versions() == ["1.0.0"]


def test_a_board_is_called_what_its_device_tree_says(tmp_path: Path) -> None:
    assert board_name(tmp_path) == ""
    tree = tmp_path / "proc" / "device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    assert board_name(tmp_path) == "Raspberry Pi 4 Model B Rev 1.4"


def test_a_restart_of_the_server_loses_no_request(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    before = agent.server_pid
    ask(agent, 1, RequestKind.RESTART)
    agent.wait_for(lambda: agent.server_pid != before)
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
    assert "server.crashed" not in agent.kinds()


def test_a_restart_of_the_agent_ends_it_in_order(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    ask(agent, 7, RequestKind.RESTART, what="agent")
    thread = agent.thread
    assert thread
    thread.join(30)
    assert not thread.is_alive()
    agent.stop()
    agent.start()
    agent.broker.publish_request(message(agent.fleet, 7, RequestKind.RESTART, what="agent"))
    agent.wait_for(lambda: agent.details("security.refused"))
    assert "a replay" in agent.details("security.refused")[0]
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]


def test_samples_need_the_owners_leave_and_strangers_get_nothing(agent: RunningAgent) -> None:
    (found,) = ask(agent, 1, RequestKind.SAMPLES, most=5)
    assert not found.ok
    assert "does not allow samples" in found.result["error"]
    forged = message(agent.fleet, 2, RequestKind.LOGS, key=CryptoSigner.generate_ed25519())
    agent.broker.publish_request(forged)
    agent.broker.publish_request(b"no request at all")
    agent.wait_for(lambda: len(agent.details("security.refused")) == 2)
    assert replies(agent, 2) == []


def test_a_certificate_is_renewed_before_it_expires(tmp_path: Path) -> None:
    fleet, authority = SignedFleet(), Authority()
    tls = Tls(ca=tmp_path / "ca.pem", certificate=tmp_path / "c.pem", key=tmp_path / "k.pem")
    assert tls.key
    assert tls.certificate
    make_key(tls.key)
    tls.ca.write_text(authority.pem)
    request = signing_request(tls.key, device=DEVICE, fleet="test")
    tls.certificate.write_text(authority.sign(request, days=1, passed=9))
    config = dataclasses.replace(make_config(tmp_path, fleet), tls=tls)
    agent = RunningAgent(config=config, fleet=fleet)
    agent.start()
    try:
        # Nobody asked: number 0.
        agent.wait_for(lambda: list(agent.broker.reports[ReportKind.REPLIES]))
        document = json.loads(agent.broker.reports[ReportKind.REPLIES][0])
        assert document["number"] == 0
        new = authority.sign(document["result"]["request"], days=20)
        (found,) = ask(agent, 1, RequestKind.CERTIFICATE, certificate=new, authorities="")
        assert found.ok, found
        assert tls.certificate.read_text() == new
        (found,) = ask(agent, 2, RequestKind.CERTIFICATE, certificate="junk", authorities="")
        assert not found.ok
        assert tls.certificate.read_text() == new
    finally:
        agent.stop()
