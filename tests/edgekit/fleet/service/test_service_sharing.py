"""Replicas that share what devices measure, and one of them that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.fleet.broker import RunningBroker, start_broker
from edgekit.fleet.connection import connected_to
from edgekit.fleet.folder import Fleet
from edgekit.fleet.service.sharing import SharedHearing
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.telemetry import recent_counts
from edgekit_runtime.errors import UsageError
from edgekit_runtime.protocol import Topics
from edgekit_runtime.telemetry import ModelCounts, Window, pack_batch
from tests.simulators.background_work import running, wait_until

DEVICES = ("d1", "d2", "d3")
WINDOW = Window(start=1.0, end=2.0, bundle="digits", version="1.0.0", model=ModelCounts(requests=1))
# A replica that dies by itself with measurements in its hands, before they are written.
REPLICA = """
import os, signal, sys, time
from pathlib import Path
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.service.sharing import SharedHearing
from edgekit.fleet.store.database import open_database
from edgekit.fleet.telemetry.ledger import Ledger

keep = Ledger.keep

def keep_and_die(ledger, measured, **options):
    if measured:
        # Whatever is on its way to the broker goes out.
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return keep(ledger, measured, **options)

Ledger.keep = keep_and_die
database = open_database(sys.argv[2])
broker = BrokerAddress("127.0.0.1", int(sys.argv[3]))
SharedHearing(Fleet.open(Path(sys.argv[1])), database, broker).run(lambda: True)
"""


class Measuring:
    """Devices that send one request each time, in batches that are numbered."""

    def __init__(self, fleet: Fleet, broker: RunningBroker) -> None:
        self._topics = Topics(fleet.id)
        self._broker = broker
        self._row = json.dumps(WINDOW.to_json()).encode()
        self.sent = 0

    def send(self, times: int) -> None:
        first = self.sent // len(DEVICES) + 1
        with connected_to(self._broker.address) as connection:
            for number in range(first, first + times):
                for device in DEVICES:
                    message = pack_batch(device, "0" * 16, 0, [(number, self._row)])
                    connection._client.publish(self._topics.telemetry(device), message, qos=1)
            connection._client.publish("end", b"", qos=1).wait_for_publish(30)
        self.sent += times * len(DEVICES)


def counted(database: Database) -> int:
    known = recent_counts(database, since=0).get(("digits", "1.0.0"))
    return known.requests if known else 0


def test_each_replica_hears_a_part_and_all_of_it_counts_once(
    fleet: Fleet, database: Database, mosquitto: RunningBroker
) -> None:
    first, second = (SharedHearing(fleet, database, mosquitto.address) for _ in range(2))
    devices = Measuring(fleet, mosquitto)
    with running(first.run):
        wait_until(lambda: first.slots == (0,), "the first hears")
        with running(second.run):
            wait_until(lambda: second.slots == (1,), "the second hears")
            devices.send(40)
            wait_until(lambda: first.taken + second.taken == devices.sent, "all is taken")
            assert counted(database) == devices.sent
            assert min(first.taken, second.taken) > 0
        # Its session is still at the broker, and gets its share: nobody hears it for a moment.
        devices.send(10)
        wait_until(lambda: counted(database) == devices.sent, "what it was handed is counted")
        wait_until(lambda: first.slots == (0,), "its name is given back")
        devices.send(10)
        wait_until(lambda: counted(database) == devices.sent, "nothing goes to it any more")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_replica_that_is_killed_loses_nothing(
    fleet: Fleet, database: Database, mosquitto: RunningBroker
) -> None:
    first = SharedHearing(fleet, database, mosquitto.address)
    devices = Measuring(fleet, mosquitto)
    address = database.engine.url.render_as_string(hide_password=False)
    with running(first.run):
        wait_until(lambda: first.slots == (0,), "the first hears")
        second = subprocess.Popen(
            [sys.executable, "-c", REPLICA, str(fleet.path), address, str(mosquitto.port)]
        )
        while second.poll() is None:
            devices.send(3)
            time.sleep(0.2)
        assert second.returncode == -signal.SIGKILL
        devices.send(20)
        wait_until(lambda: counted(database) == devices.sent, "nothing is lost")
        wait_until(lambda: first.slots == (0,), "its name is given back")
    assert counted(database) == devices.sent


def test_a_broker_without_mqtt_5_is_named(fleet: Fleet, database: Database, tmp_path: Path) -> None:
    with (
        start_broker(tmp_path / "broker", prefer="amqtt") as broker,
        pytest.raises(UsageError, match=r"speaks MQTT 3\.1\.1"),
    ):
        SharedHearing(fleet, database, broker.address)
