"""Send what devices are asked for to those that are there, and take in what they answer.

Each device gets one request at a time, in the order of their numbers: it follows none that is
older than the last. What it is known to have followed is not sent again, for it would take that
for a replay.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.connection import connected_to
from edgekit.fleet.devices.renewal import Renewals
from edgekit.fleet.devices.requests import Asked, RequestBook
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.keyring import Repository, read_keyring
from edgekit.fleet.store.errors import NotFoundError
from edgekit.fleet.telemetry.listener import FleetListener, Heard
from edgekit_runtime.errors import EdgekitError, UsageError, VerificationError
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import parse_state
from edgekit_runtime.requests import DeviceReply, RequestKind, parse_reply, sign_request

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgekit.fleet.store.database import Database

_log = logging.getLogger(__name__)

# A broker loses what it has sent to a device whose line is dead; after that it is sent again.
AGAIN_SECONDS: Final = 120.0
_REST_SECONDS: Final = 10.0
# Signing takes a millisecond or two: the devices are heard in between.
_SENT_AT_ONCE: Final = 200
_FOLLOWED: Final = "request.followed"


class Asking:
    """The control plane's side of requests.

    Args:
        fleet: Whose; its director's key signs.
        database: Where requests and answers are.
        broker: Where the devices are.
        listener: Who hears their answers.
        clock: The time.
    """

    def __init__(
        self,
        fleet: Fleet,
        database: Database,
        broker: BrokerAddress,
        *,
        listener: FleetListener,
        clock: Clock = utc_now,
    ) -> None:
        self._fleet = fleet
        self._database = database
        self._broker = broker
        self._listener = listener
        self._clock = clock
        self._book = RequestBook(database, actor="service", clock=clock)
        self._renewals = Renewals(database=database, fleet=fleet, clock=clock)
        self._heard: list[Heard] = []
        self._present: set[str] | None = None
        self._rest_until = 0.0
        self.faulty = 0

    def turn(self, *, timeout_s: float = 0.0) -> list[Asked]:
        """Take in what was answered, and send what is due.

        Args:
            timeout_s: How long to wait for an answer.

        Returns:
            The requests that are answered completely by that.

        Raises:
            EnvironmentLackError: If the database cannot be used: nothing is lost, try again.
        """
        self._heard += self._listener.take(timeout_s=timeout_s)
        done = self.hear(self._heard)
        self._heard = []
        if time.monotonic() >= self._rest_until:
            try:
                self.send()
            except EdgekitError as error:
                # A key that is away, a broker that is gone: the devices are heard all the same.
                _log.warning("requests are not sent: %s", error)
                self._rest_until = time.monotonic() + _REST_SECONDS
        return done

    def look_for_devices(self) -> None:
        """Believe what is heard of who is there, and not what the database says of it."""
        self._present = set()

    def hear(self, messages: Iterable[Heard]) -> list[Asked]:
        """Take in answers; the requests that are answered completely by that."""
        heard = [message for message in messages if not self._is_state(message)]
        replies = [reply for message in heard if (reply := self._parsed(message)) is not None]
        for reply in replies:
            self._renew(reply)
        done = self._book.take(reply for reply in replies if reply.number > 0)
        for message in heard:
            message.done()
        return done

    def send(self) -> int:
        """Send requests that are due, some at a time; how many were."""
        due = self._due()
        if not due:
            return 0
        topics = Topics(self._fleet.id)
        signer = director_signer(self._fleet)
        with connected_to(self._broker) as connection:
            messages = (
                (topics.requests(item.device), sign_request(item.request(), [signer]))
                for item in due
            )
            connection.publish(messages, retain=False)
        self._book.note_sent(due)
        return len(due)

    def _due(self) -> list[Asked]:
        now = self._clock().timestamp()
        waiting = self._book.to_send(self._present, again=now - AGAIN_SECONDS)
        found: list[Asked] = []
        if not waiting:
            return found
        with self._database.read() as session:
            for _, requests in groupby(waiting, key=lambda item: item.device):
                for item in requests:
                    if item.sent is None or (
                        now - item.sent >= AGAIN_SECONDS and not _is_followed(session, item)
                    ):
                        found.append(item)
                    elif now - item.sent >= AGAIN_SECONDS:
                        # It is at it, or was: what comes after need not wait for it.
                        continue
                    break
                if len(found) >= _SENT_AT_ONCE:
                    break
        return found

    def _is_state(self, message: Heard) -> bool:
        """Note who is there, if that is what a message says."""
        device = self._listener.topics.device_of(message.topic)
        if device is None or message.topic != self._listener.topics.state(device):
            return False
        message.done()
        with contextlib.suppress(VerificationError):
            there = parse_state(message.payload, where=message.topic).online
            if self._present is not None:
                (self._present.add if there else self._present.discard)(device)
        return True

    def _parsed(self, message: Heard) -> DeviceReply | None:
        device = self._listener.topics.device_of(message.topic)
        try:
            reply = parse_reply(message.payload, where=message.topic)
            if reply.device != device:
                raise VerificationError(
                    f"the reply says that it is from {reply.device!r}", where=message.topic
                )
        except VerificationError as error:
            self.faulty += 1
            _log.info("refused: %s", error)
            return None
        return reply

    def _renew(self, reply: DeviceReply) -> None:
        request = reply.result.get("request")
        if not (reply.ok and isinstance(request, str)):
            return
        asked_for = reply.number > 0
        if asked_for and not self._is_asked_to_renew(reply):
            return
        try:
            self._renewals.renew(reply.device, request, asked_for=asked_for)
        except UsageError as error:
            # Whoever asks without a right to it is not told; the operator reads it in the log.
            self.faulty += 1
            _log.warning("no certificate: %s", error)

    def _is_asked_to_renew(self, reply: DeviceReply) -> bool:
        try:
            asked = self._book.get(reply.device, reply.number)
        except NotFoundError:
            return False
        open_ = asked.answered is None and asked.withdrawn is None
        return open_ and asked.kind is RequestKind.RENEW


@contextlib.contextmanager
def open_asking(
    fleet: Fleet,
    database: Database,
    broker: BrokerAddress,
    *,
    name: str,
    lasting: bool,
    clock: Clock = utc_now,
) -> Iterator[Asking]:
    """`Asking` with a listener of its own, which is closed at the end.

    Args:
        fleet: Whose.
        database: Where requests and answers are.
        broker: Where the devices are.
        name: Of the broker's session.
        lasting: Whether the broker keeps answers for it while nobody of that name is there, and
            somebody else writes down which devices are; else it looks itself.
        clock: The time.

    Raises:
        EnvironmentLackError: If no broker answers, or it does not let us in.
    """
    listener = FleetListener(
        fleet.id,
        broker,
        name=name,
        telemetry=False,
        events=False,
        states=not lasting,
        replies=True,
    )
    with listener:
        asking = Asking(fleet, database, broker, listener=listener, clock=clock)
        if not lasting:
            asking.look_for_devices()
        yield asking
        if not lasting:
            listener.forget()


def director_signer(fleet: Fleet) -> Callable[[bytes], tuple[str, str]]:
    """Signs requests with the key that orders are signed with.

    Raises:
        UsageError: If the fleet has no keys yet.
        EnvironmentLackError: If the key's file is not here.
    """
    signer = read_keyring(fleet).signer(Repository.DIRECTOR, "targets")

    def sign(data: bytes) -> tuple[str, str]:
        made = signer.sign(data)
        return made.keyid, made.signature

    return sign


def _is_followed(session: Session, item: Asked) -> bool:
    from sqlalchemy import select

    from edgekit.fleet.store.tables import EventRow as Row

    query = select(Row.id).where(
        Row.device_id == item.device,
        Row.kind == _FOLLOWED,
        Row.received >= item.created,
        Row.detail.endswith(f"(number {item.number})"),
    )
    return session.scalars(query.limit(1)).first() is not None
