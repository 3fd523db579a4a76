"""Hear everything that devices say, and lose nothing while this program is away.

The broker keeps what devices publish with QoS 1 for our session, by the client's name, and a
message is acknowledged only when it was taken in.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.broker_address import BrokerAddress, secure, why_unreachable
from edgekit.fleet.connection import connected_to
from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.extras import require
from edgekit_runtime.protocol import Topics

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

# Bounds the memory: beyond it messages wait in the kernel, then at the broker.
_MOST_WAITING: Final = 20_000
_ANSWER_SECONDS: Final = 10.0
_PATIENCE_SECONDS: Final = 0.2
_SESSION_SECONDS: Final = 7 * 86_400


class Heard:
    """A message; call `done` when it is safe, and the broker forgets it."""

    __slots__ = ("_client", "_mid", "_qos", "payload", "topic")

    def __init__(self, client: Client, message: MQTTMessage) -> None:
        self.topic: str = message.topic
        self.payload: bytes = bytes(message.payload)
        self._client, self._mid, self._qos = client, message.mid, message.qos

    def done(self) -> None:
        """Acknowledge it."""
        if self._qos:
            self._client.ack(self._mid, self._qos)


class FleetListener:
    """Connected until it is closed, again and again; use it in a `with` statement.

    Args:
        fleet_id: Which fleet.
        broker: Where.
        name: Of the session: what came while nobody of that name was there is delivered now.
        telemetry: Whether to listen for measurements, beside states.
        events: Whether to listen for events.
        states: Whether to listen for states.
        replies: Whether to listen for answers to requests.
        share: Share all of it with the others who give this name: each hears a part (MQTT 5).

    Raises:
        EnvironmentLackError: If no broker answers there, or it does not let us in.
    """

    def __init__(
        self,
        fleet_id: str,
        broker: BrokerAddress,
        *,
        name: str,
        telemetry: bool = True,
        events: bool = True,
        states: bool = True,
        replies: bool = False,
        share: str = "",
    ) -> None:
        self.topics = Topics(fleet_id)
        self._subscriptions = [(self.topics.all_states, 1)] if states else []
        if replies:
            self._subscriptions.append((self.topics.all_replies, 1))
        if events:
            self._subscriptions.append((self.topics.all_events, 1))
        if telemetry:
            self._subscriptions.append((self._all_telemetry, 1))
        if share:
            self._subscriptions = [(f"$share/{share}/{t}", q) for t, q in self._subscriptions]
        wanted = {topic for topic, _ in self._subscriptions}
        # The broker remembers what an earlier session of the name had subscribed to.
        self._unwanted = [
            topic
            for topic in (self.topics.all_states, self.topics.all_events, self._all_telemetry)
            if topic not in wanted
        ]
        self._heard: queue.Queue[Heard] = queue.Queue(_MOST_WAITING)
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._failure = ""
        self._connections = 0
        self._five = self._forgets = False
        self._client = self._open(broker, name)

    def __enter__(self) -> FleetListener:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _all_telemetry(self) -> str:
        return f"{self.topics.base}/devices/+/telemetry"

    @property
    def connections(self) -> int:
        """How often a connection was made: more than before means that one was lost between."""
        return self._connections

    def take(self, *, timeout_s: float) -> list[Heard]:
        """What was heard since the last time; waits for something until the time is over."""
        try:
            messages = [self._heard.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._heard.get_nowait())
        return messages

    def ask_states(self, devices: Iterable[str]) -> None:
        """Have the broker send the retained states of these devices again.

        A broker drops what exceeds its queue, silently; ten thousand states at once may.
        """
        topics = [self.topics.state(device) for device in devices]
        if topics:
            self._client.subscribe([(topic, 1) for topic in topics])
            self._client.unsubscribe(topics)

    def unsubscribe(self) -> None:
        """Have the broker add nothing more to what it still holds for this name."""
        self._client.unsubscribe([topic for topic, _ in self._subscriptions])

    def forget(self) -> None:
        """Let the broker keep nothing more for this name: `close` is for good."""
        self.unsubscribe()
        self._forgets = True

    def close(self) -> None:
        """Say goodbye; the broker goes on to keep what comes for this name, unless told not to."""
        self._closing.set()
        properties = None
        if self._five and self._forgets:
            from paho.mqtt.packettypes import PacketTypes
            from paho.mqtt.properties import Properties

            properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0
        self._client.disconnect(properties=properties)
        self._client.loop_stop()
        # paho closes its inner sockets when it is freed, which a cycle of references would delay.
        self._client.on_connect = self._client.on_subscribe = self._client.on_message = None

    def _open(self, broker: BrokerAddress, name: str) -> Client:
        mqtt = require("paho.mqtt.client", extra="fleet")
        from paho.mqtt.enums import CallbackAPIVersion
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        # A client that tries again for ever does not say what is wrong: find out first.
        with connected_to(broker) as probe:
            five = self._five = probe.protocol == "MQTT 5"
        client: Client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=mqtt.MQTTv5 if five else mqtt.MQTTv311,
            clean_session=None if five else False,
            manual_ack=True,
        )
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_message = self._received
        client.reconnect_delay_set(1, 10)
        secure(client, broker)
        try:
            if five:
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                properties.SessionExpiryInterval = _SESSION_SECONDS
                properties.ReceiveMaximum = 1_000
                client.connect(broker.host, broker.port, clean_start=False, properties=properties)
            else:
                client.connect(broker.host, broker.port)
        except OSError as error:
            raise why_unreachable(error, broker) from error
        client.loop_start()
        if not self._ready.wait(_ANSWER_SECONDS) or self._failure:
            client.disconnect()
            client.loop_stop()
            raise EnvironmentLackError(
                f"the broker does not let us listen: {self._failure or 'no answer'}",
                where=str(broker),
                fix="check that it allows this client, and its access list",
            )
        return client

    def _connected(
        self, client: Client, _data: object, _flags: object, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._failure = str(reason)
            self._ready.set()
        else:
            self._connections += 1
            if self._unwanted:
                client.unsubscribe(self._unwanted)
            client.subscribe(self._subscriptions)

    def _subscribed(
        self, _client: Client, _data: object, _mid: int, reasons: Any, _properties: Any
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused and not self._ready.is_set():
            self._failure = f"a subscription was refused: {refused[0]}"
        self._ready.set()

    def _received(self, client: Client, _data: object, message: MQTTMessage) -> None:
        heard = Heard(client, message)
        # While nobody takes anything, this thread reads no more: the broker holds the rest.
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._heard.put(heard, timeout=_PATIENCE_SECONDS)
                return
