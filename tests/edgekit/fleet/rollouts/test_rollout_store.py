from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from edgekit.fleet.rollouts.engine import step
from edgekit.fleet.rollouts.state import RolloutState
from edgekit.fleet.rollouts.store import StaleRevisionError
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.rollouts import RolloutTable
from edgekit.fleet.store.tables import RolloutRow
from edgekit_runtime.errors import UsageError, VerificationError
from tests.edgekit.fleet.rollouts.worlds import World, make_plan


def test_what_is_kept_comes_back(database: Database) -> None:
    store = RolloutTable(database)
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


def test_of_two_who_decide_one_is_told_to_look_again(database: Database) -> None:
    store, other = RolloutTable(database), RolloutTable(database)
    store.create(make_plan())
    stored = store.load("r1")
    other.save("r1", replace(stored.state, reason="first"), revision=stored.revision)
    with pytest.raises(StaleRevisionError, match="changed meanwhile"):
        store.save("r1", replace(stored.state, reason="second"), revision=stored.revision)
    assert store.load("r1").state.reason == "first"


def test_an_id_is_used_once(database: Database) -> None:
    store = RolloutTable(database)
    store.create(make_plan())
    with pytest.raises(UsageError, match="with another plan"):
        store.create(make_plan(query="site=paris"))
    with pytest.raises(UsageError, match="no rollout 'r2'"):
        store.load("r2")
    with pytest.raises(UsageError, match="no rollout"):
        store.load("../r1")


def test_a_device_with_nonsense_is_named(database: Database) -> None:
    store = RolloutTable(database)
    store.create(make_plan())
    document = RolloutState().to_json() | {"devices": {"d1": [0, "dancing", 0, -1, 0, 0, ""]}}
    with database.write() as session:
        session.get_one(RolloutRow, "r1").state = document
    with pytest.raises(VerificationError, match=r"devices\.d1: is no device's progress"):
        store.load("r1")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_while_it_writes_the_store_is_whole(database: Database) -> None:
    code = (
        "import sys\n"
        "from dataclasses import replace\n"
        "from edgekit.fleet.store.database import open_database\n"
        "from edgekit.fleet.store.rollouts import RolloutTable\n"
        "store = RolloutTable(open_database(sys.argv[1])); number = 0\n"
        "while True:\n"
        "    stored = store.load('r1'); number = len(stored.state.members)\n"
        "    members = (*stored.state.members, f'd{number}')\n"
        "    store.save('r1', replace(stored.state, members=members), revision=stored.revision)\n"
        "    print(number, flush=True)\n"
    )
    store = RolloutTable(database)
    address = database.engine.url.render_as_string(hide_password=False)
    store.create(make_plan())
    seen = 0
    for delay in (0.0, 0.013, 0.031):
        process = subprocess.Popen(
            [sys.executable, "-c", code, address], stdout=subprocess.PIPE, text=True
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
