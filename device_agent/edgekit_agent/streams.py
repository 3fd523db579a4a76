"""The MQTT door: messages of a broker near this device, answered by a model, topic in, topic out.

A stream is an application like any other: it asks the models over HTTP, and so lives through every
switch of versions. It runs in threads of the supervisor; the message itself is never looked at.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import queue
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgekit_agent.http import JSON_LENGTH
from edgekit_agent.settings import StreamSettings
from edgekit_agent.tls import tls_context
from edgekit_agent.transports.mqtt import BoundedClient, no_delay
from edgekit_runtime.errors import EdgekitError, UsageError
from edgekit_runtime.files import require_file

_log = logging.getLogger(__name__)

_JSON: Final = "application/json"
_TENSOR: Final = "application/octet-stream"
_ANSWER_SECONDS: Final = 60.0
_BUSY_SECONDS: Final = 0.05
_FIRST_DELAY_SECONDS: Final = 1
_LONGEST_DELAY_SECONDS: Final = 60
_CLOSE_SECONDS: Final = 5.0
_NO_HEADER: Final = b'{"error": "the content type is none"}'
_OTHER_PROTOCOL: Final = "Unsupported protocol version"


# Levels, of which one may be any, and the last one all that follow.
_FILTER: Final = re.compile(r"(?:(?:\+|[^+#/]*)/)*(?:\+|#|[^+#/]*)", re.DOTALL)
# Topic and properties around a message.
_AROUND_BYTES: Final = 1 << 16
_USUAL_BYTES: Final = 64 << 20


class _StreamClient(BoundedClient):
    """Tries again when its broker says what makes no sense: paho's thread would end unheard."""

    def loop_forever(
        self,
        timeout: float = 1.0,
        retry_first_connection: bool = False,  # noqa: FBT001, FBT002 - as paho has it
    ) -> MQTTErrorCode:
        """As paho's, which calls it in a thread of its own."""
        while True:
            try:
                return super().loop_forever(timeout, retry_first_connection)
            except Exception as error:  # noqa: BLE001 - whatever paho stumbles over
                where = f"{self.host}:{self.port}"
                _log.warning("the stream's broker %s cannot be followed: %s", where, error)
                # Half a message may have been read: begin anew, after a while.
                self.connect_async(self.host, self.port)
                self._reconnect_wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    payload: bytes
    content_type: str
    response_topic: str
    correlation: bytes | None


