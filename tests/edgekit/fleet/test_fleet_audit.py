from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from edgekit.fleet.audit import GENESIS, head_of, parse_head, read_audit, record, verify_audit
from edgekit.fleet.store.database import Database
from edgekit_runtime.errors import GateFailedError, UsageError


@pytest.fixture
def log(database: Database) -> Database:
    """A log of five entries."""
    for number in range(5):
        with database.write() as session:
            record(
                session,
                actor="alice",
                action="version.promoted",
                subject=f"digits {number}",
                detail={"to": "production", "ünïcode": "\U0001f600", "n": 0.1},
            )
    return database


def forge(database: Database, statement: str) -> None:
    with database.write() as session:
        session.execute(text(statement))


def test_an_untouched_log_holds(log: Database) -> None:
    head = verify_audit(log)
    assert head.sequence == 5
    assert verify_audit(log, expect=parse_head(str(head))) == head
    with log.read() as session:
        newest, *others = read_audit(session, newest=3)
        assert (newest.subject, newest.detail["ünïcode"]) == ("digits 4", "\U0001f600")
        assert len(others) == 2
        assert [entry.sequence for entry in read_audit(session, before=3)] == [2, 1]
        assert [e.sequence for e in read_audit(session, subject="digits 2")] == [3]


def test_an_empty_log_holds(database: Database) -> None:
    assert str(verify_audit(database)) == f"0:{GENESIS}"
    assert verify_audit(database, expect=parse_head(f"0:{GENESIS}")).sequence == 0


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE audit SET actor = 'mallory' WHERE sequence = 3", "entry 3 is not what"),
        ("UPDATE audit SET detail = '{}' WHERE sequence = 5", "entry 5 is not what"),
        ("UPDATE audit SET subject = '', action = subject WHERE sequence = 1", "entry 1 is not"),
        ("DELETE FROM audit WHERE sequence = 2", "entry 2 is missing"),
        ("DELETE FROM audit WHERE sequence = 1", "entry 1 is missing"),
        ("UPDATE audit SET previous = digest WHERE sequence = 4", "entry 4 does not follow"),
        ("UPDATE audit SET sequence = 9 WHERE sequence = 5", "entry 5 is missing"),
    ],
)
def test_a_forged_log_is_found_out(log: Database, statement: str, message: str) -> None:
    forge(log, statement)
    with pytest.raises(GateFailedError, match=message):
        verify_audit(log)


def test_a_log_that_was_cut_off_is_found_out_by_its_noted_head(log: Database) -> None:
    head = verify_audit(log)
    forge(log, "DELETE FROM audit WHERE sequence = 5")
    verify_audit(log)
    with pytest.raises(GateFailedError, match="entry 5 is cut off"):
        verify_audit(log, expect=head)


def test_a_log_that_was_made_anew_is_found_out_by_its_noted_head(log: Database) -> None:
    head = verify_audit(log)
    forge(log, "DELETE FROM audit")
    for _ in range(6):
        with log.write() as session:
            record(session, actor="mallory", action="version.promoted", subject="digits")
    verify_audit(log)
    with pytest.raises(GateFailedError, match="entry 5 is another"):
        verify_audit(log, expect=head)


def test_a_change_and_its_entry_are_kept_together_or_not_at_all(log: Database) -> None:
    def cut_short() -> None:
        with log.write() as session:
            record(session, actor="alice", action="token.created", subject="x")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        cut_short()
    assert verify_audit(log).sequence == 5


def test_writers_at_once_make_one_chain(log: Database) -> None:
    def write() -> None:
        for _ in range(5):
            with log.write() as session:
                record(session, actor="bob", action="device.labelled", subject="d")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify_audit(log).sequence == 25


def test_text_that_a_database_cannot_hold_is_written_readably(database: Database) -> None:
    with database.write() as session:
        record(session, actor="a\0b", action="x", subject="s" * 1000, detail={"k": "\0"})
    head = verify_audit(database)
    with database.read() as session:
        (entry,) = read_audit(session)
        assert head_of(session) == head
    assert (entry.actor, len(entry.subject), entry.detail) == ("a�b", 256, {"k": "\0"})


@pytest.mark.parametrize("head", ["", "5", "5:abc", f"x:{GENESIS}"])
def test_what_is_no_head_is_refused(head: str) -> None:
    with pytest.raises(UsageError, match="no head"):
        parse_head(head)
