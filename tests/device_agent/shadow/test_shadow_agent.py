"""A real agent that runs a version beside the one that serves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_agent.config import AgentConfig
from edgekit_agent.settings import TelemetrySettings
from edgekit_agent.transports.arrivals import ReportKind
from edgekit_runtime.orders import Budget, ShadowOrder
from edgekit_runtime.sealing.keys import KeySource, write_new_key
from edgekit_runtime.sealing.vault import Encryption
from edgekit_runtime.shadow import ShadowCounts, merge_shadows
from edgekit_runtime.telemetry import parse_batch
from tests.simulators.background_work import running
from tests.simulators.local_agent import RunningAgent, make_config
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import (
    GOLDEN,
    affine_model,
    bundle_files,
    hungry_model,
    logarithm_model,
    looping_model,
)

LIVE = [-1.5, 0.75, 0.5, 1.0]


class ShadowAgent(RunningAgent):
    """An agent, and what it says of versions beside."""

    def shadow(self) -> dict[str, Any]:
        found: dict[str, Any] = self.bundle().get("shadow") or {}
        return found

    def reported(self) -> ShadowCounts:
        batches = [
            parse_batch(message, where="test")
            for message in list(self.broker.reports[ReportKind.TELEMETRY])
        ]
        windows = {
            (batch.stream, sequence): window
            for batch in batches
            for sequence, window in batch.records
        }
        mine = merge_shadows(c for window in windows.values() for c in window.shadows)
        return mine[0] if mine else ShadowCounts(run="", active="")

    def run_beside(self, version: str, files: dict[str, bytes], **wanted: Any) -> ShadowOrder:
        """Serve version 1.0.0, and order another beside it."""
        self.install("1.0.0", 2.0)
        self.release("double", version, files)
        return self.order_beside(version, **wanted)

    def order_beside(self, version: str, **wanted: Any) -> ShadowOrder:
        released = self.fleet.released[f"double/{version}/index.json"]
        usual: dict[str, Any] = {"run": "r1", "rate": 1.0, "max_per_second": 1e6, "free_bytes": 0}
        shadow = ShadowOrder(
            version=version,
            digest=released.hashes["sha256"],
            length=released.length,
            **(usual | wanted),
        )
        self.order(replace(quick_order("double", "1.0.0"), shadow=shadow))
        return shadow

    def wait_for_shadow(self, phase: str) -> None:
        self.wait_for(lambda: self.shadow().get("phase") == phase)


def short_windows(folder: Path, fleet: SignedFleet) -> AgentConfig:
    return replace(make_config(folder, fleet), telemetry=TelemetrySettings(window_seconds=1.0))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[ShadowAgent]:
    fleet = SignedFleet()
    made = ShadowAgent(config=short_windows(tmp_path, fleet), fleet=fleet)
    made.start()
    yield made
    made.stop()


@contextmanager
def traffic(agent: ShadowAgent) -> Iterator[list[tuple[int, Any]]]:
    """An application that asks all the time; every answer is looked at in the end."""
    answers: list[tuple[int, Any]] = []

    def ask(goes_on: Callable[[], bool]) -> None:
        while goes_on():
            answers.append(agent.infer(LIVE))
            time.sleep(0.01)

    with running(ask):
        yield answers
    assert answers
    served = [2 * value for value in LIVE]
    for status, document in answers:
        assert status == 200, document
        assert document["outputs"][0]["data"] == served


def bundle(version: str, model: bytes, expected: np.ndarray) -> dict[str, bytes]:
    return bundle_files("double", version, [("plain", model)], expected=expected)


def test_answers_are_compared_and_never_served(agent: ShadowAgent) -> None:
    agent.run_beside("2.0.0", bundle("2.0.0", affine_model(3.0), GOLDEN * 3))
    agent.wait_for_shadow("watching")
    with traffic(agent):
        agent.wait_for(lambda: agent.reported().compared >= 20)
    total = agent.reported()
    assert (total.run, total.active) == ("r1", "1.0.0")
    assert (total.agreed, total.failed, total.insane) == (0, 0, 0)
    assert total.outputs["y"].largest == pytest.approx(1.5)
    assert total.outputs["y"].relative == pytest.approx(0.5)
    assert sum(total.latency.values()) == sum(total.active_latency.values()) == total.compared
    assert agent.bundle()["active"] == "1.0.0"
    # Nothing of a request was written down.
    assert not list((agent.config.data / "shadow").glob("*.npz"))
    told = [kind for kind in agent.kinds() if kind.startswith("shadow.")]
    assert told == ["shadow.fetching", "shadow.watching"]
    # The order does not name it any more.
    agent.order(quick_order("double", "1.0.0"))
    agent.wait_for(lambda: not agent.shadow())
    agent.wait_for(lambda: not list((agent.config.data / "shadow").iterdir()))
    agent.wait_for(lambda: len(list((agent.config.data / "slots" / "double").iterdir())) == 1)
    assert "shadow.stopped" in agent.kinds()


def test_a_version_that_is_right_agrees(agent: ShadowAgent) -> None:
    agent.run_beside("2.0.0", bundle("2.0.0", affine_model(2.0001), GOLDEN * np.float32(2.0001)))
    agent.wait_for_shadow("watching")
    with traffic(agent):
        agent.wait_for(lambda: agent.reported().compared >= 20)
    total = agent.reported()
    assert total.agreed == total.compared


def test_one_that_gives_no_numbers_on_live_data_is_counted(agent: ShadowAgent) -> None:
    golden = GOLDEN + np.float32(0.5)
    files = bundle_files(
        "double", "2.0.0", [("plain", logarithm_model())], expected=np.log(golden), golden=golden
    )
    agent.run_beside("2.0.0", files)
    agent.wait_for_shadow("watching")
    with traffic(agent):
        agent.wait_for(lambda: agent.reported().insane >= 5)
    total = agent.reported()
    assert total.insane == total.compared
    assert agent.shadow()["phase"] == "watching"


@pytest.mark.slow
def test_one_that_hangs_is_ended_and_what_it_missed_is_counted(agent: ShadowAgent) -> None:
    # Right on small numbers; a request of a large one takes hours.
    agent.run_beside(
        "2.0.0",
        bundle(
            "2.0.0", looping_model(), GOLDEN * (1 + np.floor(GOLDEN.max(axis=1, keepdims=True)))
        ),
        budget=Budget(trial_seconds=8.0),
    )
    agent.wait_for_shadow("watching")
    agent.wait_for((agent.config.data / "shadow" / "double").exists)

    # Until the request that it hangs in has reached it.
    def hung() -> bool:
        assert agent.infer([1e9, 1.0, 1.0, 1.0])[0] == 200
        return bool(agent.shadow()["phase"] == "ended")

    agent.wait_for(hung)
    assert "it said nothing for 8 s" in agent.shadow()["reason"]
    with traffic(agent) as answers:
        agent.wait_for(lambda: len(answers) >= 5)


def test_one_that_eats_memory_is_ended(agent: ShadowAgent) -> None:
    agent.run_beside(
        "2.0.0",
        bundle("2.0.0", hungry_model(), GOLDEN),
        budget=Budget(memory_bytes=400 << 20),
    )
    agent.wait_for_shadow("watching")

    def ate() -> bool:
        assert agent.infer([900.0, 1.0, 1.0, 1.0])[0] == 200
        return bool(agent.shadow()["phase"] == "ended")

    agent.wait_for(ate)
    assert "400 MB are allowed" in agent.shadow()["reason"]
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]


def test_one_that_is_killed_has_ended_and_the_same_run_does_not_begin_again(
    agent: ShadowAgent,
) -> None:
    agent.run_beside("2.0.0", bundle("2.0.0", affine_model(3.0), GOLDEN * 3))
    agent.wait_for_shadow("watching")
    with traffic(agent):
        agent.wait_for(lambda: agent.reported().compared >= 5)
        assert agent.supervisor
        assert agent.supervisor._watchers
        agent.supervisor._watchers._running["double"]._process.kill()
        agent.wait_for_shadow("ended")
        assert "SIGKILL" in agent.shadow()["reason"]
        agent.order_beside("2.0.0")
        agent.wait_for(lambda: agent.state["order_version"] == 3)
    assert agent.shadow()["phase"] == "ended"
    agent.order_beside("2.0.0", run="r2")
    agent.wait_for_shadow("watching")


def test_it_ends_when_memory_is_short_and_when_its_time_is_over(agent: ShadowAgent) -> None:
    files = bundle("2.0.0", affine_model(3.0), GOLDEN * 3)
    agent.run_beside("2.0.0", files, free_bytes=1 << 50)
    agent.wait_for_shadow("ended")
    assert "memory is short" in agent.shadow()["reason"]
    agent.order_beside("2.0.0", run="r2", seconds=1.0)
    agent.wait_for(lambda: agent.shadow().get("run") == "r2")
    agent.wait_for_shadow("ended")
    assert agent.shadow()["reason"] == "its time is over"


def test_it_goes_on_after_a_restart(agent: ShadowAgent) -> None:
    agent.run_beside("2.0.0", bundle("2.0.0", affine_model(3.0), GOLDEN * 3))
    agent.wait_for_shadow("watching")
    agent.stop()
    agent.broker.order = agent.broker.metadata = None
    agent.start()
    agent.wait_for_shadow("watching")
    with traffic(agent):
        agent.wait_for(lambda: agent.reported().compared >= 5)
    journal = json.loads((agent.config.data / "journal.json").read_bytes())
    assert journal["bundles"]["double"]["shadow"]["phase"] == "watching"


def test_one_that_is_kept_encrypted_is_run_as_well(agent: ShadowAgent, tmp_path: Path) -> None:
    agent.stop()
    key = tmp_path / "storage.key"
    write_new_key(key, rotate=False)
    encryption = Encryption(key=KeySource("file", str(key)), enabled=True)
    agent.config = replace(agent.config, encryption=encryption)
    agent.start()
    agent.run_beside("2.0.0", bundle("2.0.0", affine_model(2.0), GOLDEN * 2))
    agent.wait_for_shadow("watching")
    with traffic(agent):
        agent.wait_for(lambda: agent.reported().agreed >= 5)


def test_an_update_goes_first_and_it_then_watches_the_new_version(agent: ShadowAgent) -> None:
    agent.run_beside("2.0.0", bundle("2.0.0", affine_model(3.0), GOLDEN * 3))
    agent.wait_for_shadow("watching")
    shadow = agent.order_beside("2.0.0")
    agent.release("double", "1.1.0", bundle("1.1.0", affine_model(2.0), GOLDEN * 2))
    agent.order(replace(quick_order("double", "1.1.0"), shadow=shadow))
    with traffic(agent):
        agent.wait_for(
            lambda: agent.bundle().get("active") == "1.1.0" and agent.is_active("double")
        )
        agent.wait_for_shadow("watching")
        agent.wait_for(
            lambda: any(
                shadow["active"] == "1.1.0"
                for message in list(agent.broker.reports[ReportKind.TELEMETRY])
                for record in json.loads(message)["records"]
                for shadow in record["window"].get("shadows", [])
            )
        )


def test_both_repositories_must_agree_on_it(agent: ShadowAgent) -> None:
    agent.install("1.0.0", 2.0)
    agent.release("double", "2.0.0", bundle("2.0.0", affine_model(3.0), GOLDEN * 3))
    good = agent.fleet.released["double/2.0.0/index.json"]

    def refused(reason: str) -> bool:
        return reason in "".join(agent.details("security.refused"))

    for version, digest, reason in (
        ("2.0.0", "0" * 64, "disagree"),
        ("9.9.9", good.hashes["sha256"], "not released"),
    ):
        shadow = ShadowOrder(run="r1", version=version, digest=digest, length=good.length)
        agent.order(replace(quick_order("double", "1.0.0"), shadow=shadow))
        agent.wait_for(partial(refused, reason))
    assert not agent.shadow()
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
