"""Requests reach devices that are there, in order and once; answers come back into the database."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgekit.fleet.authority import FleetAuthority
from edgekit.fleet.broker import RunningBroker
from edgekit.fleet.connection import BrokerConnection
from edgekit.fleet.devices.certificates import certificates_of, revoke_device
from edgekit.fleet.devices.enrolment import Application, create_enrolment_token, take_in
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.privacy import delete_device
from edgekit.fleet.devices.requests import MAX_OPEN, RequestBook
from edgekit.fleet.folder import Fleet
from edgekit.fleet.service.asking import AGAIN_SECONDS, Asking, open_asking
from edgekit.fleet.service.attending import attend
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.leases import Lease
from edgekit_agent.identity.keys import check_certificate, make_key, signing_request
from edgekit_agent.requests.proving import prove_request
from edgekit_runtime.errors import UsageError
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import DeviceEvent, DeviceState
from edgekit_runtime.requests import DeviceReply, DeviceRequest, RequestKind, open_request

TOPICS = Topics("plant-7")


class Watch:
    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now


class Listening:
    """A device on the broker that proves requests as the agent does, and answers if told to."""

    def __init__(self, fleet: Fleet, broker: RunningBroker, name: str) -> None:
        self.name = name
        self.got: list[DeviceRequest] = []
        self._root = (fleet.director_metadata / "1.root.json").read_bytes()
        self._connection = BrokerConnection(
            broker.address, topics=[TOPICS.requests(name)], on_message=self._received
        )

    def _received(self, _topic: str, payload: bytes) -> None:
        last = self.got[-1].number if self.got else 0
        self.got.append(
            prove_request(
                open_request(payload), root=self._root, device=self.name, last=last, now=time.time()
            )
        )

    def wait_for(self, count: int) -> list[DeviceRequest]:
        wait_until(lambda: len(self.got) >= count)
        return self.got

    def answer(self, number: int, *, topic: str = "", **changes: Any) -> None:
        reply = DeviceReply(device=self.name, number=number, **({"ok": True} | changes))
        message = [(topic or TOPICS.replies(self.name), reply.to_json())]
        self._connection.publish(message, retain=False)

    def close(self) -> None:
        self._connection.close()


def wait_until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def device(fleet: Fleet, mosquitto: RunningBroker) -> Iterator[Listening]:
    made = Listening(fleet, mosquitto, "d1")
    yield made
    made.close()


@pytest.fixture
def asking(
    fleet: Fleet, database: Database, mosquitto: RunningBroker, watch: Watch
) -> Iterator[Asking]:
    with open_asking(
        fleet, database, mosquitto.address, name="test", lasting=True, clock=watch
    ) as opened:
        yield opened


@pytest.fixture
def book(database: Database, watch: Watch) -> RequestBook:
    Inventory(database, actor="test").add("d1")
    return RequestBook(database, actor="alice", clock=watch)


def is_there(database: Database, *, online: bool = True) -> None:
    Inventory(database, actor="test").hear([DeviceState(device="d1", online=online)])


def take(asking: Asking, count: int = 1) -> list[Any]:
    done: list[Any] = []

    def enough() -> bool:
        done.extend(asking.turn(timeout_s=0.2))
        return len(done) >= count

    wait_until(enough)
    return done


def test_a_device_that_is_away_is_asked_when_it_comes(
    database: Database, asking: Asking, book: RequestBook, device: Listening
) -> None:
    asked = book.ask("d1", RequestKind.BENCH, {"bundle": "digits"})
    assert asking.send() == 0
    is_there(database)
    assert asking.send() == 1
    (got,) = device.wait_for(1)
    assert got == asked.request()
    assert asking.send() == 0
    device.answer(asked.number, result={"median_ms": 2.0})
    (done,) = take(asking)
    assert done.ok
    assert book.answer("d1", asked.number) == ({"median_ms": 2.0},)


def test_one_at_a_time_in_order_and_again_only_what_was_not_followed(
    database: Database, asking: Asking, book: RequestBook, device: Listening, watch: Watch
) -> None:
    first, second = (book.ask("d1", RequestKind.LOGS) for _ in range(2))
    is_there(database)
    assert (asking.send(), asking.send()) == (1, 0)
    watch.now += timedelta(seconds=AGAIN_SECONDS)
    device.got.clear()
    assert asking.send() == 1
    assert device.wait_for(1)[0].number == first.number
    event = DeviceEvent(
        device="d1",
        sequence=1,
        time=5.0,
        kind="request.followed",
        bundle="",
        version="",
        detail=f"logs (number {first.number})",
    )
    Inventory(database, actor="test", clock=watch).hear([], [event])
    # It is at it: the next need not wait for its answer, once that takes long.
    assert asking.send() == 0
    watch.now += timedelta(seconds=AGAIN_SECONDS)
    assert asking.send() == 1
    assert device.wait_for(2)[1].number == second.number


def test_many_that_are_away_or_silent_keep_nobody_waiting(
    database: Database, asking: Asking, book: RequestBook, device: Listening, watch: Watch
) -> None:
    inventory = Inventory(database, actor="test")
    silent = [f"s{number}" for number in range(5)]
    for name in silent:
        inventory.hear([DeviceState(device=name, online=True)])
    for name in [f"away{number}" for number in range(5)]:
        inventory.add(name)
        book.ask(name, RequestKind.LOGS)
    for name in silent:
        book.ask(name, RequestKind.LOGS)
    is_there(database)
    with pytest.MonkeyPatch.context() as small:
        small.setattr("edgekit.fleet.service.asking._SENT_AT_ONCE", 3)
        small.setattr("edgekit.fleet.devices.requests._AT_ONCE", 3)
        assert [asking.send(), asking.send(), asking.send()] == [3, 2, 0]
        watch.now += timedelta(seconds=1)
        asked = book.ask("d1", RequestKind.LOGS)
        assert asking.send() == 1
    assert device.wait_for(1)[0].number == asked.number


def test_lies_and_strangers_answers_change_nothing(
    asking: Asking, book: RequestBook, device: Listening
) -> None:
    Inventory(book.database, actor="test").add("d2")
    asked = book.ask("d1", RequestKind.LOGS)
    device.answer(asked.number, topic=TOPICS.replies("d2"))
    device._connection.publish([(TOPICS.replies("d1"), b"\xff{")], retain=False)
    device._connection.publish([(TOPICS.replies("d1"), b"[" * 5_000)], retain=False)
    device.answer(asked.number + 7)
    wait_until(lambda: asking.turn(timeout_s=0.1) == [] and asking.faulty >= 3)
    device.answer(asked.number)
    assert take(asking)[0].number == asked.number


def test_a_device_renews_by_itself_and_gets_its_certificate_for_its_own_key_only(
    database: Database,
    fleet: Fleet,
    asking: Asking,
    book: RequestBook,
    device: Listening,
    tmp_path: Path,
    watch: Watch,
) -> None:
    FleetAuthority.create(fleet)
    for name in ("own", "other"):
        make_key(tmp_path / name)
    own, other = (
        signing_request(tmp_path / name, device="d1", fleet="plant-7") for name in ("own", "other")
    )
    token = create_enrolment_token(database, device="d1", actor="test")[1]
    take_in(database, fleet, Application(device="d1", fleet="plant-7", token=token, request=own))
    is_there(database)
    # Just enrolled: asked again at once, it gets none; a stranger's key never does.
    for request in (own, other, "nonsense"):
        device.answer(0, result={"request": request})
    wait_until(lambda: asking.turn(timeout_s=0.1) == [] and asking.faulty == 2)
    assert len(certificates_of(database, "d1")) == 1
    watch.now += timedelta(days=60)
    device.answer(0, result={"request": own})
    device.answer(0, result={"request": own})
    wait_until(lambda: asking.turn(timeout_s=0.1) == [] and len(book.of("d1")) == 1)
    held = certificates_of(database, "d1")
    assert len(held) == 2
    assert all(certificate.revoked is None for certificate in held)
    (asked,) = book.of("d1")
    assert asked.kind is RequestKind.CERTIFICATE
    assert "BEGIN" not in json.dumps(asked.to_json(0.0))
    check_certificate(asked.arguments["certificate"], key=tmp_path / "own", device="d1")
    revoke_device(database, fleet, "d1", actor="test")
    watch.now += timedelta(days=1)
    device.answer(0, result={"request": own})
    wait_until(lambda: asking.turn(timeout_s=0.1) == [] and asking.faulty >= 3)
    assert len(certificates_of(database, "d1")) == 2


@pytest.fixture
def enrolled(database: Database, fleet: Fleet, book: RequestBook, tmp_path: Path) -> str:
    """The signing request of d1, which was let in with that key just now."""
    FleetAuthority.create(fleet)
    make_key(tmp_path / "own")
    request = signing_request(tmp_path / "own", device="d1", fleet="plant-7")
    token = create_enrolment_token(database, device="d1", actor="test")[1]
    application = Application(device="d1", fleet="plant-7", token=token, request=request)
    take_in(database, fleet, application)
    is_there(database)
    return request


def test_who_claims_that_it_was_asked_to_renew_was_asked(
    database: Database, asking: Asking, book: RequestBook, device: Listening, enrolled: str
) -> None:
    bench = book.ask("d1", RequestKind.BENCH, {"bundle": "digits"})
    for number in (bench.number, bench.number + 7):
        device.answer(number, result={"request": enrolled})
    assert take(asking)[0].number == bench.number
    device.answer(book.ask("d1", RequestKind.LOGS).number)
    take(asking)
    assert len(certificates_of(database, "d1")) == 1
    renew = book.ask("d1", RequestKind.RENEW)
    for _ in range(2):
        device.answer(renew.number, result={"request": enrolled})
    take(asking)
    assert len(certificates_of(database, "d1")) == 2
    assert book.of("d1")[0].kind is RequestKind.CERTIFICATE


def test_a_certificate_is_sent_however_much_else_a_device_is_asked_for(
    database: Database, asking: Asking, book: RequestBook, device: Listening, enrolled: str
) -> None:
    renew = book.ask("d1", RequestKind.RENEW)
    for _ in range(MAX_OPEN - 1):
        book.ask("d1", RequestKind.LOGS)
    device.answer(renew.number, result={"request": enrolled})
    take(asking)
    assert len(certificates_of(database, "d1")) == 2
    assert RequestKind.CERTIFICATE in [item.kind for item in book.of("d1")]


@pytest.mark.parametrize("fault", ["damaged", "gone"])
def test_answers_are_taken_in_while_the_authority_cannot_sign(
    database: Database,
    fleet: Fleet,
    asking: Asking,
    book: RequestBook,
    device: Listening,
    enrolled: str,
    watch: Watch,
    fault: str,
) -> None:
    key = fleet.path / "authority" / "ca-key.pem"
    secret = key.read_bytes()
    key.unlink()
    if fault == "damaged":
        key.write_bytes(secret[:60])
    watch.now += timedelta(days=60)
    device.answer(0, result={"request": enrolled})
    device.answer(book.ask("d1", RequestKind.LOGS).number)
    take(asking)
    assert asking.faulty == 1
    key.write_bytes(secret)
    device.answer(0, result={"request": enrolled})
    wait_until(lambda: asking.turn(timeout_s=0.1) == [] and len(book.of("d1")) == 2)
    assert len(certificates_of(database, "d1")) == 2


def test_a_device_that_is_deleted_while_it_is_asked_keeps_nobody_waiting(
    database: Database, book: RequestBook
) -> None:
    Inventory(database, actor="test").add("d2")
    gone, stays = (book.ask(name, RequestKind.LOGS) for name in ("d1", "d2"))
    delete_device(database, "d1", actor="test")
    book.note_sent([gone, stays])
    assert book.get("d2", stays.number).sent is not None


def test_what_devices_are_at_keeps_nobody_waiting(
    database: Database, asking: Asking, book: RequestBook, device: Listening, watch: Watch
) -> None:
    inventory = Inventory(database, actor="test", clock=watch)
    with pytest.MonkeyPatch.context() as small:
        small.setattr("edgekit.fleet.devices.requests._AT_ONCE", 3)
        for name in [f"s{number}" for number in range(3)]:
            inventory.hear([DeviceState(device=name, online=True)])
            asked = book.ask(name, RequestKind.LOGS)
            detail = f"logs (number {asked.number})"
            event = DeviceEvent(
                device=name,
                sequence=1,
                time=5.0,
                kind="request.followed",
                bundle="",
                version="",
                detail=detail,
            )
            assert asking.send() == 1
            inventory.hear([], [event])
        # They never answer, and are not asked again.
        watch.now += timedelta(seconds=AGAIN_SECONDS)
        is_there(database)
        asked = book.ask("d1", RequestKind.LOGS)
        assert asking.send() == 1
    assert device.wait_for(1)[0].number == asked.number


def test_who_waits_does_the_work_where_no_control_plane_runs(
    database: Database, fleet: Fleet, mosquitto: RunningBroker, device: Listening
) -> None:
    Inventory(database, actor="test").add("d1")
    asked = RequestBook(database, actor="alice").ask("d1", RequestKind.LOGS)
    state = DeviceState(device="d1", online=True).to_json()
    device._connection.publish([(TOPICS.state("d1"), state)])

    def answer() -> None:
        device.answer(device.wait_for(1)[0].number, result={"lines": ["hello"]})

    thread = threading.Thread(target=answer)
    thread.start()
    (done,) = attend(fleet, database, [asked], broker=mosquitto.address, seconds=60)
    thread.join()
    assert done.ok
    # The lease is free again for a control plane that starts now.
    assert Lease(database, "service").take()


def test_who_waits_leaves_the_work_to_a_control_plane_that_runs(
    database: Database, fleet: Fleet
) -> None:
    Inventory(database, actor="test").add("d1")
    asked = RequestBook(database, actor="alice").ask("d1", RequestKind.LOGS)
    with pytest.raises(UsageError, match="nothing is sent yet"):
        attend(fleet, database, [asked], broker=None, seconds=5)
    assert Lease(database, "service").take()
    (waiting,) = attend(fleet, database, [asked], broker=None, seconds=0)
    assert waiting.sent is None
    # Ctrl-C ends the waiting, not the request.
    (waiting,) = attend(fleet, database, [asked], broker=None, seconds=3_600, goes_on=lambda: False)
    assert RequestBook(database, actor="alice").open() == (waiting,)
