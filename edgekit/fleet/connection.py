"""A connection to an MQTT broker that waits for the answer to everything it sends."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.broker_address import BrokerAddress, secure, why_unreachable
from edgekit_runtime.errors import EnvironmentLackError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

Progress = Callable[[int, int], None]
"""Told how many messages of how many the broker has acknowledged."""

# How many messages may wait for an acknowledgement: bounds the memory, and keeps the line full.
_WINDOW: Final = 64
_ANSWER_SECONDS: Final = 10.0
# A slow line may take long for a window of chunks; a broker that says nothing at all is gone.
_STALL_SECONDS: Final = 60.0
# Packet type, remaining length, topic length, packet id and an empty property list.
_PACKET_OVERHEAD_BYTES: Final = 1 + 4 + 2 + 2 + 1


class BrokerConnection:
    """Connected with MQTT 5 or, where the broker has it not, MQTT 3.1.1; use `connected_to`.

    Args:
        address: The broker.
        topics: What to subscribe to, again after every reconnection.
        on_message: Called in paho's thread with topic and payload.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        topics: Sequence[str] = (),
        on_message: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self.address = address
        self.protocol = ""
        self.max_packet_bytes: int | None = None
        self._topics = topics
        self._on_message = on_message
        self._changed = threading.Condition()
        self._sent = 0
        self._acknowledged = 0
        self._ready = False
        self._failure = ""
        self._client = self._open()

    def publish(
        self,
        messages: Iterable[tuple[str, bytes]],
        *,
        retain: bool = True,
        progress: Progress | None = None,
    ) -> tuple[int, int]:
        """Publish messages with QoS 1, and return when the broker has taken all of them.

        Args:
            messages: Topic and payload of each; read as the broker keeps up.
            retain: Whether the broker keeps them for whoever subscribes later.
            progress: Told how many are acknowledged, of how many sent so far.

        Returns:
            How many, and the sum of their payloads in bytes.

        Raises:
            EnvironmentLackError: If the broker refuses one, would refuse it for its size, does
                not answer, or the connection breaks.
        """
        size = 0
        self._sent = self._acknowledged = 0
        for topic, payload in messages:
            self._check_size(topic, payload)
            self._wait(lambda: self._sent - self._acknowledged < _WINDOW)
            # Not under our lock: paho holds its own when it reports an acknowledgement.
            self._client.publish(topic, payload, qos=1, retain=retain)
            self._sent += 1
            size += len(payload)
            if progress is not None:
                progress(self._acknowledged, self._sent)
        self._wait(lambda: self._acknowledged >= self._sent)
        if progress is not None and self._sent:
            progress(self._sent, self._sent)
        return self._sent, size

    def close(self) -> None:
        """Say goodbye and stop the thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def _check_size(self, topic: str, payload: bytes) -> None:
        size = _PACKET_OVERHEAD_BYTES + len(topic.encode()) + len(payload)
        if self.max_packet_bytes is not None and size > self.max_packet_bytes:
            # Sent all the same, the broker would hang up, and so at every new attempt.
            raise EnvironmentLackError(
                f"the broker takes packets of at most {self.max_packet_bytes} bytes, and this "
                f"message needs {size}",
                where=f"{self.address}: {topic}",
                fix="raise the broker's limit (mosquitto: max_packet_size) to 65536 or more",
            )

    def _open(self) -> Client:
        mqtt = require("paho.mqtt.client", extra="fleet")
        protocols = [("MQTT 5", mqtt.MQTTv5), ("MQTT 3.1.1", mqtt.MQTTv311)]
        if self._topics:
            # A client that listens tries again and again: find out first what the broker speaks.
            with connected_to(self.address) as probe:
                protocols = [item for item in protocols if item[0] == probe.protocol]
        reasons = []
        for name, protocol in protocols:
            client = self._attempt(protocol)
            if client is not None:
                self.protocol = name
                return client
            reasons.append(f"{name}: {self._failure}")
        raise EnvironmentLackError(
            "the broker does not let us in: " + "; ".join(reasons),
            where=str(self.address),
            fix="check that this is an MQTT broker, and that it allows this client",
        )

    def _attempt(self, protocol: Any) -> Client | None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self._ready, self._failure, self.max_packet_bytes = False, "", None
        client = Client(
            CallbackAPIVersion.VERSION2,
            protocol=protocol,
            # Who only sends has to know that the line broke; who listens tries again.
            reconnect_on_failure=bool(self._topics),
        )
        client.on_socket_open = _send_at_once
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        client.on_message = self._received
        client.reconnect_delay_set(1, 30)
        secure(client, self.address)
        try:
            client.connect(self.address.host, self.address.port)
        except OSError as error:
            raise why_unreachable(error, self.address) from error
        client.loop_start()
        deadline = time.monotonic() + _ANSWER_SECONDS
        with self._changed:
            while not (self._ready or self._failure) and time.monotonic() < deadline:
                self._changed.wait(deadline - time.monotonic())
            if self._ready:
                return client
            self._failure = self._failure or "no answer"
        # Another attempt may follow: this one must not speak any more.
        client.on_disconnect = None
        client.disconnect()
        client.loop_stop()
        return None

    def _wait(self, holds: Callable[[], bool]) -> None:
        with self._changed:
            while not self._failure and not holds():
                if not self._changed.wait(_STALL_SECONDS):
                    self._failure = f"it has said nothing for {_STALL_SECONDS:.0f} s"
        if self._failure:
            raise EnvironmentLackError(
                f"the broker did not take a message: {self._failure}",
                where=str(self.address),
                fix="look at the broker's log, and publish again",
            )

    def _connected(
        self, client: Client, _data: object, _flags: object, reason: Any, properties: Any
    ) -> None:
        with self._changed:
            if reason.is_failure:
                self._failure = str(reason)
            else:
                self.max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
                if self._topics:
                    client.subscribe([(topic, 1) for topic in self._topics])
                else:
                    self._ready = True
            self._changed.notify_all()

    def _subscribed(
        self, _client: Client, _data: object, _mid: int, reasons: Sequence[Any], _p: object
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        with self._changed:
            if refused:
                self._failure = f"a subscription was refused: {refused[0]}"
            else:
                self._ready = True
            self._changed.notify_all()

    def _disconnected(
        self, _client: Client, _data: object, _flags: object, reason: Any, _p: object
    ) -> None:
        with self._changed:
            if not (self._topics and self._ready):
                self._failure = self._failure or f"the connection broke: {reason}"
            self._changed.notify_all()

    def _published(
        self, _client: Client, _data: object, _mid: int, reason: Any, _p: object
    ) -> None:
        with self._changed:
            if reason.is_failure:
                self._failure = str(reason)
            self._acknowledged += 1
            self._changed.notify_all()

    def _received(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        if self._on_message is not None:
            self._on_message(message.topic, bytes(message.payload))


@contextlib.contextmanager
def connected_to(address: BrokerAddress) -> Iterator[BrokerConnection]:
    """A connection for publishing, closed afterwards.

    Raises:
        EnvironmentLackError: If no broker answers there, or it does not let us in.
    """
    connection = BrokerConnection(address)
    try:
        yield connection
    finally:
        connection.close()


def _send_at_once(_client: Client, _data: object, sock: Any) -> None:
    # Without this, Nagle's algorithm costs 90 ms for each exchange.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
