from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit_agent.config import Limits, load_config
from edgekit_runtime.errors import UsageError
from tests.simulators.signed_fleet import SignedFleet


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "edgekit_agent.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An agent's folder, made by `init`."""
    fleet = SignedFleet()
    (tmp_path / "i.json").write_bytes(fleet.image.first_root)
    (tmp_path / "d.json").write_bytes(fleet.director.first_root)
    run(*init(tmp_path))
    return tmp_path / "agent"


def init(folder: Path, **changes: object) -> list[object]:
    options = {
        "device": "d1",
        "fleet": "f1",
        "broker": "127.0.0.1:1",
        "image-root": folder / "i.json",
        "director-root": folder / "d.json",
        "folder": folder / "agent",
        "http-port": 0,
        **changes,
    }
    return ["init", *(part for name, value in options.items() for part in (f"--{name}", value))]


def test_init_writes_a_configuration_that_loads(folder: Path) -> None:
    config = load_config(folder / "agent.toml")
    assert (config.device, config.fleet, config.broker_port) == ("d1", "f1", 1)
    assert config.limits == Limits()
    assert config.data == folder / "data"
    assert config.image_root.read_bytes() == (folder.parent / "i.json").read_bytes()


def test_every_value_of_the_configuration_is_explained(folder: Path) -> None:
    lines = (folder / "agent.toml").read_text().splitlines()
    for position, line in enumerate(lines):
        if "=" in line and not line.startswith("#"):
            block = lines[max(0, position - 4) : position]
            assert any(text.startswith("#") for text in block), line


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"device": "no/slash"}, "no valid device id"),
        ({"broker": "host:port"}, "no HOST:PORT"),
        ({"broker": ""}, "no HOST:PORT"),
        ({"broker": "mqtt://host:1883"}, "no HOST:PORT"),
        ({"image-root": "/nowhere/root.json"}, "no such file"),
        ({"director-root": __file__}, "no root of trust"),
    ],
)
def test_init_says_what_is_wrong(tmp_path: Path, changes: dict[str, object], text: str) -> None:
    fleet = SignedFleet()
    (tmp_path / "i.json").write_bytes(fleet.image.first_root)
    (tmp_path / "d.json").write_bytes(fleet.director.first_root)
    done = run(*init(tmp_path, **changes), code=2)
    assert text in done.stderr
    assert not (tmp_path / "agent").exists()


def test_init_does_not_take_a_file_for_a_folder(folder: Path) -> None:
    command = init(folder.parent)
    command[command.index("--folder") + 1] = folder / "agent.toml"
    assert "this is a file" in run(*command, code=2).stderr


def test_init_does_not_overwrite_an_agent(folder: Path) -> None:
    assert "an agent in this folder already" in run(*init(folder.parent), code=2).stderr


def test_check_finds_everything_well_and_what_is_not(folder: Path) -> None:
    config = folder / "agent.toml"
    assert "ok   image root: version 1" in run("check", "--config", config).stdout
    (folder / "image-root.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(config.read_text().replace("port = 0", f"port = {port}"))
        done = run("check", "--json", "--config", config, code=1)
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    bad = [name for name, finding in findings.items() if not finding["ok"]]
    assert bad == ["image root", "HTTP port"]
    assert f"port {port}" in findings["HTTP port"]["detail"]


def test_a_root_that_does_not_sign_itself_is_found(folder: Path) -> None:
    path = folder / "director-root.json"
    document = json.loads(path.read_bytes())
    document["signed"]["version"] = 7
    path.write_text(json.dumps(document))
    assert "FAIL director root" in run("check", "--config", folder / "agent.toml", code=1).stdout


def test_run_with_a_port_in_use_says_which(folder: Path) -> None:
    config = folder / "agent.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(config.read_text().replace("port = 0", f"port = {port}"))
        done = run("run", "--config", config, code=4)
    assert f"cannot listen on port {port}" in done.stderr
    assert "fix:" in done.stderr


def test_check_knows_the_port_of_its_own_agent_from_that_of_others(folder: Path) -> None:
    config = folder / "agent.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(config.read_text().replace("\nport = 0\n", f"\nport = {port}\n"))
        assert "FAIL HTTP port" in run("check", "--config", config, code=1).stdout
        status = folder / "data" / "status.json"
        status.write_text(json.dumps({"pid": os.getpid(), "port": port}))
        found = run("check", "--config", config).stdout
        assert f"ok   HTTP port: 127.0.0.1:{port}: this agent runs" in found


def test_status_before_the_first_run_says_so(folder: Path) -> None:
    assert "has not run yet" in run("status", "--config", folder / "agent.toml", code=2).stderr


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["device: is missing", "broker: is missing", "image_root: is missing"]),
        ("device = 1\nfleet = 'a b'\nextra = 1", ["device: must", "fleet: 'a b'", "extra: is not"]),
        ("[broker]\nhost = 'h'\nport = 0\nprot = 1", ["broker.port: 0", "broker.prot: is not"]),
        ("[limits]\nchunk_window = 0\nmystery = 1", ["limits.chunk_window", "limits.mystery"]),
        ("[broker]\nhost='h'\n[broker.tls]\nca='c'\nkey='k'", ["broker.tls: certificate and key"]),
        ("not toml", ["no TOML"]),
    ],
)
def test_all_faults_of_a_configuration_are_named(
    tmp_path: Path, text: str, faults: list[str]
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text or "# empty")
    with pytest.raises(UsageError) as caught:
        load_config(path)
    for fault in faults:
        assert fault in caught.value.what


def test_debug_shows_the_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgekit_agent.cli", "--debug", "status", "--config", "/nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stderr


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom edgekit_agent.cli import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "print([m for m in ('numpy', 'tuf', 'paho', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "edgekit-agent init" in done.stdout


def test_ctrl_c_and_sigterm_end_it_in_order(folder: Path) -> None:
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit_agent.cli", "run", "--config", folder / "agent.toml"],
            stderr=subprocess.PIPE,
        )
        status = folder / "data" / "status.json"
        deadline = time.monotonic() + 30
        while not (status.exists() and json.loads(status.read_bytes())["pid"] == process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        _, logs = process.communicate(timeout=20)
        assert process.returncode == 0
        assert b"Traceback" not in logs
        assert all(json.loads(line)["level"] for line in logs.splitlines())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(folder: Path) -> None:
    folder.chmod(0o500)
    try:
        assert "cannot write" in run("run", "--config", folder / "agent.toml", code=4).stderr
    finally:
        folder.chmod(0o700)
