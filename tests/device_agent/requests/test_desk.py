"""The desk alone: what becomes of replies and requests when others are away or say nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit_agent.requests import desk as desk_module
from edgekit_agent.requests.desk import Desk, ReplyReady, RequestProven
from edgekit_agent.resending import FIRST_SECONDS
from tests.simulators.local_agent import make_config
from tests.simulators.signed_fleet import SignedFleet


class Sent:
    """A desk, and what it has sent and posted."""

    def __init__(self, folder: Path) -> None:
        self.keys: list[int] = []
        self.posted: list[Any] = []
        self.desk = Desk(
            make_config(folder, SignedFleet()),
            wall_clock=time.time,
            post=self.posted.append,
            send=lambda key, _message: self.keys.append(key),
            logs=lambda _most: [],
        )


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[Sent]:
    made = Sent(tmp_path)
    yield made
    made.desk.close(seconds=30)


def test_a_reply_that_nobody_heard_goes_again_without_a_new_connection(sent: Sent) -> None:
    sent.desk.reply(ReplyReady(number=1, ok=True, parts=({"a": 1}, {"b": 2})))
    assert sent.keys == [1, 2]
    sent.desk.on_taken(1)
    sent.desk.on_unheard(2)
    sent.desk.tick(connected=True, now=100.0)
    sent.desk.tick(connected=False, now=100.0 + FIRST_SECONDS)
    assert sent.keys == [1, 2]
    sent.desk.tick(connected=True, now=100.0 + FIRST_SECONDS)
    assert sent.keys == [1, 2, 2]
    sent.desk.on_taken(2)
    sent.desk.on_unheard(2)
    for now in range(200, 1000):
        sent.desk.tick(connected=True, now=float(now))
    assert sent.keys == [1, 2, 2]


def test_requests_that_a_worker_says_nothing_about_make_room_for_others(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "run_worker", lambda *_, **__: b'{"number": 1}')
    for _ in range(10):
        sent.desk.on_request(b"request")
        deadline = time.monotonic() + 30
        while not sent.posted and time.monotonic() < deadline:
            time.sleep(0.005)
        proven = sent.posted.pop()
        assert isinstance(proven, RequestProven)
        assert proven.refusal == "the worker said nothing"
        assert not sent.desk.accept(proven)
