"""mosquitto with the very files of deploy/: TLS and an access list for devices, a door inside."""

from __future__ import annotations

import getpass
import socket
import subprocess
import time
from pathlib import Path

from edgekit.fleet.broker import find_mosquitto
from tests.simulators.authority import Authority

_FILES = Path(__file__).resolve().parents[2] / "deploy" / "mosquitto"
_START_SECONDS = 30.0


class DeployedBroker:
    """Starts, stops, and remembers what was retained and queued, as the files have it.

    Attributes:
        port: Where devices come in, with certificates.
        inner: Where the control plane does, on this machine.
    """

    def __init__(self, folder: Path, authority: Authority) -> None:
        folder.mkdir()
        (folder / "ca.pem").write_text(authority.pem)
        authority.issue(
            "127.0.0.1", folder / "broker.pem", folder / "broker.key", names=("127.0.0.1",)
        )
        revoked = authority.issue("revoked", folder / "revoked.pem", folder / "revoked.key")
        (folder / "crl.pem").write_text(authority.revocation_list(revoked))
        with (
            socket.create_server(("127.0.0.1", 0)) as one,
            socket.create_server(("127.0.0.1", 0)) as other,
        ):
            self.port, self.inner = one.getsockname()[1], other.getsockname()[1]
        places = {
            "/etc/mosquitto/certs": str(folder),
            "/etc/mosquitto/acl": str(_FILES / "acl"),
            "/var/lib/mosquitto": str(folder),
            "listener 8883": f"listener {self.port} 127.0.0.1",
            "listener 1883": f"listener {self.inner}",
        }
        text = (_FILES / "mosquitto.conf").read_text()
        for place, here in places.items():
            assert place in text, f"deploy/mosquitto/mosquitto.conf does not hold {place}"
            text = text.replace(place, here)
        # As root it would become another user, who may not read what is here.
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"{text}\nuser {getpass.getuser()}\n")
        self._log = folder / "mosquitto.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(find_mosquitto()), "-c", str(self._config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            assert self._process.poll() is None, self._log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.inner), 1).close()
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End it in good order: what is retained and queued is on the disk."""
        self._process.terminate()
        self._process.wait(30)
