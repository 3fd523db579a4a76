#!/usr/bin/env python
"""What TUF's conformance suite runs: the agent's verification behind the suite's command line.

`--transport http` gets every file with the agent's own HTTP client. `--transport mqtt` gets each
as a retained message with the agent's own MQTT transport; a relay in this process publishes what
the suite's web server offers, the moment that it is asked for. See docs/security.md.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import queue
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater

from edgekit_agent.metadata import refresh_metadata
from edgekit_agent.transports.arrivals import Arrival, ChunkCame
from edgekit_agent.transports.mqtt import MqttTransport
from edgekit_agent.transports.web import TooLargeError, WebClient
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.protocol import Topics

# The largest file that the suite offers, and more than a message holds.
MOST_BYTES = 8 << 20
WAIT_SECONDS = 20.0
TOPICS = Topics("conformance")


class WebFetcher(FetcherInterface):
    """Every file with the agent's HTTP client."""

    def __init__(self) -> None:
        self._clients: dict[str, WebClient] = {}

    def _fetch(self, url: str) -> Iterator[bytes]:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        client = self._clients.setdefault(origin, WebClient(origin))
        try:
            status, body = client.get(parts.path.lstrip("/"), most=MOST_BYTES)
        except (OSError, http.client.HTTPException, TooLargeError) as error:
            raise DownloadError(str(error)) from error
        if status != http.HTTPStatus.OK:
            raise DownloadHTTPError(f"status {status}", status)
        return iter((body,))


class MqttFetcher(FetcherInterface):
    """Every file as a retained message, under the hash of its URL."""

    def __init__(self, port: int) -> None:
        self._web = WebFetcher()
        self._arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._relay = paho.Client(CallbackAPIVersion.VERSION2)
        self._relay.connect("127.0.0.1", port)
        self._relay.loop_start()
        self._transport = MqttTransport(
            host="127.0.0.1",
            port=port,
            tls=None,
            topics=TOPICS,
            device="client",
            will=b"",
            chunk_window=1,
            post=self._arrivals.put,
        )
        self._transport.start()

    def _fetch(self, url: str) -> Iterator[bytes]:
        offered = b"".join(self._web._fetch(url))
        name = hashlib.sha256(url.encode()).hexdigest()
        self._relay.publish(TOPICS.chunk(name), offered, qos=1, retain=True).wait_for_publish(10)
        self._transport.want([name])
        while True:
            try:
                arrival = self._arrivals.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                raise DownloadError(f"no message with {url} came") from None
            if isinstance(arrival, ChunkCame) and arrival.sha256 == name:
                self._transport.received(name)
                return iter((arrival.data,))

    def close(self) -> None:
        self._transport.close(b"")
        self._relay.disconnect()
        self._relay.loop_stop()


def initialize(metadata: Path, root: Path) -> None:
    """Remember the root of trust, beside the folder that the suite looks into."""
    shutil.copyfile(root, bootstrap_of(metadata))
    shutil.copyfile(root, metadata / "root.json")


def bootstrap_of(metadata: Path) -> Path:
    return metadata.parent / "edgekit-initial-root.json"


def refresh(arguments: argparse.Namespace, fetcher: FetcherInterface) -> Updater:
    metadata = Path(arguments.metadata_dir)
    return refresh_metadata(
        metadata,
        fetcher,
        bootstrap=bootstrap_of(metadata).read_bytes(),
        when=datetime.now(UTC),
        name="image",
        files={},
        origin=arguments.metadata_url,
    )


def download(arguments: argparse.Namespace, fetcher: FetcherInterface) -> None:
    updater = refresh(arguments, fetcher)
    for name in arguments.target_name:
        target = updater.get_targetinfo(name)
        if target is None:
            raise RepositoryError(f"there is no target {name}")
        file = str(Path(arguments.target_dir) / hashlib.sha256(name.encode()).hexdigest())
        if not updater.find_cached_target(target, file):
            updater.download_target(target, file, arguments.target_base_url)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--transport", choices=["http", "mqtt"], default="http")
    parser.add_argument("--broker-port", type=int)
    parser.add_argument("--metadata-url")
    parser.add_argument("--metadata-dir", required=True)
    parser.add_argument("--target-name", action="append")
    parser.add_argument("--target-dir")
    parser.add_argument("--target-base-url")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root")
    commands.add_parser("refresh")
    commands.add_parser("download")
    arguments = parser.parse_args()
    if arguments.command == "init":
        initialize(Path(arguments.metadata_dir), Path(arguments.trusted_root))
        return 0
    over_mqtt = arguments.transport == "mqtt"
    fetcher = MqttFetcher(arguments.broker_port) if over_mqtt else WebFetcher()
    try:
        if arguments.command == "refresh":
            refresh(arguments, fetcher)
        else:
            download(arguments, fetcher)
    except (EdgekitError, RepositoryError, DownloadError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        if isinstance(fetcher, MqttFetcher):
            fetcher.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
