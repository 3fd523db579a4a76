"""The embedded development broker (amqtt): MQTT 3.1.1, loopback only, nothing kept on disk.

`python -m edgekit.fleet.dev_broker --port N` serves until it is told to stop by SIGTERM, or its
standard input ends: so it goes when the process that started it goes, however that ends.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import threading
from typing import Any, Final

from edgekit_runtime.extras import require

_LOOK_SECONDS: Final = 0.01


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description="A broker for development, on loopback only.")
    parser.add_argument("--port", type=int, required=True)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    asyncio.run(_serve(parser.parse_args().port))


def settings(port: int) -> dict[str, Any]:
    """The settings: that port on loopback, anyone, and none of the plugins that amqtt brings."""
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }


def patient(broker: type[Any]) -> type[Any]:
    """That broker, not forgetting what a client sent just before it said goodbye.

    amqtt 0.12 acknowledges a message when it has read it, and drops it unpublished if the client
    disconnects before its turn comes; MQTT hands the responsibility over with the acknowledgement
    (3.1.1, section 4.3.2).

    Args:
        broker: amqtt's `Broker`; its message loop is what is held back.
    """

    class Patient(broker):  # type: ignore[misc]
        async def _client_message_loop(self, session: Any, handler: Any) -> None:
            until_goodbye = handler.wait_disconnect

            async def until_all_is_published() -> Any:
                packet = await until_goodbye()
                await asyncio.sleep(_LOOK_SECONDS)
                while not session.delivered_message_queue.empty():
                    await asyncio.sleep(_LOOK_SECONDS)
                return packet

            handler.wait_disconnect = until_all_is_published
            await super()._client_message_loop(session, handler)

    return Patient


async def _serve(port: int) -> None:
    amqtt = require("amqtt.broker", extra="fleet")
    broker = patient(amqtt.Broker)(settings(port))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait_for_end() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(stop.set)

    await broker.start()
    if sys.platform != "win32":
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    threading.Thread(target=wait_for_end, daemon=True).start()
    await stop.wait()
    await broker.shutdown()


if __name__ == "__main__":
    main()
