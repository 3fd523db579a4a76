"""What belongs where on a machine that the agent is installed on; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from edgekit_agent.config import AgentConfig
from edgekit_agent.provision import DIRECTOR_ROOT_NAME, IMAGE_ROOT_NAME
from edgekit_runtime.errors import UsageError

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


def place_agent(config: AgentConfig, text: str, *, executable: str) -> tuple[PlacedFile, ...]:
    """The files of an installed agent, from an agent's folder.

    Args:
        config: What its `agent.toml` says.
        text: Of its `agent.toml`.
        executable: Command line that starts it.
    """
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
    if config.tls:
        for name, path in (
            ("ca", config.tls.ca),
            ("certificate", config.tls.certificate),
            ("key", config.tls.key),
        ):
            if path is not None:
                target = IDENTITY_FOLDER / path.name
                values[name] = str(target)
                placed.append(
                    PlacedFile(
                        path=target,
                        data=path.read_bytes(),
                        mode=0o600 if name == "key" else 0o644,
                        private=True,
                    )
                )
    key = config.encryption.key
    if key and key.kind == "file":
        target = IDENTITY_FOLDER / Path(key.name).name
        values["key_file"] = str(target)
        placed.append(
            PlacedFile(path=target, data=Path(key.name).read_bytes(), mode=0o600, private=True)
        )
    if config.http_socket:
        values["socket"] = f"/run/edgekit/{config.http_socket.name}"
    placed += [
        PlacedFile(
            path=CONFIG_FOLDER / "agent.toml",
            data=move_paths(text, values).encode(),
            # It holds no secrets, and in an image the agent's group does not exist yet.
            mode=0o644,
        ),
        PlacedFile(path=SYSUSERS_FILE, data=SYSUSERS.encode(), mode=0o644),
        PlacedFile(path=UNIT_FILE, data=unit_text(executable).encode(), mode=0o644),
    ]
    return tuple(placed)


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
