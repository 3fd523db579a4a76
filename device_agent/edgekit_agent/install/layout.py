"""What belongs where on a machine that the agent is installed on; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from edgekit_agent.config import AgentConfig
from edgekit_agent.provision import DIRECTOR_ROOT_NAME, IMAGE_ROOT_NAME
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import require_file

USER: Final = "edgekit"
SERVICE: Final = "edgekit-agent.service"
CONFIG_FOLDER: Final = PurePosixPath("/etc/edgekit")
DATA_FOLDER: Final = PurePosixPath("/var/lib/edgekit")
IDENTITY_FOLDER: Final = DATA_FOLDER / "identity"
UNIT_FILE: Final = PurePosixPath("/etc/systemd/system") / SERVICE
SYSUSERS_FILE: Final = PurePosixPath("/etc/sysusers.d/edgekit.conf")
# Where a package puts its own Python packages and its command.
SOFTWARE_FOLDER: Final = PurePosixPath("/opt/edgekit")
COMMAND_LINK: Final = PurePosixPath("/usr/local/bin/edgekit-agent")
SYSUSERS: Final = f'u {USER} - "edgekit agent" {DATA_FOLDER} /usr/sbin/nologin\n'
_FILE_LINE: Final = re.compile(
    r"^(?P<name>ca|certificate|key|key_file|password_file)[ \t]*=[ \t]*"
    r"""["'](?P<path>[^"']*)["'].*$""",
    re.MULTILINE,
)
_UNIT_TEMPLATE: Final = Path(__file__).with_name(SERVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFile:
    """One file to write.

    Attributes:
        path: On the installed machine.
        data: Its content.
        mode: Its permissions.
        private: Whether it belongs to the agent's user; else to root, readable by all.
    """

    path: PurePosixPath
    data: bytes
    mode: int
    private: bool = False


def unit_text(executable: str) -> str:
    """The systemd unit.

    Args:
        executable: Command line that stands before `run`.
    """
    return _UNIT_TEMPLATE.read_text(encoding="utf-8").replace("@EXECUTABLE@", executable)


def place_agent(
    config: AgentConfig, text: str, *, base: Path, executable: str
) -> tuple[PlacedFile, ...]:
    """The files of an installed agent, from an agent's folder.

    Args:
        config: What its `agent.toml` says.
        text: Of its `agent.toml`.
        base: The folder that its relative paths are relative to.
        executable: Command line that starts it.

    Raises:
        UsageError: If a file that it names is missing, or stands there in another way than in the
            one that `init` writes.
    """
    for path in (config.image_root, config.director_root, *_identity_targets(config)):
        require_file(path, kind="a file")
    placed = [
        PlacedFile(
            path=CONFIG_FOLDER / IMAGE_ROOT_NAME, data=config.image_root.read_bytes(), mode=0o644
        ),
        PlacedFile(
            path=CONFIG_FOLDER / DIRECTOR_ROOT_NAME,
            data=config.director_root.read_bytes(),
            mode=0o644,
        ),
    ]
    values = {
        "data": str(DATA_FOLDER),
        "image_root": str(CONFIG_FOLDER / IMAGE_ROOT_NAME),
        "director_root": str(CONFIG_FOLDER / DIRECTOR_ROOT_NAME),
    }
    targets = _identity_targets(config)
    placed += [
        PlacedFile(
            path=target,
            data=path.read_bytes(),
            mode=0o600 if path in _secrets(config) else 0o644,
            private=True,
        )
        for path, target in targets.items()
    ]
    if config.http_socket:
        values["socket"] = f"/run/edgekit/{config.http_socket.name}"
    placed += [
        PlacedFile(
            path=CONFIG_FOLDER / "agent.toml",
            data=move_paths(move_files(text, targets, base=base), values).encode(),
            # It holds no secrets, and in an image the agent's group does not exist yet.
            mode=0o644,
        ),
        PlacedFile(path=SYSUSERS_FILE, data=SYSUSERS.encode(), mode=0o644),
        PlacedFile(path=UNIT_FILE, data=unit_text(executable).encode(), mode=0o644),
    ]
    return tuple(placed)


def _identity_targets(config: AgentConfig) -> dict[Path, PurePosixPath]:
    """Where each certificate, key and password goes; two of one name are told apart."""
    found: list[Path | None] = []
    streams = config.streams
    for tls in (config.tls, config.mirror and config.mirror.tls, *(each.tls for each in streams)):
        if tls:
            found += [tls.ca, tls.certificate, tls.key]
    found += [each.password_file for each in streams]
    if config.encryption.key and config.encryption.key.kind == "file":
        found.append(Path(config.encryption.key.name))
    targets: dict[Path, PurePosixPath] = {}
    for path in found:
        if path is not None and path not in targets:
            target = IDENTITY_FOLDER / path.name
            if target in targets.values():
                target = IDENTITY_FOLDER / f"{len(targets)}-{path.name}"
            targets[path] = target
    return targets


def _secrets(config: AgentConfig) -> set[Path | None]:
    """Those of them that nobody else may read."""
    mirror = config.mirror.tls if config.mirror else None
    found = {tls.key for tls in (config.tls, mirror, *(each.tls for each in config.streams)) if tls}
    found |= {each.password_file for each in config.streams}
    if config.encryption.key:
        found.add(Path(config.encryption.key.name))
    return found


def move_files(text: str, targets: Mapping[Path, PurePosixPath], *, base: Path) -> str:
    """An `agent.toml` that names its certificates, keys and passwords where they go.

    Args:
        text: The configuration.
        targets: Where each file goes.
        base: The folder that relative paths in the text are relative to.

    Raises:
        UsageError: If one of them is not named on a line of its own.
    """
    moved: set[Path] = set()

    def move(line: re.Match[str]) -> str:
        path = base / line["path"]
        if path not in targets:
            return line[0]
        moved.add(path)
        return f'{line["name"]} = "{targets[path]}"'

    text = _FILE_LINE.sub(move, text)
    missing = [str(path) for path in targets if path not in moved]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} is not named on a line of its own in agent.toml",
            fix='write each as NAME = "PATH", or install by hand as docs/agent.md says',
        )
    return text


def move_paths(text: str, values: dict[str, str]) -> str:
    """An `agent.toml` with other paths, everything else as it was written.

    Args:
        text: The configuration.
        values: New value by name; each must stand on a line of its own.

    Raises:
        UsageError: If a name does not, or more than once: then a person has to move it.
    """
    for name, value in values.items():
        line = f'{name} = "{value}"'.replace("\\", r"\\")
        text, count = re.subn(rf"^{name}[ \t]*=.*$", line, text, flags=re.MULTILINE)
        if count == 0 and name == "data":
            text = f'data = "{value}"\n{text}'
        elif count != 1:
            raise UsageError(
                f"{name!r} stands {count} times in agent.toml, not once",
                where=name,
                fix="write it on one line, or install by hand as docs/agent.md says",
            )
    return text
