from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

from amqtt.broker import Broker

from edgekit.fleet.connection import connected_to
from edgekit.fleet.dev_broker import patient, settings
from edgekit.fleet.folder import BrokerAddress

SENT = {f"burst/{n}": bytes([n]) for n in range(20)}


class Slow(Broker):
    """amqtt on a busy machine: acknowledged messages wait for their turn."""

    async def _handle_message_delivery(self, *arguments: Any) -> bool:
        await asyncio.sleep(0.02)
        return await super()._handle_message_delivery(*arguments)


def send_and_leave(address: BrokerAddress) -> None:
    with connected_to(address) as connection:
        connection.publish(SENT.items())


async def kept(kind: type[Broker], *, seconds: float) -> dict[str, bytes]:
    """What that broker keeps of a burst whose sender went at once, after at most that time."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    broker = kind(settings(port))
    await broker.start()
    await asyncio.to_thread(send_and_leave, BrokerAddress("127.0.0.1", port))
    end = time.monotonic() + seconds
    while len(broker.retained_messages) < len(SENT) and time.monotonic() < end:
        await asyncio.sleep(0.02)
    retained = {topic: message.data for topic, message in broker.retained_messages.items()}
    await broker.shutdown()
    return retained


def test_what_was_acknowledged_survives_a_quick_goodbye() -> None:
    assert asyncio.run(kept(patient(Slow), seconds=30)) == SENT


def test_amqtt_alone_drops_what_it_acknowledged() -> None:
    """If it no longer does, `patient` can go."""
    assert len(asyncio.run(kept(Slow, seconds=1))) < len(SENT)
