"""Notices reach each destination in turn, whoever else is slow, and whatever ends meanwhile."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.privacy import delete_device
from edgekit.fleet.devices.requests import RequestBook
from edgekit.fleet.store.database import Database
from edgekit.fleet.telemetry import messenger as messengers
from edgekit.fleet.telemetry import sending
from edgekit.fleet.telemetry.messenger import Messenger
from edgekit.fleet.telemetry.notices import Notice, Target
from edgekit.fleet.telemetry.outbox import Outbox
from edgekit.fleet.telemetry.retraining import with_samples
from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.requests import DeviceReply, RequestKind
from tests.simulators.background_work import wait_until

# Writes its process, and that of a child; then does nothing until there is a file "go".
SLOW = (
    "import os, pathlib, subprocess, sys, time\n"
    "folder = pathlib.Path(sys.argv[1])\n"
    "text = sys.stdin.read()\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "(folder / 'begun').write_text(f'{os.getpid()} {child.pid}')\n"
    "while not (folder / 'go').exists(): time.sleep(0.02)\n"
    "child.kill()\n"
    "with (folder / 'told').open('a') as file: file.write(text + '\\n')\n"
)
QUICK = (
    "import pathlib, sys\n"
    "with (pathlib.Path(sys.argv[1]) / 'quick').open('a') as file: file.write(sys.stdin.read())\n"
)


def notice(number: int, **more: object) -> Notice:
    return Notice(kind="retrain", fleet="plant-7", time=float(number), text=f"n{number}", data=more)


def command(code: str, folder: Path) -> Target:
    return Target(kinds=("*",), argv=(sys.executable, "-c", code, str(folder)))


@contextmanager
def short_goodbye(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(messengers, "_GOODBYE_SECONDS", 0.1)
        yield


def texts(path: Path) -> list[str]:
    text = path.read_text() if path.exists() else ""
    return [part.split('"')[0] for part in text.split('"text":"')[1:]]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended waits to be taken note of by whoever has taken it over.
    return " Z " not in Path(f"/proc/{pid}/stat").read_text()


def test_one_that_is_slow_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    targets = [command(SLOW, tmp_path), command(QUICK, tmp_path)]
    with closing(Messenger(targets, fleet="plant-7")) as messenger:
        for number in range(3):
            messenger.tell(notice(number))
        wait_until(lambda: texts(tmp_path / "quick") == ["n0", "n1", "n2"], "the quick one is told")
        assert texts(tmp_path / "told") == []
        (tmp_path / "go").touch()
        wait_until(lambda: messenger.sent == 6, "the slow one is told too")
    assert texts(tmp_path / "told") == ["n0", "n1", "n2"]


def test_what_waits_is_delivered_by_whoever_serves_next_in_its_order(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [command(SLOW, tmp_path)]
    first = Messenger(targets, fleet="plant-7", outbox=Outbox(database))
    for number in range(3):
        first.tell(notice(number))
    wait_until((tmp_path / "begun").exists, "the command runs")
    pids = [int(pid) for pid in (tmp_path / "begun").read_text().split()]
    with short_goodbye(monkeypatch):
        first.close()
    # Nothing goes on for a control plane that is no more.
    wait_until(lambda: not any(map(is_alive, pids)), "the command and its child are ended")
    assert (first.sent, first.lost) == (0, 0)
    (tmp_path / "go").touch()
    with closing(Messenger(targets, fleet="plant-7", outbox=Outbox(database))) as second:
        second.tell(notice(3))
        wait_until(lambda: second.sent == 4, "all are delivered")
    assert texts(tmp_path / "told") == ["n0", "n1", "n2", "n3"]
    with closing(Messenger(targets, fleet="plant-7", outbox=Outbox(database))) as third:
        pass
    assert (third.sent, third.lost) == (0, 0)


def test_one_that_was_killed_leaves_what_it_was_about_to_deliver(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [command(SLOW, tmp_path)]
    # It lives on here, and says and writes nothing more: as far as the next one sees, it is dead.
    killed = Messenger(targets, fleet="plant-7", outbox=Outbox(database))
    told = [notice(0), notice(1)]
    for item in told:
        killed.tell(item)
    wait_until((tmp_path / "begun").exists, "the command runs")
    outbox = Outbox(database)
    assert [item.notice.id for item in outbox.waiting(targets[0])] == [item.id for item in told]
    assert [item.notice for item in outbox.waiting(targets[0])] == told
    with short_goodbye(monkeypatch):
        killed.close()


def test_samples_are_taken_from_the_answers_again(database: Database, tmp_path: Path) -> None:
    Inventory(database, actor="test").add("d1", {})
    book = RequestBook(database, actor="test")
    asked = book.ask("d1", RequestKind.SAMPLES, {"most": 1})
    part = {"sample": "1-digits-2.0.0-random.npz", "piece": 0, "pieces": 1, "data": "b25l"}
    book.take([DeviceReply(device="d1", number=asked.number, ok=True, result=part)])
    code = (
        "import os, pathlib, sys; f = pathlib.Path(os.environ['EDGEKIT_SAMPLES']);"
        "out = pathlib.Path(sys.argv[1]) / 'out';"
        "out.write_text(','.join(p.read_text() for p in f.rglob('*.npz')))"
    )
    target = command(code, tmp_path)
    collected = [{"device": "d1", "request": asked.number, "samples": 1}]
    call = notice(1, bundle="digits", version="2.0.0", collected=collected)
    Outbox(database).add(target, call)
    with closing(
        Messenger(
            [target],
            fleet="plant-7",
            outbox=Outbox(database),
            refill=lambda kept: with_samples(database, kept),
        )
    ) as messenger:
        wait_until(lambda: messenger.sent == 1, "it is delivered")
    assert (tmp_path / "out").read_text() == "one"


def test_a_device_that_is_deleted_is_not_named_by_what_waits(
    database: Database, tmp_path: Path
) -> None:
    Inventory(database, actor="test").add("oven-001", {})
    target = command(QUICK, tmp_path)
    Outbox(database).add(target, notice(1, device="oven-001", devices=["oven-001", "oven-002"]))
    _, pseudonym = delete_device(database, "oven-001", actor="test")
    (waiting,) = Outbox(database).waiting(target)
    assert waiting.notice.data == {"device": pseudonym, "devices": ["oven-002"]}


def test_a_database_that_is_gone_keeps_nothing_back(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [command(QUICK, tmp_path)]
    outbox = Outbox(database)
    with closing(Messenger(targets, fleet="plant-7", outbox=outbox)) as messenger:
        with monkeypatch.context() as gone:

            def fail(*_: object) -> None:
                raise EnvironmentLackError("the database cannot be used")

            gone.setattr(Outbox, "add", fail)
            messenger.tell(notice(0))
            wait_until(lambda: messenger.sent == 1, "it is told from memory")
        with monkeypatch.context() as gone:
            gone.setattr(Outbox, "remove", fail)
            messenger.tell(notice(1))
            wait_until(lambda: messenger.sent == 2, "it is told, and stays where it is kept")
        assert len(outbox.waiting(targets[0])) == 1
        # What was told is not told again by this one, and goes with the next.
        messenger.tell(notice(2))
        wait_until(lambda: outbox.waiting(targets[0]) == [], "nothing is kept")
    assert texts(tmp_path / "quick") == ["n0", "n1", "n2"]


def test_what_waits_for_who_is_named_no_more_goes(database: Database, tmp_path: Path) -> None:
    outbox, gone = Outbox(database), command(SLOW, tmp_path)
    outbox.add(gone, notice(0))
    stays = Target(kinds=("alarm.*",), argv=gone.argv[:-1])
    with closing(Messenger([stays], fleet="plant-7", outbox=outbox)):
        assert outbox.waiting(gone) == []


def test_a_command_that_takes_for_ever_is_ended_and_what_comes_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "COMMAND_SECONDS", 0.5)
    targets = [command(SLOW, tmp_path)]
    with closing(Messenger(targets, fleet="plant-7", pause=lambda _s: None)) as messenger:
        messenger.tell(notice(0))
        wait_until(lambda: messenger.lost == 1, "it is given up")
        (tmp_path / "go").touch()
        messenger.tell(notice(1))
        wait_until(lambda: messenger.sent == 1, "the next is told")
    assert texts(tmp_path / "told") == ["n1"]
