"""docs/tutorial.md, typed as it stands, on ports that are free."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from edgekit.fleet.broker import find_mosquitto

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/tutorial.md"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]


def typed() -> str:
    """The page's blocks as one script that ends at the first command that fails."""
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))
    with ExitStack() as held:
        ports = [
            held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for _ in range(3)
        ]
    broker, page, models = ports
    for said, meant in (
        ("--broker-host localhost", f"--broker-host localhost --broker-port {broker}"),
        ("edgekit fleet serve", f"edgekit fleet serve --port {page}"),
        ("--folder agent", f"--folder agent --http-port {models}"),
        (":8883", f":{broker}"),
        (":8470", f":{page}"),
        (":8380", f":{models}"),
    ):
        assert said in script
        script = script.replace(said, meant)
    # The application would have ended at the first refused request.
    end = "kill $(jobs -p)"
    assert script.count(end) == 1
    return script.replace(end, f"jobs; pwd; test $(jobs -pr | wc -l) = 4\n{end}\nwait || true")


def test_the_tutorial_can_be_followed(tmp_path: Path) -> None:
    places = [Path(sys.executable).parent, Path(str(find_mosquitto())).parent]
    environment = os.environ | {
        "PATH": os.pathsep.join([*map(str, places), os.environ["PATH"]]),
        "TMPDIR": str(tmp_path),
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            [str(shutil.which("bash")), "-euo", "pipefail", "-c", typed()],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = shell.wait(280)
        finally:
            # Whatever it left behind, when it failed half-way.
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGTERM)
    said = log.read_text(errors="replace")
    assert code == 0, said[-3000:]
    assert '"model_version":"1.0.0"' in said
    assert re.search(r"rollout digits-2\.0\.0 of digits 2\.0\.0, made by \S+: completed", said)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert list(folder.glob("samples/oven-001/*.npz"))
