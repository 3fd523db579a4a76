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

from edgekit_runtime.extras import require


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description="A broker for development, on loopback only.")
    parser.add_argument("--port", type=int, required=True)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    asyncio.run(_serve(parser.parse_args().port))


async def _serve(port: int) -> None:
    amqtt = require("amqtt.broker", extra="fleet")
    broker = amqtt.Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
    )
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
