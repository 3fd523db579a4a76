"""The device of the quickstart: an agent in a process and a folder of its own.

It is reached as a user reaches it: by the `edgekit-agent` command, its HTTP interface, its status.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from edgekit.fleet.folder import BrokerAddress
from edgekit.fleet.tethered import tethered
from edgekit_runtime.errors import EnvironmentLackError

_COMMAND: Final = (sys.executable, "-m", "edgekit_agent")
_STOP_SECONDS: Final = 15.0
_LOG_TAIL_BYTES: Final = 2_000


class Device:
    """An agent on this machine."""

    def __init__(self, folder: Path, name: str) -> None:
        """Stand for the agent that `install` put into a folder."""
        self.folder = folder
        self.name = name
        self.log = folder / "agent.log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def install(
        cls,
        folder: Path,
        name: str,
        *,
        fleet: str,
        broker: BrokerAddress,
        image_root: Path,
        director_root: Path,
        http_port: int,
    ) -> Device:
        """Give a new device its name, its broker and the two roots that it trusts.

        Raises:
            EnvironmentLackError: If `edgekit-agent init` fails; its words are in the error.
        """
        arguments = [
            *("--device", name, "--fleet", fleet, "--broker", str(broker)),
            *("--image-root", str(image_root), "--director-root", str(director_root)),
            *("--folder", str(folder), "--http-port", str(http_port)),
        ]
        done = subprocess.run(
            [*_COMMAND, "init", *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise EnvironmentLackError(
                f"edgekit-agent init failed: {done.stderr.strip()}", where=str(folder)
            )
        return cls(folder, name)

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.folder / "agent.toml"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the agent; it goes on until `stop`, or until this process ends."""
        with self.log.open("ab") as log:
            # Should this process be killed, the agent ends with it.
            self._process = subprocess.Popen(
                tethered([*_COMMAND, "run", "--config", str(self.config)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches us, and we stop it in good order.
                start_new_session=True,
            )

    def stop(self) -> None:
        """End the agent and wait until it is gone; a second call does nothing."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None

    def status(self) -> dict[str, Any]:
        """What the agent says of itself; empty as long as it has said nothing."""
        try:
            document = json.loads((self.folder / "data" / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}
        mine = self._process is not None and document.get("pid") == self._process.pid
        return document if mine and isinstance(document, dict) else {}

    def wait_until(
        self, reached: Callable[[dict[str, Any]], bool], *, what: str, timeout_s: float
    ) -> dict[str, Any]:
        """Wait until the agent's status is as wanted.

        Raises:
            EnvironmentLackError: If the agent ends or does not get there; its log is in the error.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.running:
            status = self.status()
            if status and reached(status):
                return status
            time.sleep(0.05)
        tail = self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        raise EnvironmentLackError(
            f"the agent {'did not get there' if self.running else 'has ended'}: {what}; "
            f"its log ends: {tail}",
            where=str(self.log),
        )
