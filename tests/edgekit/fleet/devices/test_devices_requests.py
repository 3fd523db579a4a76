"""What devices are asked for, and what of their answers is kept."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgekit.cli import edgekit
from edgekit.fleet.audit import read_audit
from edgekit.fleet.devices import requests
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.privacy import delete_device, export_device
from edgekit.fleet.devices.requests import (
    MAX_OPEN,
    Asked,
    RequestBook,
    read_arguments,
    samples_in,
)
from edgekit.fleet.folder import Fleet
from edgekit.fleet.store.database import open_fleet_database
from edgekit.fleet.store.errors import NotFoundError
from edgekit_runtime.errors import UsageError
from edgekit_runtime.requests import DeviceReply, RequestKind, read_request, sign_request


@pytest.fixture
def book(inventory: Inventory, watch: Any) -> RequestBook:
    for name in ("d1", "d2"):
        inventory.add(name)
    return RequestBook(inventory.database, actor="alice", clock=watch)


def reply(number: int, *, device: str = "d1", **changes: Any) -> DeviceReply:
    return DeviceReply(device=device, number=number, **({"ok": True} | changes))


def test_a_request_is_open_until_it_is_answered(book: RequestBook, watch: Any) -> None:
    asked = book.ask("d1", RequestKind.BENCH, {"bundle": "digits"})
    now = watch().timestamp()
    assert (asked.standing(now), book.open()) == ("waiting", (asked,))
    book.note_sent([asked])
    assert book.get("d1", asked.number).standing(now) == "sent"
    answer = reply(asked.number, result={"median_ms": 3.5})
    (done,) = book.take([answer])
    assert done.standing(now) == "done"
    assert book.open() == ()
    assert book.answer("d1", asked.number) == ({"median_ms": 3.5},)
    # A broker delivers at least once.
    assert book.take([answer, reply(asked.number, result={"median_ms": 9.9})]) == []
    assert book.answer("d1", asked.number) == ({"median_ms": 3.5},)
    with book.database.read() as session:
        entry = read_audit(session)[0]
    assert entry.action == "request.made"
    assert entry.detail == {"number": asked.number, "kind": "bench", "bundle": "digits"}


def test_an_answer_in_parts_is_complete_with_the_last_in_any_order(book: RequestBook) -> None:
    number = book.ask("d1", RequestKind.LOGS).number
    parts = [reply(number, part=n, parts=3, result={"lines": [str(n)]}) for n in (2, 0, 1)]
    assert book.take([parts[0], parts[0], parts[1]]) == []
    assert book.open()[0].number == number
    (done,) = book.take([parts[2]])
    assert done.ok
    assert [part["lines"] for part in book.answer("d1", number)] == [["0"], ["1"], ["2"]]


def test_a_device_is_found_however_many_others_were_asked_later(
    book: RequestBook, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(device: str) -> Asked:
        watch.goes_on(seconds=1)
        return book.ask(device, RequestKind.LOGS)

    monkeypatch.setattr(requests, "_READ_AT_ONCE", 2)
    inventory = Inventory(book.database, actor="test")
    for name in ("d3", "d4", "d5"):
        inventory.add(name)
    first = [ask(name) for name in ("d1", "d2")]
    later = [ask(f"d{3 + turn % 3}") for turn in range(9)]
    assert book.newest(most=2, devices=["d1", "d2"]) == tuple(first[::-1])
    assert book.open(most=2, devices=["d5", "d4", "d3"]) == tuple(later[:2])
    every = [f"d{number}" for number in range(1, 6)]
    assert book.open(devices=every) == book.open() == tuple(first + later)
    assert book.newest(devices=every) == book.newest()
    assert book.newest(most=4, devices=every) == tuple(later[:-5:-1])
    assert book.newest(devices=[]) == ()


def test_nothing_is_kept_that_nobody_asked_for(book: RequestBook, watch: Any) -> None:
    number = book.ask("d1", RequestKind.SAMPLES).number
    secret = {"sample": "s1", "data": "x"}
    unasked = [
        reply(number + 1, result=secret),
        reply(number, device="d2", result=secret),
        reply(number, device="stranger", result=secret),
        reply(number, part=3, parts=3, result=secret),
        reply(number, part=0, parts=10_000, result=secret),
    ]
    assert book.take(unasked) == []
    assert book.answer("d1", number) == ()
    book.withdraw("d1", number)
    assert book.take([reply(number, result=secret)]) == []
    assert book.answer("d1", number) == ()


def test_many_are_looked_at_again_together(
    book: RequestBook, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.fleet.devices.requests._READ_AT_ONCE", 2)
    asked = [book.ask(name, RequestKind.LOGS) for name in ("d2", "d1", "d2", "d1", "d2")]
    assert book.look_again(asked) == tuple(asked)
    book.take([reply(asked[3].number), reply(asked[4].number, device="d2", ok=False)])
    now = watch().timestamp()
    standing = ["waiting", "waiting", "waiting", "done", "failed"]
    assert [item.standing(now) for item in book.look_again(asked)] == standing
    delete_device(book.database, "d2", actor="test")
    standing[4] = "waiting"
    assert [item.standing(now) for item in book.look_again(asked)] == standing
    assert book.look_again([]) == ()


def test_of_many_all_are_asked_or_nobody(book: RequestBook) -> None:
    for _ in range(MAX_OPEN):
        book.ask("d2", RequestKind.LOGS)
    with pytest.raises(UsageError, match="16 requests each: d2 "):
        book.ask_all(["d1", "d2"], RequestKind.RESTART)
    assert book.of("d1") == ()
    book.withdraw("d2", book.of("d2")[0].number)
    asked = book.ask_all(["d1", "d2"], RequestKind.RESTART)
    assert [item.device for item in asked] == ["d1", "d2"]


def test_a_late_answer_counts_and_one_that_says_no_has_failed(
    book: RequestBook, watch: Any
) -> None:
    late, refused = (book.ask("d1", RequestKind.LOGS, hours=1) for _ in range(2))
    watch.goes_on(hours=2)
    now = watch().timestamp()
    assert late.standing(now) == "expired"
    assert book.open() == ()
    book.take([reply(late.number, result={"lines": []})])
    book.take([reply(refused.number, ok=False, result={"error": "no"})])
    assert book.get("d1", late.number).standing(now) == "done"
    assert book.get("d1", refused.number).standing(now) == "failed"
    with pytest.raises(UsageError, match="is done already"):
        book.withdraw("d1", late.number)


def test_numbers_rise_whatever_clock_and_database_do(book: RequestBook, watch: Any) -> None:
    first = book.ask("d1", RequestKind.LOGS).number
    assert book.ask("d1", RequestKind.LOGS).number == first + 1
    watch.goes_on(days=-300)
    assert book.ask("d1", RequestKind.LOGS).number == first + 2
    watch.goes_on(days=301)
    delete_device(book.database, "d1", actor="bob")
    Inventory(book.database, actor="bob").add("d1")
    assert book.ask("d1", RequestKind.LOGS).number > first + 2


def test_what_makes_no_sense_is_not_asked(book: RequestBook) -> None:
    with pytest.raises(NotFoundError):
        book.ask("nobody", RequestKind.LOGS)
    with pytest.raises(UsageError, match="hours"):
        book.ask("d1", RequestKind.LOGS, hours=0)
    for kind, arguments, fault in (
        (RequestKind.BENCH, {}, "bundle"),
        (RequestKind.BENCH, {"bundle": "../x"}, "bundle"),
        (RequestKind.LOGS, {"lines": 0, "eggs": 1}, "lines.*eggs"),
        (RequestKind.SAMPLES, {"most": "all"}, "most"),
        (RequestKind.RESTART, {"what": "device"}, "what"),
        (RequestKind.CERTIFICATE, {}, "control plane itself"),
    ):
        with pytest.raises(UsageError, match=f"(?s){fault}"):
            book.ask("d1", kind, arguments)
    for _ in range(MAX_OPEN):
        book.ask("d2", RequestKind.LOGS)
    with pytest.raises(UsageError, match="too much is open already"):
        book.ask("d2", RequestKind.LOGS)
    assert book.of("d1") == ()


def test_what_is_signed_is_what_was_asked(book: RequestBook) -> None:
    asked = book.ask("d1", RequestKind.RESTART, {"what": "agent"}, hours=2)
    seen: list[bytes] = []

    def signer(data: bytes) -> tuple[str, str]:
        seen.append(data)
        return "key", "signature"

    sign_request(asked.request(), [signer])
    assert read_request(seen[0].decode()) == asked.request()


def test_requests_and_answers_are_held_on_the_device_and_deleted_with_it(
    book: RequestBook, fleet: Fleet
) -> None:
    number = book.ask("d1", RequestKind.SAMPLES).number
    book.take([reply(number, result={"sample": "s1", "data": ""})])
    held = export_device(book.database, fleet, "d1")
    assert held["device_requests"][0]["number"] == number
    assert held["reply_parts"][0]["result"]["sample"] == "s1"
    delete_device(book.database, "d1", actor="bob")
    with pytest.raises(NotFoundError):
        book.get("d1", number)


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.integers(), st.text())))
def test_no_arguments_bring_it_down(given_: dict[str, Any]) -> None:
    for kind in RequestKind:
        try:
            found = read_arguments(kind, given_)
        except UsageError:
            continue
        assert set(given_) <= set(found)


def test_samples_come_together_from_their_pieces() -> None:
    def piece(name: str, place: int, count: int, data: bytes) -> dict[str, Any]:
        text = base64.b64encode(data).decode()
        return {"sample": name, "piece": place, "pieces": count, "data": text}

    parts = [piece("a.npz", 1, 2, b"world"), piece("b.npz", 0, 2, b"half"), {"samples": 0}]
    parts += [piece("a.npz", 0, 2, b"hello "), piece("../evil", 0, 1, b"x"), {"sample": 3}]
    parts.append({"sample": "c", "piece": 0, "pieces": 1, "data": "no base64!"})
    assert samples_in(parts) == {"a.npz": b"hello world"}


def test_the_command_asks_shows_and_takes_back(fleet: Fleet, tmp_path: Path) -> None:
    database = open_fleet_database(fleet)
    inventory = Inventory(database, actor="test")
    for name in ("d1", "d2"):
        inventory.add(name, {"site": "rome"})
    book = RequestBook(database, actor="test")

    def run(*arguments: str, fails: str = "") -> str:
        options = ("--fleet", str(fleet.path))
        done = CliRunner().invoke(edgekit, ["fleet", "request", *arguments, *options])
        if fails:
            assert fails in str(done.exception), (done.output, done.exception)
        else:
            assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    def answer(number: str, **result: Any) -> None:
        ok = "error" not in result
        book.take([DeviceReply(device="d1", number=int(number), ok=ok, result=result)])

    def ask(*arguments: str) -> str:
        (asked, *_) = json.loads(run(*arguments, "--wait", "0", "--json"))
        return str(asked["number"])

    many = json.loads(run("logs", "site=rome", "--lines", "5", "--wait", "0", "--json"))
    assert [item["device"] for item in many] == ["d1", "d2"]
    first = str(many[0]["number"])
    assert run("list").count("waiting") == 2
    assert run("list", "d2").count("waiting") == 1
    answer(first, lines=["one", "two"])
    assert "d1  one\nd1  two\n" in run("show", "d1", first)
    assert run("list").count("waiting") == 1
    assert "done" in run("list", "--all")
    run("withdraw", "d2", str(many[1]["number"]))
    assert "withdrawn" in run("list", "d2", "--all")

    measured = ask("bench", "d1", "digits@1.2.0")
    assert book.get("d1", int(measured)).arguments == {"bundle": "digits", "version": "1.2.0"}
    figures = {"version": "1.2.0", "variant": "int8", "runtime": "litert", "threads": 2}
    answer(measured, bundle="digits", median_ms=3.25, peak_bytes=40_000_000, **figures)
    text = run("show", "d1", measured)
    assert "digits 1.2.0, int8, litert, 2 threads: 3.25 ms (measured on that device), 40.0" in text

    samples = ask("samples", "d1")
    data = base64.b64encode(b"what somebody asked").decode()
    answer(samples, sample="s1.npz", piece=0, pieces=1, data=data)
    text = run("show", "d1", samples, "--output", str(tmp_path / "out"))
    assert "sample s1.npz" in text
    assert (tmp_path / "out" / "d1" / "s1.npz").read_bytes() == b"what somebody asked"

    refused = ask("restart", "d1", "--agent")
    answer(refused, error="not now")
    assert "d1  not now" in run("show", "d1", refused, fails="d1 did not do it: not now")
    run("bench", "site=mars", "digits", fails="no device matches 'site=mars'")
    run("list", "d9", fails="no device matches 'd9'")
    run("bench", "d1", "digits@2", fails="'2' is no semantic version")
    run("show", "d1", "7", fails="there is no request 7 of d1")
    database.close()


def test_a_refusal_is_all_that_a_program_reads(fleet: Fleet) -> None:
    database = open_fleet_database(fleet)
    Inventory(database, actor="test").add("d1")
    book = RequestBook(database, actor="test")
    number = book.ask("d1", RequestKind.RESTART).number
    book.take([DeviceReply(device="d1", number=number, ok=False, result={"error": "not now"})])
    command = ["fleet", "request", "show", "d1", str(number), "--json"]
    done = CliRunner().invoke(edgekit, [*command, "--fleet", str(fleet.path)])
    assert done.exit_code == 1
    assert json.loads(done.stdout)[0]["answer"] == [{"error": "not now"}]
