from __future__ import annotations

import dataclasses
import http.client
import json
import os
import shutil
import signal
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from securesystemslib.signer import CryptoSigner

from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.orders import Budget
from tests.simulators.local_agent import DEVICE, RunningAgent, infer_body
from tests.simulators.signed_fleet import quick_order
from tests.simulators.tiny_bundles import (
    GOLDEN,
    affine_bundle,
    affine_model,
    bundle_files,
    endless_bundle,
    greedy_model,
    logarithm_model,
    looping_model,
)


def test_installs_an_order_serves_it_and_moves_on(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
    assert [kind for kind in agent.kinds() if kind.startswith("update.")] == [
        "update.fetching",
        "update.staged",
        "update.trying",
        "update.active",
    ]
    agent.install("2.0.0", 3.0)
    assert agent.answer() == [3.0, 6.0, 9.0, 12.0]
    assert agent.bundle()["previous"] == "1.0.0"
    sequences = [event["sequence"] for event in agent.events]
    assert sequences == list(range(1, len(sequences) + 1))


def test_an_ordered_downgrade_uses_the_slot_that_is_there(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    agent.install("2.0.0", 3.0)
    fetched = len(agent.broker.requests)
    agent.order(quick_order("double", "1.0.0"))
    agent.wait_for(lambda: agent.is_active("double") and agent.bundle()["active"] == "1.0.0")
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
    assert len(agent.broker.requests) == fetched


def test_two_bundles_are_served_side_by_side_and_one_is_withdrawn(agent: RunningAgent) -> None:
    for name, scale in (("double", 2.0), ("triple", 3.0)):
        agent.release(name, "1.0.0", affine_bundle(name, "1.0.0", scale))
    agent.order(quick_order("double", "1.0.0"), quick_order("triple", "1.0.0"))
    agent.wait_for(lambda: agent.is_active("double") and agent.is_active("triple"))
    # These gates ask for no time in use: the server before may still take a last connection.
    agent.wait_for(lambda: agent.served_versions("triple") == ["1.0.0"])
    assert agent.answer("double")[0] == 2.0
    assert agent.answer("triple")[0] == 3.0
    agent.order(quick_order("double", "1.0.0"))
    agent.wait_for(lambda: set(agent.state["bundles"]) == {"double"})
    agent.wait_for(lambda: agent.request("GET", "/v2/models/triple")[0] == 404)
    assert agent.answer("double")[0] == 2.0
    assert not (agent.config.data / "slots" / "triple").exists()


def test_a_tampered_chunk_is_refused_and_the_right_one_taken(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    before = dict(agent.broker.chunks)
    agent.fleet.release("double", "2.0.0", affine_bundle("double", "2.0.0", 3.0))
    new = {name: data for name, data in agent.fleet.chunks.items() if name not in before}
    tampered = {name: bytes([data[0] ^ 1]) + data[1:] for name, data in new.items()}
    agent.broker.publish_chunks(tampered)
    agent.broker.publish_metadata(agent.fleet.image_message())
    agent.order(quick_order("double", "2.0.0"))
    agent.wait_for(lambda: "security.refused" in agent.kinds())
    assert "does not match its signed hash" in agent.details("security.refused")[0]
    assert "signed hash" in agent.bundle()["reason"]
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
    agent.broker.publish_chunks(new)
    agent.wait_for(lambda: agent.is_active("double") and agent.bundle()["active"] == "2.0.0")


def test_a_chunk_that_stays_wrong_ends_the_update(agent: RunningAgent) -> None:
    agent.stop()
    few = dataclasses.replace(agent.config.limits, chunk_refusals=2)
    agent.config = dataclasses.replace(agent.config, limits=few)
    agent.start()
    agent.install("1.0.0", 2.0)
    before = dict(agent.broker.chunks)
    agent.fleet.release("double", "2.0.0", affine_bundle("double", "2.0.0", 3.0))
    agent.broker.publish_chunks(
        {name: b"evil" for name in agent.fleet.chunks if name not in before}
    )
    agent.broker.publish_metadata(agent.fleet.image_message())
    agent.order(quick_order("double", "2.0.0"))
    agent.wait_for_phase("rejected")
    assert "refused 2 times" in agent.bundle()["reason"]
    assert agent.kinds().count("security.refused") == 1
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]


def test_a_chunk_that_is_not_there_is_reported_and_awaited(agent: RunningAgent) -> None:
    agent.fleet.release("double", "1.0.0", affine_bundle("double", "1.0.0", 2.0))
    chunks = dict(agent.fleet.chunks)
    late = chunks.popitem()
    agent.broker.publish_chunks(chunks)
    agent.broker.publish_metadata(agent.fleet.image_message())
    agent.order(quick_order("double", "1.0.0"))
    agent.wait_for(lambda: agent.details("update.waiting"))
    assert late[0][:12] in agent.details("update.waiting")[0]
    agent.broker.publish_chunks(dict([late]))
    agent.wait_for_phase("active")


def test_a_fetch_goes_on_where_it_stopped(agent: RunningAgent) -> None:
    agent.fleet.release("double", "1.0.0", affine_bundle("double", "1.0.0", 2.0, padding=200_000))
    chunks = dict(agent.fleet.chunks)
    largest = max(chunks, key=lambda name: len(chunks[name]))
    agent.broker.publish_chunks({n: d for n, d in chunks.items() if n != largest})
    agent.broker.publish_metadata(agent.fleet.image_message())
    agent.order(quick_order("double", "1.0.0"))
    agent.wait_for(lambda: agent.details("update.waiting"))
    agent.stop()
    agent.broker.requests.clear()
    agent.broker.publish_chunks(chunks)
    agent.start()
    agent.wait_for_phase("active")
    assert set(agent.broker.requests) == {largest}


def test_an_order_signed_by_a_wrong_key_changes_nothing(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    agent.release("double", "2.0.0", affine_bundle("double", "2.0.0", 3.0))
    forged = {role: CryptoSigner.generate_ed25519() for role in ("targets", "snapshot")}
    forged["timestamp"] = CryptoSigner.generate_ed25519()
    agent.order(quick_order("double", "2.0.0"), signers=forged)
    agent.wait_for(lambda: agent.details("security.refused"))
    assert "signed by a key that the root does not trust" in agent.details("security.refused")[0]
    assert agent.bundle()["active"] == "1.0.0"
    assert agent.is_active("double")


def test_a_replayed_order_changes_nothing(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    old = agent.broker.order
    assert old
    agent.install("2.0.0", 3.0)
    agent.broker.publish_order(old)
    agent.wait_for(lambda: agent.details("security.refused"))
    assert agent.details("security.refused") == [
        "an older order (version 1) than the one already followed (2): a replay"
    ]
    assert agent.answer() == [3.0, 6.0, 9.0, 12.0]


def test_golden_samples_that_do_not_match_reject_the_candidate(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    wrong = bundle_files(
        "double", "2.0.0", [("plain", affine_model(3.0))], expected=GOLDEN * np.float32(5.0)
    )
    agent.release("double", "2.0.0", wrong)
    agent.order(quick_order("double", "2.0.0"))
    agent.wait_for_phase("rejected")
    assert "golden samples do not match" in agent.bundle()["reason"]
    assert "plain" in agent.details("update.variant_failed")[0]
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
    # The same order does not bring it back; a newer one does.
    agent.broker.set_online(online=False)
    agent.broker.set_online(online=True)
    agent.wait_for_phase("rejected")
    assert agent.kinds().count("update.rejected") == 1
    agent.order(quick_order("double", "2.0.0"))
    agent.wait_for(lambda: agent.kinds().count("update.rejected") == 2)


def test_the_next_variant_is_tried_when_the_best_fails(agent: RunningAgent) -> None:
    files = bundle_files(
        "double",
        "1.0.0",
        [("wrong", affine_model(7.0)), ("junk", b"\x08\x08junk"), ("right", affine_model(2.0))],
        expected=GOLDEN * 2,
    )
    agent.release("double", "1.0.0", files)
    agent.order(quick_order("double", "1.0.0"))
    agent.wait_for_phase("active")
    assert agent.bundle()["variant"] == "right"
    failed = agent.details("update.variant_failed")
    assert ["wrong" in failed[0], "junk" in failed[1]] == [True, True]


def test_a_bundle_that_no_runtime_here_runs_is_rejected(agent: RunningAgent) -> None:
    files = bundle_files(
        "double",
        "1.0.0",
        [("plain", affine_model(2.0))],
        expected=GOLDEN * 2,
        runtimes=("tpu-runtime",),
    )
    agent.release("double", "1.0.0", files)
    agent.order(quick_order("double", "1.0.0"))
    agent.wait_for_phase("rejected")
    assert "needs tpu-runtime, which is not installed" in agent.bundle()["reason"]


def test_a_candidate_over_its_time_limit_is_rejected(agent: RunningAgent) -> None:
    agent.release("double", "1.0.0", endless_bundle("double", "1.0.0"))
    agent.order(quick_order("double", "1.0.0", budget=Budget(trial_seconds=2.0)))
    agent.wait_for_phase("rejected")
    assert "took longer than the 2 s" in agent.bundle()["reason"]


def test_a_candidate_over_its_memory_limit_is_rejected(agent: RunningAgent) -> None:
    files = bundle_files("double", "1.0.0", [("greedy", greedy_model(600))], expected=GOLDEN)
    agent.release("double", "1.0.0", files)
    agent.order(quick_order("double", "1.0.0", budget=Budget(memory_bytes=300 << 20)))
    agent.wait_for_phase("rejected")
    assert "300 MB are allowed" in agent.bundle()["reason"]


def test_answers_that_are_no_numbers_roll_back(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    golden = GOLDEN + 1
    files = bundle_files(
        "double", "2.0.0", [("log", logarithm_model())], expected=np.log(golden), golden=golden
    )
    agent.release("double", "2.0.0", files)
    agent.order(quick_order("double", "2.0.0", min_requests=100))
    agent.wait_for(lambda: agent.served_versions() == ["2.0.0"])
    # Just after the switch the old server may still take a connection.
    refusal = (500, {"error": "the model gave no finite number"})
    agent.wait_for(lambda: agent.infer([-1.0, 1.0, 1.0, 1.0]) == refusal)
    agent.wait_for_phase("rolled_back")
    assert "1 of 1 answers held NaN or infinity" in agent.bundle()["reason"]
    agent.wait_for(lambda: agent.infer([-1.0, 1.0, 1.0, 1.0])[0] == 200)


def test_a_candidate_that_crashes_in_use_is_rolled_back(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    agent.release("double", "2.0.0", affine_bundle("double", "2.0.0", 3.0))
    agent.order(quick_order("double", "2.0.0", min_requests=1000, max_crashes=2))
    agent.wait_for_phase("trying")
    for count in (1, 2):
        agent.wait_for(lambda: agent.served_versions() == ["2.0.0"])
        agent.wait_for(lambda: agent.server_pid)
        os.kill(agent.server_pid or 0, signal.SIGSEGV)
        agent.wait_for(lambda wanted=count: agent.kinds().count("server.crashed") == wanted)
    agent.wait_for_phase("rolled_back")
    assert "SIGSEGV" in agent.bundle()["reason"]
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]


def test_the_model_that_was_computing_is_blamed_for_a_crash(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    golden = np.ones((1, 4), dtype=np.float32)
    files = bundle_files(
        "loop", "1.0.0", [("loop", looping_model())], expected=2 * golden, golden=golden
    )
    digest = agent.release("loop", "1.0.0", files)
    agent.order(
        quick_order("double", "1.0.0"), quick_order("loop", "1.0.0", min_requests=9, max_crashes=1)
    )
    supervisor = agent.supervisor
    assert supervisor
    agent.wait_for(lambda: agent.served_versions("loop") == ["1.0.0"])
    # The server before this one does not know the model, and accepts until it has drained.
    agent.wait_for(lambda: not supervisor._doors._draining)
    client = http.client.HTTPConnection("127.0.0.1", agent.port)
    client.request("POST", "/v2/models/loop/infer", json.dumps(infer_body([1e15] * 4)))
    agent.wait_for(lambda: supervisor._doors.stats_of(digest).requests == 1)
    os.kill(agent.server_pid or 0, signal.SIGSEGV)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        client.getresponse()
    client.close()
    agent.wait_for_phase("rolled_back", "loop")
    assert "SIGSEGV" in agent.bundle("loop")["reason"]
    assert agent.is_active("double")
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]


def test_a_server_that_dies_comes_back_and_clients_wait_for_it(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    pid = agent.server_pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
    agent.wait_for(lambda: "server.crashed" in agent.kinds())


def test_it_answers_without_a_broker_after_a_restart(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    agent.stop()
    assert json.loads(agent.broker.states[-1])["online"] is False
    agent.broker.online = False
    agent.start()
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]


def test_it_serves_on_when_the_metadata_has_expired(agent: RunningAgent) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5)
    agent.release("double", "1.0.0", affine_bundle("double", "1.0.0", 2.0))
    agent.order(quick_order("double", "1.0.0"), expires=soon)
    agent.wait_for_phase("active")
    agent.wait_for(lambda: datetime.now(UTC) > soon)
    agent.stop()
    agent.start()
    agent.wait_for(lambda: agent.details("security.refused"))
    assert f"expired on {soon:%Y-%m-%dT%H:%M:%SZ}" in agent.details("security.refused")[0]
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]


def test_a_lost_journal_is_rebuilt_from_the_slots(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    agent.install("2.0.0", 3.0)
    agent.stop()
    (agent.config.data / "journal.json").write_bytes(b'{"format": "edgekit-jour')
    agent.broker.online = False
    agent.start()
    assert agent.answer() == [3.0, 6.0, 9.0, 12.0]
    agent.broker.set_online(online=True)
    agent.wait_for(lambda: agent.details("journal.lost"))
    assert "found on the disk: double 2.0.0" in agent.details("journal.lost")[0]
    # Who counts each number once misses nothing.
    sequences = [event["sequence"] for event in agent.events]
    assert sequences == list(range(1, len(sequences) + 1))


def test_a_damaged_slot_falls_back_and_is_fetched_again(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    digest = agent.install("2.0.0", 3.0)
    agent.stop()
    model = agent.config.data / "slots" / "double" / digest[:16] / "models" / "plain"
    model.write_bytes(bytes([1]) + model.read_bytes()[1:])
    agent.start()
    agent.wait_for(lambda: "slot.lost" in agent.kinds())
    agent.wait_for(lambda: agent.is_active("double") and agent.bundle()["active"] == "2.0.0")
    assert agent.answer() == [3.0, 6.0, 9.0, 12.0]


def test_a_slot_that_vanished_is_fetched_again(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    agent.stop()
    shutil.rmtree(agent.config.data / "slots" / "double")
    agent.start()
    agent.wait_for(lambda: agent.is_active("double") and "slot.lost" in agent.kinds())
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]


def test_two_agents_do_not_share_a_folder(agent: RunningAgent) -> None:
    from edgekit_agent.supervisor import Supervisor

    with pytest.raises(EnvironmentLackError, match="another agent"):
        Supervisor(agent.config, transport=agent.broker.connect)


def test_gates_wait_for_requests_and_roll_back_at_the_deadline(agent: RunningAgent) -> None:
    agent.release("double", "1.0.0", affine_bundle("double", "1.0.0", 2.0))
    agent.order(quick_order("double", "1.0.0", min_requests=5))
    agent.wait_for(lambda: agent.served_versions() == ["1.0.0"])
    for _ in range(5):
        agent.answer()
    agent.wait_for_phase("active")
    agent.release("double", "2.0.0", affine_bundle("double", "2.0.0", 3.0))
    agent.order(quick_order("double", "2.0.0", min_requests=5, deadline_seconds=1.0))
    agent.wait_for_phase("rolled_back")
    assert "0 requests of the 5 needed" in agent.bundle()["reason"]
    agent.wait_for(lambda: agent.answer() == [2.0, 4.0, 6.0, 8.0])


def test_no_process_or_thread_stays_behind(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    pid = agent.server_pid
    assert pid
    agent.stop()
    assert not os.path.exists(f"/proc/{pid}")  # noqa: PTH110
    left = [thread.name for thread in threading.enumerate() if thread.name in ("files", "trials")]
    assert left == []


def test_the_state_names_device_and_hardware(agent: RunningAgent) -> None:
    agent.wait_for(lambda: agent.state)
    assert agent.state["device"] == DEVICE
    assert "onnxruntime" in agent.state["hardware"]["runtimes"]