class ModelStream:
    """One `[[stream]]` of `agent.toml`."""

    def __init__(
        self,
        settings: StreamSettings,
        *,
        address: tuple[str, int],
        request_bytes: int = _USUAL_BYTES,
    ) -> None:
        """Prepare; `start` connects, and never gives up.

        Args:
            settings: Which messages, which model.
            address: Where the models answer over HTTP.
            request_bytes: The largest message that they take.

        Raises:
            UsageError: If the topics, or the files for TLS or the password, cannot be used.
        """
        if not _FILTER.fullmatch(settings.topic_in):
            raise UsageError(
                f"topic_in = {settings.topic_in!r} is no topic filter",
                fix="'+' stands for one whole level, '#' for all that follow: camera/+/frame",
            )
        self._settings = settings
        self._address = address
        self._most_packet_bytes = request_bytes + _AROUND_BYTES
        self._waiting: queue.Queue[_Message] = queue.Queue(settings.queue_messages)
        self._stop = threading.Event()
        self.answered = 0
        self.dropped = 0
        # These are changed by paho's thread and read by ours.
        self._accepted = False
        self._refused = False
        self._turned_away = False
        # Read once: a file that goes away later must not end a stream that runs.
        self._context = tls_context(settings.tls) if settings.tls else None
        self._password = read_password(settings)
        self._protocol = paho.MQTTv5
        self._client = self._new_client()
        self._worker = threading.Thread(target=self._work, name="stream", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._connect()
        self._worker.start()

    def close(self) -> None:
        """End; what waits is left unanswered."""
        self._stop.set()
        self._worker.join(_CLOSE_SECONDS)
        self._client.disconnect()
        self._client.loop_stop()

    def _new_client(self) -> paho.Client:
        client = _StreamClient(CallbackAPIVersion.VERSION2, protocol=self._protocol)
        client.most_packet_bytes = self._most_packet_bytes
        if self._context:
            client.tls_set_context(self._context)
        if self._settings.username:
            client.username_pw_set(self._settings.username, self._password)
        client.reconnect_delay_set(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
        client.on_socket_open = no_delay
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _connect(self) -> None:
        self._client.connect_async(self._settings.host, self._settings.port)
        self._client.loop_start()

    def _change_protocol(self) -> None:
        """Try the other one: the broker took the connection, and did not understand it."""
        self._client.disconnect()
        self._client.loop_stop()
        self._turned_away = False
        older = self._protocol == paho.MQTTv5
        self._protocol = paho.MQTTv311 if older else paho.MQTTv5
        self._client = self._new_client()
        self._connect()

    def _on_connect_fail(self, _client: Any, _data: Any) -> None:
        # paho calls this while it handles the error, and tries again later.
        error = sys.exc_info()[1]
        _log.warning("the stream's broker %s is not reached: %s", self._settings.address, error)

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: Any, _p: Any) -> None:
        if not (self._stop.is_set() or self._refused):
            where = self._settings.address
            _log.warning("the stream's broker %s ended the connection: %s", where, code)
        # Who is not let in is known at least: another protocol would not help.
        self._turned_away = not (self._accepted or self._refused)
        self._refused = False

    def _on_connect(self, client: Any, _data: Any, _flags: Any, code: Any, _props: Any) -> None:
        if code.is_failure:
            _log.warning("the stream's broker %s refused: %s", self._settings.address, code)
            self._refused = code != _OTHER_PROTOCOL
            self._turned_away = not (self._accepted or self._refused)
            return
        self._accepted = True
        client.subscribe(self._settings.topic_in, qos=0)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        properties = message.properties
        found = _Message(
            payload=bytes(message.payload),
            content_type=getattr(properties, "ContentType", "") or self._settings.content_type,
            response_topic=getattr(properties, "ResponseTopic", "") or self._settings.topic_out,
            correlation=getattr(properties, "CorrelationData", None),
        )
        while True:
            try:
                self._waiting.put_nowait(found)
                return
            except queue.Full:
                # The newest picture is the one that matters.
                with contextlib.suppress(queue.Empty):
                    self._waiting.get_nowait()
                    self.dropped += 1

    def _work(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=_ANSWER_SECONDS)
        while not self._stop.is_set():
            try:
                message = self._waiting.get(timeout=0.5)
            except queue.Empty:
                if self._turned_away:
                    self._change_protocol()
                continue
            answer, content_type = self._ask(connection, message)
            if answer:
                self._publish(message, answer, content_type)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, message: _Message) -> tuple[bytes, str]:
        """The answer, which may be an error in JSON; nothing when the agent is ending."""
        path = f"/v2/models/{self._settings.model}/infer"
        headers = {"Content-Type": message.content_type}
        if message.content_type == _TENSOR:
            headers[JSON_LENGTH] = "0"
        while not self._stop.is_set():
            try:
                connection.request("POST", path, message.payload, headers)
                response = connection.getresponse()
                data = response.read()
            except (OSError, http.client.HTTPException):
                # The server restarts; its socket stays, and so the next connection waits.
                connection.close()
                self._stop.wait(_BUSY_SECONDS)
                continue
            except ValueError:
                # Only who sent the message can have put such a thing into it.
                connection.close()
                return _NO_HEADER, _JSON
            if response.status == http.HTTPStatus.SERVICE_UNAVAILABLE:
                # Meanwhile the queue fills, and then drops the oldest: that is the back-pressure.
                self._stop.wait(_BUSY_SECONDS)
                continue
            return data, response.headers.get("Content-Type", _JSON)
        return b"", ""

    def _publish(self, message: _Message, answer: bytes, content_type: str) -> None:
        properties = None
        if self._protocol == paho.MQTTv5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ContentType = content_type
            if message.correlation is not None:
                properties.CorrelationData = message.correlation
        try:
            self._client.publish(message.response_topic, answer, qos=0, properties=properties)
        except ValueError:
            # A response topic with wildcards, or a payload beyond what MQTT can carry.
            _log.warning("an answer cannot be published on %r", message.response_topic[:200])
            return
        self.answered += 1


def read_password(settings: StreamSettings) -> str | None:
    """The password of a stream; None for none.

    Raises:
        UsageError: If its file is missing or empty, no text, or may be read by others.
    """
    path = settings.password_file
    if path is None:
        return None
    require_file(path, kind="a password file")
    if path.stat().st_mode & 0o077:
        raise UsageError("others may read the password", where=str(path), fix=f"chmod 600 {path}")
    try:
        return path.read_text(encoding="utf-8").splitlines()[0]
    except UnicodeDecodeError as error:
        raise UsageError("the password is no text", where=str(path)) from error


def start_streams(
    settings: tuple[StreamSettings, ...],
    *,
    address: tuple[str, int],
    tell: Callable[[str], None],
    request_bytes: int = _USUAL_BYTES,
) -> list[ModelStream]:
    """Start every stream that is configured.

    Args:
        settings: Of each.
        address: Where the models answer over HTTP.
        tell: Told of a stream that cannot be started; the others are.
        request_bytes: The largest message that they take.
    """
    streams = []
    for each in settings:
        try:
            stream = ModelStream(each, address=address, request_bytes=request_bytes)
        except EdgekitError as error:
            tell(f"{each.topic_in} of {each.address}: {error}")
            continue
        stream.start()
        streams.append(stream)
    return streams
