"""Start an MQTT broker for development on this machine, and stop it again for certain.

It listens on loopback only and lets everybody in: a broker for devices elsewhere needs TLS and
an access list. mosquitto where it is installed; else amqtt, which is slow, speaks MQTT 3.1.1
only, and forgets everything when it stops.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

from edgekit.fleet.folder import BrokerAddress
from edgekit_runtime.durable import unwritable, write_bytes
from edgekit_runtime.errors import EnvironmentLackError, UsageError

Choice = Literal["auto", "mosquitto", "amqtt"]

_HOST: Final = "127.0.0.1"
_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 10.0
_LOG_TAIL_BYTES: Final = 1_500
# Debian keeps it where only an administrator's PATH leads.
_MOSQUITTO_PLACES: Final = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
_MOSQUITTO_CONFIG: Final = """\
# Made by edgekit, for development on this machine only: it listens on loopback and lets
# everybody in, without TLS. Do not use it for devices elsewhere.
listener {port} 127.0.0.1
allow_anonymous true
# Retained messages, chunks among them, survive a restart.
persistence true
persistence_location {folder}/
autosave_interval 30
# Nagle's algorithm costs 40 ms for each exchange.
set_tcp_nodelay true
# A window of chunks at a time for each device.
max_inflight_messages 64
# Beyond the queue messages are dropped silently: ten for each of 10,000 simulated devices.
max_queued_messages 100000
log_dest stderr
connection_messages false
"""


@dataclass(frozen=True, slots=True)
class _Program:
    name: Literal["mosquitto", "amqtt"]
    command: list[str]


class RunningBroker:
    """A broker process of ours; stopped by `stop`, at the end of a `with`, or with this process.

    Attributes:
        name: "mosquitto" or "amqtt".
        version: Of the program.
        address: Where it listens.
        log: Its log file.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        address: BrokerAddress,
        log: Path,
        process: subprocess.Popen[bytes],
    ) -> None:
        self.name = name
        self.version = version
        self.address = address
        self.log = log
        self._process = process
        atexit.register(self.stop)

    def __enter__(self) -> RunningBroker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def host(self) -> str:
        """The address it listens on."""
        return self.address.host

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.address.port

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process and wait until it is gone; a second call does nothing."""
        atexit.unregister(self.stop)
        _end(self._process)


def start_broker(folder: Path, *, port: int = 0, prefer: Choice = "auto") -> RunningBroker:
    """Start a broker on loopback and wait until it accepts connections.

    Call it from a thread that lives as long as the broker should: on Linux, mosquitto ends with
    the thread that started it.

    Args:
        folder: For its configuration, log and memory; made if needed.
        port: Where to listen; 0 for any free port.
        prefer: Which broker; "auto" takes mosquitto where it is installed.

    Raises:
        UsageError: If `prefer` or the port is none.
        EnvironmentLackError: If the port is in use, the broker is not installed, the folder
            cannot be written, or the broker does not start: its log is in the error.
    """
    if prefer not in ("auto", "mosquitto", "amqtt"):
        raise UsageError(
            f"there is no broker {prefer!r}", fix="choose one of: auto, mosquitto, amqtt"
        )
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    port = _free_port(port)
    program = _program(folder, port, prefer)
    log = folder / f"{program.name}.log"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                program.command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches us, and we stop it in good order.
                start_new_session=True,
            )
    except OSError as error:
        raise unwritable(log, error) from error
    try:
        _wait_until_it_accepts(process, program.name, port, log)
    except BaseException:
        _end(process)
        raise
    return RunningBroker(
        name=program.name,
        version=_version(program.name, log),
        address=BrokerAddress(_HOST, port),
        log=log,
        process=process,
    )


def find_mosquitto() -> Path | None:
    """Where mosquitto is installed, if it is."""
    places = os.pathsep.join((os.environ.get("PATH", ""), *_MOSQUITTO_PLACES))
    found = shutil.which("mosquitto", path=places)
    return Path(found) if found else None


def _free_port(port: int) -> int:
    if not 0 <= port <= 65_535:  # noqa: PLR2004
        raise UsageError(f"{port} is no port", fix="give a number from 0 to 65535")
    with socket.socket() as probe:
        if sys.platform != "win32":
            # As the brokers do: a connection that is just closing does not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise EnvironmentLackError(
                f"port {port} cannot be used: {error.strerror or error}",
                where=f"{_HOST}:{port}",
                fix="stop what listens there, or choose another port (0 takes any free one)",
            ) from error
        found: int = probe.getsockname()[1]
        return found


def _program(folder: Path, port: int, prefer: Choice) -> _Program:
    mosquitto = find_mosquitto() if prefer != "amqtt" else None
    if mosquitto is not None:
        return _Program("mosquitto", _mosquitto_command(mosquitto, folder, port))
    if prefer == "mosquitto":
        raise EnvironmentLackError(
            "mosquitto is not installed",
            fix="apt install mosquitto; or take the embedded development broker: amqtt",
        )
    if importlib.util.find_spec("amqtt") is None:
        raise EnvironmentLackError(
            "no broker is installed", fix='apt install mosquitto; or: pip install "edgekit[fleet]"'
        )
    command = [sys.executable, "-P", "-m", "edgekit.fleet.dev_broker", "--port", str(port)]
    return _Program("amqtt", command)


def _mosquitto_command(mosquitto: Path, folder: Path, port: int) -> list[str]:
    config = folder / "mosquitto.conf"
    text = _MOSQUITTO_CONFIG.format(port=port, folder=folder)
    if sys.platform != "win32" and os.getuid() == 0:
        # Started by root it would become another user, who may not write into the folder.
        text += "user root\n"
    write_bytes(config, text.encode())
    tether = (
        [sys.executable, "-P", "-m", "edgekit.fleet.tethered", str(os.getpid())]
        if sys.platform == "linux"
        else []
    )
    return [*tether, str(mosquitto), "-c", str(config)]


def _wait_until_it_accepts(
    process: subprocess.Popen[bytes], name: str, port: int, log: Path
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection((_HOST, port), timeout=1.0):
                return
        except OSError:
            time.sleep(0.02)
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        tail = file.read().decode(errors="replace").strip()
    ended = process.poll()
    raise EnvironmentLackError(
        f"{name} did not start: "
        + (f"it ended with code {ended}" if ended is not None else "it accepts no connection")
        + (f"; its log ends: {tail}" if tail else ""),
        where=str(log),
        fix="see the log; choose another port, or the other broker (mosquitto, amqtt)",
    )


def _version(name: Literal["mosquitto", "amqtt"], log: Path) -> str:
    if name == "amqtt":
        return importlib.metadata.version("amqtt")
    match = re.search(rb"mosquitto version (\S+) ", log.read_bytes())
    return match[1].decode() if match else "unknown"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
