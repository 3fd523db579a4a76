"""Whole agents that end by `kill -9`, with every process of theirs, and begin again.

An agent here takes its updates from a folder, as from a stick. Run as
`python -m tests.simulators.killed_agents CONFIG STEP MOMENT` it is the agent that kills its whole
process group at a step of its journal: `before` the step is written down, or `after` it is and
before anything is done about it.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgekit_runtime.protocol import Topics
from tests.simulators.local_agent import DEVICE, infer_body
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import affine_bundle

_ROOT = Path(__file__).resolve().parents[2]
_TOPICS = Topics("plant")
_WAIT_SECONDS = 120.0
_CONFIG = """\
device = "{device}"
fleet = "plant"
data = "data"
image_root = "image-root.json"
director_root = "director-root.json"
log_level = "info"
[stick]
folder = "stick"
poll_seconds = 0.1
[http]
port = 0
"""


class KilledAgent:
    """One device: its folder, its stick, its processes.

    Attributes:
        number: Of the version that it was told to run last; a version's model multiplies by it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.number = 0
        self._fleet = SignedFleet()
        (folder / "agent.toml").write_text(_CONFIG.format(device=DEVICE))
        (folder / "image-root.json").write_bytes(self._fleet.image.first_root)
        (folder / "director-root.json").write_bytes(self._fleet.director.first_root)
        self._process: subprocess.Popen[bytes] | None = None

    def release_next(self) -> None:
        """Order the next version: another model, and some other data beside it."""
        self.number += 1
        files = affine_bundle(
            "double", f"{self.number}.0.0", self.number, padding=100_000 + 3_000 * self.number
        )
        self._fleet.release("double", f"{self.number}.0.0", files)
        self.order_again()

    def order_again(self) -> None:
        """Order the same version, by a new order."""
        order = self._fleet.order(DEVICE, quick_order("double", f"{self.number}.0.0"))
        contents = {
            **{_TOPICS.chunk(name): data for name, data in self._fleet.chunks.items()},
            _TOPICS.metadata: self._fleet.image_message(),
            _TOPICS.order(DEVICE): order,
        }
        for name, data in contents.items():
            path = self.folder / "stick" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != data:
                partial = path.with_name(".partial")
                partial.write_bytes(data)
                partial.rename(path)

    def start(self, *, kill_at: tuple[int, str] | None = None) -> None:
        """Begin; to be killed at a step of the journal, or by `kill`."""
        config = str(self.folder / "agent.toml")
        command = (
            ["-m", "edgekit_agent", "run", "--config", config]
            if kill_at is None
            else ["-m", "tests.simulators.killed_agents", config, str(kill_at[0]), kill_at[1]]
        )
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its processes are one group, and nobody else is in it.
                start_new_session=True,
            )

    def kill(self) -> None:
        """End every process at once, whatever it is doing."""
        assert self._process
        os.killpg(self._process.pid, signal.SIGKILL)
        assert self._process.wait(60) == -signal.SIGKILL

    def ended(self) -> bool:
        """Whether it has killed itself; anything else that ends it is a fault."""
        assert self._process
        code = self._process.poll()
        assert code in (None, -signal.SIGKILL), self.log()
        return code is not None

    def stop(self) -> None:
        """End in good order."""
        assert self._process
        self._process.terminate()
        assert self._process.wait(60) == 0

    def delete(self) -> None:
        shutil.rmtree(self.folder)

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / "data" / "status.json").read_bytes())
        except OSError:
            return {}
        return found if self._process and found["pid"] == self._process.pid else {}

    def bundle(self) -> dict[str, str]:
        found: dict[str, str] = self.status().get("state", {}).get("bundles", {}).get("double", {})
        return found

    def answer(self) -> float | None:
        """What the model multiplies by; None while nothing listens yet."""
        status = self.status()
        if not status.get("ready"):
            return None
        client = http.client.HTTPConnection("127.0.0.1", status["port"], timeout=60)
        body = json.dumps(infer_body([1.0, 2.0, 3.0, 4.0]))
        client.request("POST", "/v2/models/double/infer", body)
        response = client.getresponse()
        document = json.loads(response.read())
        client.close()
        assert response.status == http.HTTPStatus.OK, (document, self.log())
        data: list[float] = document["outputs"][0]["data"]
        assert data == [data[0] * factor for factor in (1, 2, 3, 4)]
        return data[0]

    def assert_serves(self) -> None:
        """It comes up with a model that works: the version before, or the new one."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while (answer := self.answer()) is None:
            assert not self.ended()
            assert time.monotonic() < deadline, (self.status(), self.log())
            time.sleep(0.02)
        assert answer in (self.number - 1, self.number), (answer, self.number)

    def assert_completes(self) -> str:
        """The version before is served until the new one is; the reason if it is refused."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            state = self.status().get("state", {})
            # What it says before it has read the order is about the one before.
            followed = state.get("order_version") == self._fleet.director.versions
            bundle = state.get("bundles", {}).get("double", {}) if followed else {}
            told = bundle.get("phase"), bundle.get("active")
            if told == ("active", f"{self.number}.0.0"):
                if self.answer() == self.number:
                    return ""
            elif told[0] in ("rejected", "rolled_back"):
                assert self.answer() in (self.number - 1, self.number)
                return str(bundle["reason"])
            assert not self.ended()
            assert time.monotonic() < deadline, (self.status(), self.log())
            time.sleep(0.02)

    def log(self) -> str:
        return (self.folder / "log").read_text()[-4000:]


def main() -> None:
    from unittest import mock

    from edgekit_agent import supervise, updates
    from edgekit_agent.journal import Journal, save_journal

    # What is left is the supervisor's own command line.
    moment, step = sys.argv.pop(), int(sys.argv.pop())
    steps = 0

    def save(path: Path, journal: Journal) -> None:
        nonlocal steps
        steps += 1
        if steps > step and moment == "before":
            os.killpg(0, signal.SIGKILL)
        save_journal(path, journal)
        if steps > step:
            os.killpg(0, signal.SIGKILL)

    with mock.patch.object(updates, "save_journal", save):
        supervise.main()


if __name__ == "__main__":
    main()
