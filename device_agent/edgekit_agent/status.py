"""`status.json`: how a running agent is, for whoever asks on the device itself."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit_runtime.errors import UsageError
from edgekit_runtime.reports import DeviceEvent, DeviceState

if TYPE_CHECKING:
    # Needs sqlite3, which a server has no use for.
    from edgekit_agent.telemetry.reporting import TelemetrySummary


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """How the agent is.

    Attributes:
        state: As it is published.
        connected: Whether the broker is reached.
        connection: Why it is not.
        host: Where the models are served.
        port: Where the models are served.
        ready: Whether a server answers there.
        pid: Of the supervisor.
        server_pid: Of the server; None while there is none.
        supervisor_rss_bytes: Resident memory, measured now.
        server_rss_bytes: Resident memory, measured now; 0 while there is none.
        events: The last ones, oldest first.
        journal: What is wrong with the journal; empty for nothing.
        storage: Why what is stored cannot be read; empty if it can.
        telemetry: What waits to be sent, what was dropped, whose values have drifted.
    """

    state: DeviceState
    connected: bool
    connection: str
    host: str
    port: int
    ready: bool
    pid: int
    server_pid: int | None
    supervisor_rss_bytes: int
    server_rss_bytes: int
    events: Sequence[DeviceEvent]
    journal: str
    storage: str
    telemetry: TelemetrySummary

    def to_json(self) -> bytes:
        """The status as it stands in the file."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()


def write_status(path: Path, status: AgentStatus) -> None:
    """Replace the file at once; it need not survive a power cut, so nothing is synced."""
    handle, name = tempfile.mkstemp(prefix=".status.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(status.to_json())
        temporary = Path(name)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def read_status(path: Path) -> dict[str, object]:
    """What the agent last said of itself, with `running` set by looking for its process.

    Raises:
        UsageError: If it has never run with this configuration.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(
            "this agent has not run yet", where=str(path), fix="start it: `edgekit-agent run`"
        ) from error
    if not isinstance(document, dict):
        raise UsageError("this is no status", where=str(path), fix="start the agent again")
    document["running"] = _runs(document.get("pid"))
    return document


def _runs(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
