"""The transports that `agent.toml` describes; only those are imported."""

from __future__ import annotations

from collections.abc import Callable

from edgekit_agent.config import AgentConfig, Mirror, Stick
from edgekit_agent.transports.arrivals import Arrival, Transport
from edgekit_agent.transports.lean_paho import load_paho
from edgekit_agent.transports.several import MakeTransport, SeveralTransports
from edgekit_runtime.protocol import Topics


def configured_transport(
    config: AgentConfig, will: bytes, post: Callable[[Arrival], None]
) -> Transport:
    """One transport, or several: what is nearest is preferred, and the broker is asked last.

    Raises:
        UsageError: If the mirror's URL cannot be used.
    """
    topics = Topics(config.fleet)
    makers: list[tuple[str, MakeTransport]] = []
    if config.stick is not None:
        makers.append(("stick", _stick(config.stick, config.device, topics)))
    if config.mirror is not None:
        makers.append(("mirror", _mirror(config.mirror, config.device, topics)))
    if config.broker_host:
        makers.append(("broker", _broker(config, topics, will)))
    if len(makers) == 1:
        return makers[0][1](post)
    return SeveralTransports(makers, post=post)


def _stick(stick: Stick, device: str, topics: Topics) -> MakeTransport:
    from edgekit_agent.transports.folder import FolderTransport

    def make(post: Callable[[Arrival], None]) -> Transport:
        return FolderTransport(
            stick.folder,
            topics=topics,
            device=device,
            poll_seconds=stick.poll_seconds,
            post=post,
        )

    return make


def _mirror(mirror: Mirror, device: str, topics: Topics) -> MakeTransport:
    from edgekit_agent.transports.web import WebTransport

    def make(post: Callable[[Arrival], None]) -> Transport:
        return WebTransport(
            mirror.url,
            tls=mirror.tls,
            topics=topics,
            device=device,
            poll_seconds=mirror.poll_seconds,
            post=post,
        )

    return make


def _broker(config: AgentConfig, topics: Topics, will: bytes) -> MakeTransport:
    load_paho()
    from edgekit_agent.transports.mqtt import MqttTransport

    def make(post: Callable[[Arrival], None]) -> Transport:
        return MqttTransport(
            host=config.broker_host,
            port=config.broker_port,
            tls=config.tls,
            topics=topics,
            device=config.device,
            will=will,
            chunk_window=config.limits.chunk_window,
            post=post,
        )

    return make
