"""Put an agent onto a machine as a service, and take it away again without a trace."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from edgekit_agent.config import FILE_NAME, load_config
from edgekit_agent.install.layout import (
    COMMAND_LINK,
    CONFIG_FOLDER,
    DATA_FOLDER,
    SERVICE,
    SOFTWARE_FOLDER,
    SYSUSERS_FILE,
    UNIT_FILE,
    USER,
    PlacedFile,
    place_agent,
)
from edgekit_runtime.durable import sync_folder, unwritable
from edgekit_runtime.errors import EnvironmentLackError, UsageError

SYSTEM: Final = Path("/")
_FOLDERS: Final = (CONFIG_FOLDER, DATA_FOLDER)
_DEBIAN_COMMAND: Final = PurePosixPath("/usr/bin/edgekit-agent")
# What sd_booted(3) looks at.
_SYSTEMD_RUNS: Final = Path("/run/systemd/system")
_LINK_ENABLES: Final = PurePosixPath("/etc/systemd/system/multi-user.target.wants") / SERVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was done.

    Attributes:
        steps: For people, in order.
        left: What has to be done by hand; empty for nothing.
    """

    steps: tuple[str, ...]
    left: tuple[str, ...] = ()


Run = Callable[[Sequence[str]], None]


def run_command(command: Sequence[str]) -> None:
    """Run a program of the system.

    Raises:
        EnvironmentLackError: If it is missing or fails; its words are in the error.
    """
    try:
        subprocess.run(list(command), check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise EnvironmentLackError(
            f"{command[0]} is not installed", fix="install it, or give --root and do it by hand"
        ) from error
    except subprocess.CalledProcessError as error:
        raise EnvironmentLackError(
            f"{' '.join(command)} failed: {error.stderr.strip()[:500]}"
        ) from error


def install(
    agent: Path, *, root: Path = SYSTEM, executable: str = "", run: Run = run_command
) -> Done:
    """Install an agent's folder as a service that starts with the machine.

    It may be run again: configuration and software are replaced, what the agent has stored stays.

    Args:
        agent: The folder that `init` or `enrol` made.
        root: Of the machine; another folder prepares an image, and starts nothing.
        executable: Command line that starts the agent; by default the one that is running.
        run: Runs a program of the system.

    Raises:
        UsageError: If the folder holds no agent.
        EnvironmentLackError: If files cannot be written, or a program of the system fails.
    """
    config_file = agent / FILE_NAME
    config = load_config(config_file)
    live = root == SYSTEM
    if live and os.geteuid() != 0:
        raise EnvironmentLackError(
            "installing a service needs root", fix="run it with sudo, or give --root FOLDER"
        )
    placed = place_agent(
        config,
        config_file.read_text(encoding="utf-8"),
        base=config_file.absolute().parent,
        executable=executable or running_executable(),
    )
    steps = []
    for file in placed:
        _write(root, file)
        steps.append(f"wrote {file.path}")
    if not live:
        link = _below(root, _LINK_ENABLES)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(UNIT_FILE)
        steps.append(f"enabled {SERVICE}")
        return Done(
            steps=tuple(steps),
            left=(f"the first boot makes the user {USER} and its folders (systemd-sysusers)",),
        )
    run(["systemd-sysusers", str(SYSUSERS_FILE)])
    _give_away(root, placed)
    steps.append(f"made the user {USER}")
    run(["systemctl", "enable", SERVICE])
    if not _systemd_runs():
        steps.append(f"enabled {SERVICE}")
        left = "nothing was started: systemd does not run here, and starts it with the machine"
        return Done(steps=tuple(steps), left=(left,))
    run(["systemctl", "daemon-reload"])
    run(["systemctl", "restart", SERVICE])
    steps.append(f"enabled and started {SERVICE}")
    return Done(steps=tuple(steps))


def uninstall(*, root: Path = SYSTEM, keep_data: bool = False, run: Run = run_command) -> Done:
    """Take the service, its user, its files and its software away.

    Args:
        root: Of the machine.
        keep_data: Leave the device's identity, its models and its configuration.
        run: Runs a program of the system.

    Raises:
        UsageError: If there is nothing installed.
        EnvironmentLackError: If something cannot be deleted, or a program of the system fails.
    """
    live = root == SYSTEM
    gone = [UNIT_FILE, SYSUSERS_FILE, _LINK_ENABLES, COMMAND_LINK, SOFTWARE_FOLDER]
    if not keep_data:
        gone += _FOLDERS
    # Of a Debian package, dpkg takes away what dpkg has put there.
    packaged = os.path.lexists(_below(root, _DEBIAN_COMMAND))
    if packaged:
        gone.remove(SOFTWARE_FOLDER)
    found = [path for path in gone if os.path.lexists(_below(root, path))]
    if not found:
        raise UsageError("no agent is installed here", where=str(root))
    steps = []
    running = live and _systemd_runs()
    if running and UNIT_FILE in found:
        run(["systemctl", "disable", "--now", SERVICE])
        steps.append(f"stopped {SERVICE}")
    for path in found:
        _delete(_below(root, path))
        steps.append(f"deleted {path}")
    # Debian has this folder only where something is in it.
    with contextlib.suppress(OSError):
        _below(root, SYSUSERS_FILE.parent).rmdir()
    if running:
        run(["systemctl", "daemon-reload"])
    if live and not keep_data:
        run(["userdel", USER])
        steps.append(f"deleted the user {USER}")
    left = ("sudo apt purge edgekit-agent",) if packaged else ()
    return Done(steps=tuple(steps), left=left)


def running_executable() -> str:
    """The command line of the program that is running, such that a unit can start it again."""
    # A package's launcher says who it is: the Python behind it finds nothing on its own.
    packaged = os.environ.get("EDGEKIT_COMMAND")
    if packaged:
        return packaged
    own = Path(sys.argv[0])
    if own.name == "edgekit-agent" and own.is_absolute():
        return str(own)
    found = shutil.which("edgekit-agent")
    return found or f"{sys.executable} -m edgekit_agent"


def _systemd_runs() -> bool:
    """Whether it does on this machine: in a chroot and in most containers it does not."""
    return _SYSTEMD_RUNS.is_dir()


def _below(root: Path, path: PurePosixPath) -> Path:
    return root / path.relative_to("/")


def _write(root: Path, file: PlacedFile) -> None:
    target = _below(root, file.path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.private:
            target.parent.chmod(0o700)
        partial = target.with_name(f".{target.name}.new")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, file.mode)
        with os.fdopen(descriptor, "wb") as stream:
            # The umask may have taken something away.
            os.fchmod(stream.fileno(), file.mode)
            stream.write(file.data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error


def _give_away(root: Path, placed: Sequence[PlacedFile]) -> None:
    """Let the agent's user own what is private to it."""
    data = _below(root, DATA_FOLDER)
    data.mkdir(mode=0o750, parents=True, exist_ok=True)
    shutil.chown(data, USER, USER)
    for file in placed:
        if file.private:
            target = _below(root, file.path)
            shutil.chown(target.parent, USER, USER)
            shutil.chown(target, USER, USER)


def _delete(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise unwritable(path, error) from error
