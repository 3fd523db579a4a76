from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.fleet.rollouts.engine import step
from edgekit.fleet.rollouts.state import RolloutState
from edgekit.fleet.rollouts.store import RolloutFolder, StaleRevisionError
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from tests.edgekit.fleet.rollouts.worlds import World, make_plan


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    store = RolloutFolder(tmp_path / "rollouts")
    plan = make_plan()
    assert store.names() == ()
    store.create(plan)
    store.create(plan)
    assert store.names() == ("r1",)
    stored = store.load("r1")
    assert (stored.plan, stored.state) == (plan, RolloutState())
    world = World.of(plan, 5)
    state = step(plan, stored.state, world.observe(), 5.0).state
    revision = store.save("r1", state, revision=stored.revision)
    assert revision == store.revision("r1") > stored.revision
    assert store.load("r1").state == state


def test_of_two_who_decide_one_is_told_to_look_again(tmp_path: Path) -> None:
    store, other = RolloutFolder(tmp_path), RolloutFolder(tmp_path)
    store.create(make_plan())
    stored = store.load("r1")
    other.save("r1", replace(stored.state, reason="first"), revision=stored.revision)
    with pytest.raises(StaleRevisionError, match="changed meanwhile"):
        store.save("r1", replace(stored.state, reason="second"), revision=stored.revision)
    assert store.load("r1").state.reason == "first"


def test_an_id_is_used_once(tmp_path: Path) -> None:
    store = RolloutFolder(tmp_path)
    store.create(make_plan())
    with pytest.raises(UsageError, match="with another plan"):
        store.create(make_plan(query="site=paris"))
    with pytest.raises(UsageError, match="no rollout 'r2'"):
        store.load("r2")
    with pytest.raises(UsageError, match="no rollout"):
        store.load("../r1")


def test_one_process_drives(tmp_path: Path) -> None:
    store = RolloutFolder(tmp_path)
    store.create(make_plan())
    with (
        store.driving("r1"),
        pytest.raises(EnvironmentLackError, match="another process"),
        RolloutFolder(tmp_path).driving("r1"),
    ):
        pytest.fail("two drive")
    with store.driving("r1"):
        assert store.names() == ("r1",)


@pytest.mark.parametrize(
    "content", [b"", b"7", b"x\n{}", b"7\n{", b'7\n{"format": "x"}', b"7\n[]", b"7\n" + b"[" * 9999]
)
def test_a_damaged_state_is_said(tmp_path: Path, content: bytes) -> None:
    store = RolloutFolder(tmp_path)
    store.create(make_plan())
    (tmp_path / "r1" / "state.json").write_bytes(content)
    with pytest.raises(VerificationError) as caught:
        store.load("r1")
    assert caught.value.fix == "take it from a backup"


def test_a_device_with_nonsense_is_named(tmp_path: Path) -> None:
    store = RolloutFolder(tmp_path)
    store.create(make_plan())
    document = RolloutState().to_json() | {"devices": {"d1": [0, "dancing", 0, -1, 0, 0, ""]}}
    (tmp_path / "r1" / "state.json").write_bytes(b"3\n" + json.dumps(document).encode())
    with pytest.raises(VerificationError, match=r"devices\.d1: is no device's progress"):
        store.load("r1")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_while_it_writes_the_store_is_whole(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from dataclasses import replace\n"
        "from edgekit.fleet.rollouts.store import RolloutFolder\n"
        "store = RolloutFolder(Path(sys.argv[1])); number = 0\n"
        "while True:\n"
        "    stored = store.load('r1'); number = len(stored.state.members)\n"
        "    members = (*stored.state.members, f'd{number}')\n"
        "    store.save('r1', replace(stored.state, members=members), revision=stored.revision)\n"
        "    print(number, flush=True)\n"
    )
    store = RolloutFolder(tmp_path)
    store.create(make_plan())
    seen = 0
    for delay in (0.0, 0.013, 0.031):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()[0].split()
        members = store.load("r1").state.members
        assert members == tuple(f"d{n}" for n in range(len(members)))
        # What was reported as kept is there.
        assert len(members) > max([int(n) for n in printed], default=seen)
        seen = len(members) - 1
