"""Installing below a root folder, and leaving nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pytest

from edgekit_agent.config import TlsNames, load_config
from edgekit_agent.install import setup
from edgekit_agent.install.layout import CONFIG_FOLDER, UNIT_FILE, move_files, move_paths, unit_text
from edgekit_agent.install.setup import install, uninstall
from edgekit_agent.provision import create_agent
from edgekit_agent.watchdog import ServiceManager
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from tests.simulators.signed_fleet import SignedFleet

ANALYZE = shutil.which("systemd-analyze")
# systemd's own scale: 0 is best, and what it calls "OK" ends at 4.9.
MOST_EXPOSURE = 2.0


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    fleet = SignedFleet()
    (tmp_path / "i.json").write_bytes(fleet.image.first_root)
    (tmp_path / "d.json").write_bytes(fleet.director.first_root)
    folder = tmp_path / "agent"
    create_agent(
        folder,
        device="cam-7",
        fleet="plant",
        broker_host="10.0.0.5",
        broker_port=8883,
        image_root=tmp_path / "i.json",
        director_root=tmp_path / "d.json",
        http_port=8380,
        tls=TlsNames(),
    )
    for name in ("ca.pem", "device.pem", "device-key.pem"):
        (folder / name).write_text(name)
    return folder


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def test_an_image_gets_everything_in_its_place(agent: Path, tmp_path: Path) -> None:
    root = tmp_path / "image"
    install(agent, root=root, executable="/opt/edgekit/bin/edgekit-agent")
    assert tree(root) == {
        "etc/edgekit/agent.toml",
        "etc/edgekit/image-root.json",
        "etc/edgekit/director-root.json",
        "etc/systemd/system/edgekit-agent.service",
        "etc/systemd/system/multi-user.target.wants/edgekit-agent.service",
        "etc/sysusers.d/edgekit.conf",
        "var/lib/edgekit/identity/ca.pem",
        "var/lib/edgekit/identity/device.pem",
        "var/lib/edgekit/identity/device-key.pem",
    }
    key = root / "var/lib/edgekit/identity/device-key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    # The agent's user does not exist in an image, and has to read it all the same.
    assert (root / "etc/edgekit/agent.toml").stat().st_mode & 0o777 == 0o644
    config = load_config(root / "etc/edgekit/agent.toml")
    assert config.data == Path("/var/lib/edgekit")
    assert config.image_root == Path("/etc/edgekit/image-root.json")
    assert config.tls
    assert config.tls.key == Path("/var/lib/edgekit/identity/device-key.pem")
    before, after = (
        (agent / "agent.toml").read_text(),
        (root / "etc/edgekit/agent.toml").read_text(),
    )
    changed = [line for line in after.splitlines() if line not in before.splitlines()]
    assert len(changed) == 6
    # Again, with another command: what was there is replaced.
    install(agent, root=root, executable="/usr/bin/edgekit-agent")
    unit = (root / UNIT_FILE.relative_to("/")).read_text()
    assert "ExecStart=/usr/bin/edgekit-agent run" in unit
    uninstall(root=root)
    assert tree(root) == set()
    assert not (root / "etc/sysusers.d").exists()
    with pytest.raises(UsageError, match="no agent is installed"):
        uninstall(root=root)


def test_every_certificate_key_and_password_is_placed_and_named_anew(
    agent: Path, tmp_path: Path
) -> None:
    (agent / "stream").mkdir()
    files = {"stream/ca.pem": "stream", "password": "secret", "storage.key": "0" * 64}
    for name, content in files.items():
        (agent / name).write_text(content)
    with (agent / "agent.toml").open("a") as file:
        file.write(
            '[mirror]\nurl = "https://m"\n[mirror.tls]\nca = "ca.pem"\n'
            '[encryption]\nkey_file = "storage.key" # beside it\n'
            "[[stream]]\nmodel = 'm'\ntopic_in = 'i'\ntopic_out = 'o'\n"
            "username = 'u'\npassword_file = 'password'\n[stream.tls]\nca = 'stream/ca.pem'\n"
        )
    root = tmp_path / "image"
    install(agent, root=root, executable="x")
    config = load_config(root / "etc/edgekit/agent.toml")
    (stream,) = config.streams
    assert config.tls
    assert config.mirror
    assert config.mirror.tls
    assert config.encryption.key
    assert stream.tls
    assert stream.password_file
    assert config.mirror.tls.ca == config.tls.ca
    for path, content, mode in (
        (config.tls.ca, "ca.pem", 0o644),
        (stream.tls.ca, "stream", 0o644),
        (stream.password_file, "secret", 0o600),
        (Path(config.encryption.key.name), "0" * 64, 0o600),
    ):
        placed = root / path.relative_to("/")
        assert path.parent == Path("/var/lib/edgekit/identity")
        assert (placed.read_text(), placed.stat().st_mode & 0o777) == (content, mode)


@pytest.mark.parametrize("name", ["image-root.json", "device.pem"])
def test_a_file_that_is_missing_is_named_before_anything_is_written(
    agent: Path, tmp_path: Path, name: str
) -> None:
    (agent / name).unlink()
    with pytest.raises(UsageError, match="no such file") as caught:
        install(agent, root=tmp_path / "image", executable="x")
    assert caught.value.where == str(agent / name)
    assert not (tmp_path / "image").exists()


def test_a_file_that_is_named_in_another_way_is_left_to_a_person(agent: Path) -> None:
    text = '"key_file" = "storage.key"\n'
    with pytest.raises(UsageError, match=r"storage\.key is not named on a line of its own"):
        move_files(text, {agent / "storage.key": PurePosixPath("/i/storage.key")}, base=agent)


def test_data_may_be_kept(agent: Path, tmp_path: Path) -> None:
    root = tmp_path / "image"
    install(agent, root=root, executable="x")
    uninstall(root=root, keep_data=True)
    assert {name.split("/")[0] for name in tree(root)} == {"etc", "var"}
    assert "etc/edgekit/agent.toml" in tree(root)
    assert "etc/systemd/system/edgekit-agent.service" not in tree(root)


def test_what_dpkg_has_put_there_is_left_to_dpkg(agent: Path, tmp_path: Path) -> None:
    root = tmp_path / "image"
    install(agent, root=root, executable="/usr/bin/edgekit-agent")
    for name in ("usr/bin/edgekit-agent", "opt/edgekit/site/click/core.py"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("of the package")
    assert uninstall(root=root).left == ("sudo apt purge edgekit-agent",)
    assert tree(root) == {"usr/bin/edgekit-agent", "opt/edgekit/site/click/core.py"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may install")
def test_a_live_machine_needs_root(agent: Path) -> None:
    with pytest.raises(EnvironmentLackError, match="needs root"):
        install(agent)


def test_a_folder_without_an_agent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        install(tmp_path, root=tmp_path / "image")
    assert not (tmp_path / "image").exists()


def test_paths_are_moved_and_nothing_else() -> None:
    text = '# data = "no"\ndata="x" # here\nother = 1\n'
    assert move_paths(text, {"data": "/d"}) == '# data = "no"\ndata = "/d"\nother = 1\n'
    assert move_paths("a = 1\n", {"data": "/d"}) == 'data = "/d"\na = 1\n'
    with pytest.raises(UsageError, match="'ca' stands 2 times"):
        move_paths('ca = "a"\nca = "b"\n', {"ca": "/c"})


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_finds_the_unit_well_and_hardened(tmp_path: Path) -> None:
    unit = tmp_path / "edgekit-agent.service"
    unit.write_text(unit_text("/bin/true"))
    command: Sequence[str] = [str(ANALYZE), "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    mine = [line for line in done.stderr.splitlines() if "edgekit-agent" in line]
    assert mine == []
    command = [str(ANALYZE), "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert found, done
    assert float(found[1]) <= MOST_EXPOSURE, done.stdout


def test_systemd_is_told_that_the_agent_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(path))
        line.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        manager = ServiceManager()
        manager.ready()
        for now in (10.0, 10.5, 11.5):
            manager.alive(now)
        manager.stopping()
        heard = [line.recv(100) for _ in range(4)]
    assert heard == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"]
    # Nobody listens any more: that stops nothing.
    manager.alive(100.0)
    monkeypatch.delenv("NOTIFY_SOCKET")
    ServiceManager().ready()


def test_the_commands(agent: Path, tmp_path: Path) -> None:
    root = tmp_path / "image"
    command = [sys.executable, "-m", "edgekit_agent.cli"]
    done = subprocess.run(
        [*command, "install", "--agent", str(agent), "--root", str(root), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert f"wrote {CONFIG_FOLDER}/agent.toml" in json.loads(done.stdout)["steps"]
    done = subprocess.run(
        [*command, "uninstall", "--root", str(root)], capture_output=True, text=True, check=False
    )
    assert "deleted /etc/edgekit" in done.stdout
    assert tree(root) == set()


def test_on_a_live_machine_the_service_is_made_started_and_ended(
    agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "machine"
    owners: dict[str, tuple[str, str]] = {}
    ran: list[str] = []
    monkeypatch.setattr(setup, "SYSTEM", root)
    monkeypatch.setattr(setup, "_systemd_runs", lambda: True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(
        shutil,
        "chown",
        lambda path, user, group: owners.update({str(path.relative_to(root)): (user, group)}),
    )
    install(agent, root=root, executable="x", run=lambda command: ran.append(" ".join(command)))
    assert ran == [
        "systemd-sysusers /etc/sysusers.d/edgekit.conf",
        "systemctl enable edgekit-agent.service",
        "systemctl daemon-reload",
        "systemctl restart edgekit-agent.service",
    ]
    ours = ("edgekit", "edgekit")
    assert owners["var/lib/edgekit"] == ours
    assert owners["var/lib/edgekit/identity/device-key.pem"] == ours
    assert not [path for path in owners if path.startswith("etc")]
    ran.clear()
    done = uninstall(root=root, run=lambda command: ran.append(" ".join(command)))
    assert ran == [
        "systemctl disable --now edgekit-agent.service",
        "systemctl daemon-reload",
        "userdel edgekit",
    ]
    assert done.left == ()
    assert tree(root) == set()


def test_a_program_of_the_system_that_fails_is_named() -> None:
    with pytest.raises(EnvironmentLackError, match="no-such-program-here is not installed"):
        setup.run_command(["no-such-program-here"])
    with pytest.raises(EnvironmentLackError, match="sh -c exit 3 failed"):
        setup.run_command(["sh", "-c", "exit 3"])
