"""The transport over MQTT: 5 where the broker speaks it, else 3.1.1.

The broker is the store: a chunk is a retained message, and asking for it is subscribing to it, a
window of chunks at a time. The broker is not trusted: nothing is believed of what comes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgekit_agent.settings import Tls
from edgekit_agent.transports.arrivals import (
    Arrival,
    ChunkCame,
    Connected,
    Disconnected,
    MetadataCame,
    OrderCame,
    ReportKind,
    ReportTaken,
    ReportTooLarge,
    ReportUnheard,
    RequestCame,
)
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES, MAX_METADATA_SET_BYTES
from edgekit_runtime.protocol import MAX_REQUEST_BYTES, Topics

_log = logging.getLogger(__name__)

KEEPALIVE_SECONDS: Final = 30
_CONNECT_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 5.0
_LOOP_SECONDS: Final = 1.0
_FIRST_DELAY_SECONDS: Final = 0.5
_LONGEST_DELAY_SECONDS: Final = 60.0
_FAREWELL_SECONDS: Final = 2.0


# A PUBACK of MQTT 5 that says so; MQTT 3.1.1 cannot.
_NO_SUBSCRIBERS: Final = 0x10
# What stands around a message in its packet: type, lengths, packet id, and no properties.
_PACKET_OVERHEAD_BYTES: Final = 1 + 4 + 2 + 2 + 1
# The largest message that we take, with its topic and properties around it.
_MAX_PACKET_BYTES: Final = MAX_METADATA_SET_BYTES + (1 << 16)


class BoundedClient(paho.Client):
    """Ends a connection whose broker announces a packet that is larger than anything we take.

    MQTT 5 can ask a broker not to send more; MQTT 3.1.1 cannot, and a hostile broker does not
    mind. paho would gather up to 256 MB before it shows them to anyone.
    """

    most_packet_bytes = _MAX_PACKET_BYTES

    def _sock_recv(self, bufsize: int) -> bytes:
        """As paho's, which asks here for what is left of a packet."""
        if bufsize > self.most_packet_bytes:
            raise ValueError(f"the broker sends a packet of {bufsize} bytes")
        return super()._sock_recv(bufsize)


