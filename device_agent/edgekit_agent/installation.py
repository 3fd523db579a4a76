"""The supervisor's side of fetching and installing: each step is done in a process of its own.

An index of a large model is tens of megabytes of objects once it is parsed, and a delta needs
some too: none of it stays in the supervisor.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from edgekit_agent.hardware import Hardware
from edgekit_agent.needs import Missing, Ready
from edgekit_agent.state import Target
from edgekit_agent.workers import run_worker
from edgekit_runtime.errors import EdgekitError, EnvironmentLackError, VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES
from edgekit_runtime.sealing.keys import StorageLockedError
from edgekit_runtime.sealing.vault import Encryption

# The largest bundle onto the slowest card.
INSTALL_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallPlan:
    """What an installing process needs; the target comes on its standard input.

    Attributes:
        data: The agent's folder.
        encryption: How files are kept there, as `Encryption.to_text` gives it.
        hardware: As `Hardware.to_json` gives it.
        store_bytes: The most that the chunks of one update may take.
        failed: Ids of variants that failed their proof.
        reuse: Whether installed files may help.
        life: A pipe, inherited, whose other end only the supervisor holds.
    """

    data: str
    encryption: str
    hardware: dict[str, object]
    store_bytes: int
    failed: tuple[str, ...]
    reuse: bool
    life: int

    def to_json(self) -> str:
        """The plan as an argument."""
        return json.dumps(asdict(self), separators=(",", ":"))


def read_install_plan(text: str) -> InstallPlan:
    """Read what `InstallPlan.to_json` made; it comes from our own supervisor."""
    return InstallPlan(**json.loads(text))


class InstallerProcess:
    """Starts a process for each look at what a target lacks, and for installing it."""

    def __init__(
        self,
        data: Path,
        *,
        hardware: Hardware,
        store_bytes: int,
        encryption: Encryption | None = None,
    ) -> None:
        """Work in the agent's folder `data`; the other arguments are those of `Fetcher`."""
        self._data = data
        self._encryption = (encryption or Encryption()).to_text()
        self._hardware = hardware
        self._store_bytes = store_bytes

    def install(
        self, target: Target, failed: Collection[str], *, reuse: bool = True
    ) -> Missing | Ready:
        """As `Fetcher.install`.

        Raises:
            EdgekitError: As `Fetcher.install`; the kind is kept where it matters.
        """

        def plan(life: int) -> str:
            return InstallPlan(
                data=str(self._data),
                encryption=self._encryption,
                hardware=self._hardware.to_json(),
                store_bytes=self._store_bytes,
                failed=tuple(failed),
                reuse=reuse,
                life=life,
            ).to_json()

        output = run_worker(
            "edgekit_agent.install_worker",
            plan,
            stdin=json.dumps({"target": target.to_json()}).encode(),
            seconds=INSTALL_SECONDS,
            task="installing",
        )
        return _read_result(output)


def describe_result(result: Missing | Ready | EdgekitError) -> dict[str, object]:
    """What an installing process prints."""
    match result:
        case Missing(chunks=chunks, reuse=reuse):
            return {"missing": chunks, "reuse": reuse}
        case Ready(variant=variant):
            return {"variant": variant}
        case error:
            lacks = isinstance(error, EnvironmentLackError)
            locked = isinstance(error, StorageLockedError)
            return {
                "what": error.what,
                "where": error.where or "",
                "fix": error.fix or "",
                "lacks": lacks,
                "locked": locked,
            }


def _read_result(output: bytes) -> Missing | Ready:
    reader = FieldReader(json.loads(output))
    if reader.raw("what") is not None:
        kind: type[EdgekitError] = VerificationError
        if reader.boolean("lacks"):
            kind = StorageLockedError if reader.boolean("locked") else EnvironmentLackError
        raise kind(
            reader.text("what", most=1 << 20),
            where=reader.text("where", most=1 << 20) or None,
            fix=reader.text("fix", most=1 << 20) or None,
        )
    if reader.raw("variant") is not None:
        return Ready(variant=reader.text("variant"))
    missing = reader.nested("missing")
    chunks = {
        name: missing.integer(name, least=1, most=MAX_CHUNK_WIRE_BYTES) for name in missing.names()
    }
    return Missing(chunks=chunks, reuse=reader.boolean("reuse"))
