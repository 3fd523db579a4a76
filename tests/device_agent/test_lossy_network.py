"""A fifth of all packets lost, and half a second to the broker and back."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.device_agent.test_mqtt import (
    AgentProcess,
    Mosquitto,
    needs_mosquitto,
    publish,
    wait_for,
)
from tests.simulators.local_agent import DEVICE
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import affine_bundle

NFT = shutil.which("nft") or shutil.which("nft", path="/usr/sbin")
LOST_PERCENT = 20
ONE_WAY_SECONDS = 0.25
WAIT_SECONDS = 300


@contextmanager
def packets_lost(port: int) -> Iterator[dict[str, int]]:
    """Lose packets to and from a port of this machine; afterwards, how many were lost is told."""
    table = f"edgekit_test_{os.getpid()}"
    loss = f"numgen random mod 100 < {LOST_PERCENT} counter drop"
    rules = (
        f"table inet {table} {{ chain input {{ type filter hook input priority 0;\n"
        f"iifname lo tcp dport {port} {loss}\niifname lo tcp sport {port} {loss}\n}}\n}}\n"
    )
    made = subprocess.run(
        [NFT or "", "-f", "-"], input=rules, text=True, capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"this user may not lose packets here: {made.stderr.strip()[:80]}")
    lost = {"packets": 0}
    try:
        yield lost
        listed = subprocess.run(
            [NFT or "", "-j", "list", "table", "inet", table],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        for item in json.loads(listed.stdout)["nftables"]:
            for part in item.get("rule", {}).get("expr", []):
                lost["packets"] += part.get("counter", {}).get("packets", 0)
    finally:
        subprocess.run([NFT or "", "delete", "table", "inet", table], check=True)


class DelayingProxy:
    """Forwards to a port of this machine, everything a while later, in both directions."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._stop = asyncio.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._run()])
        self._thread.start()
        assert self._listening.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.wait(
                [
                    asyncio.ensure_future(self._pump(reader, inner_writer)),
                    asyncio.ensure_future(self._pump(inner_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            writer.close()
            inner_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Packets of a mobile network's size, so that a fifth of them is many.
        while data := await reader.read(1400):
            self._loop.call_later(ONE_WAY_SECONDS, writer.write, data)
        await asyncio.sleep(ONE_WAY_SECONDS)


@needs_mosquitto
@pytest.mark.slow
@pytest.mark.skipif(NFT is None, reason="nft, which loses packets, is not installed")
def test_an_update_comes_through_a_line_that_loses_a_fifth_and_takes_half_a_second(
    tmp_path: Path,
) -> None:
    fleet = SignedFleet()
    fleet.release("double", "1.0.0", affine_bundle("double", "1.0.0", 2.0, padding=200_000))
    broker = Mosquitto(tmp_path)
    proxy = DelayingProxy(broker.port)
    try:
        with packets_lost(proxy.port) as lost:
            agent = AgentProcess(tmp_path, fleet, proxy.port)
            try:
                publish(broker, fleet, fleet.order(DEVICE, quick_order("double", "1.0.0")))
                wait_for(lambda: agent.is_active("1.0.0"), seconds=WAIT_SECONDS, say=agent.status)
            finally:
                agent.stop()
        assert lost["packets"] > 10
    finally:
        proxy.close()
        broker.stop()