class MqttTransport:
    """Keeps one connection to the broker, and makes it again when it breaks."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        tls: Tls | None,
        topics: Topics,
        device: str,
        will: bytes,
        chunk_window: int,
        post: Callable[[Arrival], None],
    ) -> None:
        """Prepare; `start` connects.

        Args:
            host: Of the broker.
            port: Of the broker.
            tls: None for a plain connection.
            topics: Of the fleet.
            device: This device's id.
            will: The state that the broker publishes when this device vanishes.
            chunk_window: How many chunks are asked for at a time.
            post: Takes arrivals; called from this transport's thread.
        """
        self._address = (host, port)
        self._tls = tls
        self._topics = topics
        self._device = device
        self._will = will
        self._window = chunk_window
        self._post = post
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        # Guards what follows; never held while paho is called, which has locks of its own.
        self._lock = threading.Lock()
        self._client: paho.Client | None = None
        # What the broker said that it takes at most; it hangs up on larger packets.
        self._most_packet_bytes: int | None = None
        self._wanted: OrderedDict[str, None] = OrderedDict()
        self._asked: set[str] = set()
        self._sent: dict[tuple[ReportKind, int], paho.MQTTMessageInfo] = {}
        self._too_large: list[ReportTooLarge] = []
        # By packet id: what the broker acknowledged, saying that it goes no further.
        self._unheard: dict[int, str] = {}

    def start(self) -> None:
        """Begin to connect, and never give up."""
        self._thread.start()

    def want(self, names: Iterable[str]) -> None:
        """Subscribe to these chunks, a window of them at a time, and to no others."""
        with self._lock:
            self._wanted = OrderedDict.fromkeys(names)
            gone = [name for name in self._asked if name not in self._wanted]
            self._asked.difference_update(gone)
        self._unsubscribe(gone)
        self._fill_window()

    def received(self, name: str) -> None:
        """Move the window on."""
        with self._lock:
            self._wanted.pop(name, None)
            asked = name in self._asked
            self._asked.discard(name)
        if asked:
            self._unsubscribe([name])
        self._fill_window()

    def retry(self, names: Iterable[str]) -> None:
        """Let the window pass over these chunks, and come back to them after the others."""
        with self._lock:
            again = [name for name in names if name in self._wanted]
            for name in again:
                self._wanted.move_to_end(name)
            gone = [name for name in again if name in self._asked]
            self._asked.difference_update(gone)
        self._unsubscribe(gone)
        self._fill_window()

    def publish_state(self, message: bytes) -> None:
        """Replace the device's retained state, if connected."""
        client, topic = self._client, self._topics.state(self._device)
        if client is None:
            return
        if len(message) > self._most_bytes(topic):
            _log.warning("the broker takes no message as large as this device's state")
            return
        client.publish(topic, message, qos=1, retain=True)

    def publish_report(self, kind: ReportKind, key: int, message: bytes) -> None:
        """Send a report, if connected; it is taken when the broker acknowledges it."""
        client, topic = self._client, self._topics.report(self._device, kind)
        if client is None:
            return
        most = self._most_bytes(topic)
        if len(message) > most:
            # Told in our own thread: who publishes may be who takes arrivals, and must not wait.
            with self._lock:
                self._too_large.append(ReportTooLarge(kind=kind, key=key, most_bytes=most))
            return
        sent = client.publish(topic, message, qos=1)
        with self._lock:
            self._sent[kind, key] = sent

    def close(self, last_state: bytes) -> None:
        """Leave this state behind, if connected, and end."""
        client = self._client
        if client is not None:
            sent = client.publish(self._topics.state(self._device), last_state, qos=1, retain=True)
            with contextlib.suppress(ValueError, RuntimeError):
                sent.wait_for_publish(_FAREWELL_SECONDS)
        self._stop.set()
        if client is not None:
            client.disconnect()
        self._thread.join(_CONNECT_SECONDS + _LOOP_SECONDS)

    def _run(self) -> None:
        protocol = paho.MQTTv5
        # The same for each start of this device, different for each device: no herd.
        spread = int.from_bytes(hashlib.sha256(self._device.encode()).digest()[:4]) / 2**32
        delay = _FIRST_DELAY_SECONDS
        wait = spread * _FIRST_DELAY_SECONDS
        reason = ""
        while not self._stop.wait(wait):
            session = _Session()
            self._converse(protocol, session)
            with self._lock:
                self._client = None
                self._asked.clear()
                self._sent.clear()
                self._too_large.clear()
                self._unheard.clear()
            if session.accepted:
                delay = _FIRST_DELAY_SECONDS
            elif session.reached:
                # It may not speak this version: try the other one, and that soon.
                protocol = paho.MQTTv311 if protocol == paho.MQTTv5 else paho.MQTTv5
            if session.accepted or session.reason != reason:
                reason = session.reason
                self._post(Disconnected(reason=reason))
            wait = delay * (0.5 + spread)
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)

    def _converse(self, protocol: Any, session: _Session) -> None:
        """Hold one connection from its beginning to its end."""
        try:
            client = self._new_client(protocol, session)
        except (OSError, ValueError) as error:
            # A certificate may be just being replaced: that must not end the agent's connection.
            session.reason = f"the TLS files cannot be used: {error}"
            return
        properties = None
        if protocol == paho.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            # A broker that keeps to the standard never sends more than this.
            properties.MaximumPacketSize = MAX_METADATA_SET_BYTES
        try:
            client.connect(*self._address, keepalive=KEEPALIVE_SECONDS, properties=properties)
            session.reached = True
            deadline = time.monotonic() + _ANSWER_SECONDS
            while not self._stop.is_set():
                if not (session.accepted or session.reason) and time.monotonic() > deadline:
                    # A broker that does not know this version may just fall silent.
                    session.reason = "the broker does not answer"
                    return
                code = client.loop(_LOOP_SECONDS)
                self._tell_taken()
                if code != paho.MQTT_ERR_SUCCESS:
                    session.reason = session.reason or paho.error_string(code)
                    return
        except (OSError, ValueError) as error:
            session.reason = f"the broker cannot be reached: {error}"
        except Exception as error:  # noqa: BLE001 - what paho cannot parse ends a connection
            _log.warning("the broker sent nonsense", exc_info=True)
            session.reason = f"the broker sent nonsense: {type(error).__name__}"
        finally:
            with contextlib.suppress(OSError, ValueError):
                client.disconnect()
                client.loop(0.0)

    def _new_client(self, protocol: Any, session: _Session) -> paho.Client:
        client = BoundedClient(
            CallbackAPIVersion.VERSION2,
            client_id=f"edgekit-{self._topics.fleet}-{self._device}",
            # Everything that matters is retained, or waits here: a session has nothing to add.
            clean_session=None if protocol == paho.MQTTv5 else True,
            protocol=protocol,
        )
        client.connect_timeout = _CONNECT_SECONDS
        if self._tls:
            client.tls_set(
                ca_certs=str(self._tls.ca),
                certfile=str(self._tls.certificate) if self._tls.certificate else None,
                keyfile=str(self._tls.key) if self._tls.key else None,
            )
        client.will_set(self._topics.state(self._device), self._will, qos=1, retain=True)

        def on_connect(_c: Any, _u: Any, _flags: Any, code: Any, told: Any) -> None:
            if code.is_failure:
                session.reason = f"the broker refused: {code}"
                return
            session.accepted = True
            self._most_packet_bytes = getattr(told, "MaximumPacketSize", None)
            self._begin(client)

        def on_disconnect(_c: Any, _u: Any, _flags: Any, code: Any, _p: Any) -> None:
            session.reason = session.reason or f"the connection broke: {code}"

        def on_publish(_c: Any, _u: Any, mid: int, code: Any, _p: Any) -> None:
            # A number that was used before may have been a state's, whose end nobody waits for.
            with self._lock:
                self._unheard.pop(mid, None)
                if code.is_failure or code.value == _NO_SUBSCRIBERS:
                    self._unheard[mid] = str(code)

        client.on_publish = on_publish
        client.on_socket_open = no_delay
        client.on_socket_register_write = _leave_to_loop
        client.on_connect = on_connect
        client.on_disconnect = on_disconnect
        client.on_message = self._on_message
        return client

    def _begin(self, client: paho.Client) -> None:
        with self._lock:
            self._client = client
        # Afterwards: whoever hears of it publishes at once.
        self._post(Connected())
        topics = (
            self._topics.metadata,
            self._topics.order(self._device),
            self._topics.requests(self._device),
        )
        client.subscribe([(topic, 1) for topic in topics])
        self._fill_window()

    def _most_bytes(self, topic: str) -> int:
        """What a message on a topic may have."""
        if self._most_packet_bytes is None:
            return MAX_METADATA_SET_BYTES
        return self._most_packet_bytes - _PACKET_OVERHEAD_BYTES - len(topic)

    def _tell_taken(self) -> None:
        """Tell of the reports that the broker has acknowledged, or would not take."""
        with self._lock:
            refused, self._too_large = self._too_large, []
            ended = [place for place, sent in self._sent.items() if _has_arrived(sent)]
            told = [(*place, self._unheard.pop(self._sent.pop(place).mid, None)) for place in ended]
        for kind, key, reason in told:
            self._post(
                ReportTaken(kind=kind, key=key)
                if reason is None
                else ReportUnheard(kind=kind, key=key, reason=reason)
            )
        for report in refused:
            self._post(report)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        topic, data = message.topic, bytes(message.payload)
        if topic == self._topics.metadata:
            if len(data) <= MAX_METADATA_SET_BYTES:
                self._post(MetadataCame(data=data))
        elif topic == self._topics.order(self._device):
            if len(data) <= MAX_METADATA_SET_BYTES:
                self._post(OrderCame(data=data))
        elif topic == self._topics.requests(self._device):
            if len(data) <= MAX_REQUEST_BYTES:
                self._post(RequestCame(data=data))
        else:
            name = topic.rpartition("/")[2]
            with self._lock:
                asked = name in self._asked
            fits = len(data) <= MAX_CHUNK_WIRE_BYTES
            if asked and fits and topic == self._topics.chunk(name):
                self._post(ChunkCame(sha256=name, data=data))

    def _fill_window(self) -> None:
        client = self._client
        if client is None:
            return
        with self._lock:
            room = self._window - len(self._asked)
            names = []
            if room > 0:
                for name in self._wanted:
                    if name not in self._asked:
                        names.append(name)
                        if len(names) == room:
                            break
                self._asked.update(names)
        if names:
            client.subscribe([(self._topics.chunk(name), 1) for name in names])

    def _unsubscribe(self, names: list[str]) -> None:
        client = self._client
        if client is not None and names:
            client.unsubscribe([self._topics.chunk(name) for name in names])


def _has_arrived(sent: paho.MQTTMessageInfo) -> bool:
    """Whether the broker has acknowledged a message."""
    try:
        return sent.is_published()
    except (ValueError, RuntimeError):
        # It was published while the connection broke, which ends this conversation by itself.
        return False


class _Session:
    """What became of one attempt to connect."""

    def __init__(self) -> None:
        self.reached = False
        self.accepted = False
        self.reason = ""


def _leave_to_loop(_client: Any, _data: Any, _sock: Any) -> None:
    """Write nothing in the thread that publishes; for `on_socket_register_write`.

    Without this, paho writes at once while `loop` may be reading in our thread, and a TLS
    connection that two threads use at a time breaks: "bad record mac". `loop` is woken anyway.
    """


def no_delay(_client: Any, _data: Any, sock: Any) -> None:
    """Send every packet at once; for `on_socket_open`."""
    # Nagle's algorithm costs 40 to 90 ms a round trip here. TLS and WebSocket wrappers differ.
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
