"""A Debian package of the agent, written without Debian's tools: an ar archive of two tars.

See deb(5) and https://www.debian.org/doc/debian-policy/.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgekit.devices.single_file import launcher_text
from edgekit.devices.targets import Target

_OPT: Final = "opt/edgekit"
_UNIT: Final = "usr/lib/systemd/system/edgekit-agent.service"
_SYSUSERS: Final = "usr/lib/sysusers.d/edgekit.conf"
_COMMAND: Final = "usr/bin/edgekit-agent"
_SYSUSERS_TEXT: Final = 'u edgekit - "edgekit agent" /var/lib/edgekit /usr/sbin/nologin\n'
_AR_MAGIC: Final = b"!<arch>\n"
_AR_EVEN: Final = 2

_POSTINST: Final = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
  # Now, because the agent's user may not write there: else every start would compile all.
  python3 -m compileall -q -o 0 -o 2 /opt/edgekit/site || true
  if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers edgekit.conf
  elif ! getent passwd edgekit >/dev/null; then
    useradd --system --home-dir /var/lib/edgekit --shell /usr/sbin/nologin edgekit
  fi
  mkdir -p /etc/edgekit
  if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # Without a configuration there is nothing to run: `edgekit-agent install` brings it.
    if [ -e /etc/edgekit/agent.toml ]; then
      systemctl enable edgekit-agent.service
      systemctl restart edgekit-agent.service
    fi
  fi
fi
"""
_PRERM: Final = """\
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl disable --now edgekit-agent.service || true
fi
find /opt/edgekit -name __pycache__ -type d -prune -exec rm -rf {} + || true
"""
_POSTRM: Final = """\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
fi
if [ "$1" = purge ]; then
  rm -rf /etc/edgekit /var/lib/edgekit
  if getent passwd edgekit >/dev/null; then
    userdel edgekit || true
  fi
fi
"""


def write_debian_package(
    site: Path, output: Path, *, target: Target, version: str, unit: str
) -> None:
    """Pack a tree of packages as a `.deb`.

    Args:
        site: The tree.
        output: The file to write.
        target: What it is for.
        version: Of edgekit.
        unit: Text of the systemd unit.
    """
    files = {
        f"{_OPT}/bin/edgekit-agent": (launcher_text(target.python).encode(), 0o755),
        _UNIT: (unit.encode(), 0o644),
        _SYSUSERS: (_SYSUSERS_TEXT.encode(), 0o644),
    }
    data = io.BytesIO()
    size = 0
    with tarfile.open(fileobj=data, mode="w:gz", format=tarfile.GNU_FORMAT, compresslevel=6) as tar:
        places = [(f"{_OPT}/site/{p.relative_to(site).as_posix()}", p) for p in _files(site)]
        folders = {
            parent.as_posix()
            for name in [*files, *(name for name, _ in places), _COMMAND]
            for parent in Path(name).parents
            if parent.as_posix() != "."
        }
        for folder in sorted(folders):
            tar.addfile(_info(folder, kind=tarfile.DIRTYPE, mode=0o755))
        for name, (content, mode) in files.items():
            size += len(content)
            tar.addfile(_info(name, mode=mode, size=len(content)), io.BytesIO(content))
        for name, path in places:
            content = path.read_bytes()
            size += len(content)
            tar.addfile(_info(name, mode=0o644, size=len(content)), io.BytesIO(content))
        link = _info(_COMMAND, kind=tarfile.SYMTYPE, mode=0o777)
        link.linkname = f"/{_OPT}/bin/edgekit-agent"
        tar.addfile(link)
    control = _control_tar(
        {
            "control": (_control_text(target, version, size), 0o644),
            "postinst": (_POSTINST, 0o755),
            "prerm": (_PRERM, 0o755),
            "postrm": (_POSTRM, 0o755),
        }
    )
    partial = output.with_name(f".{output.name}.part")
    with partial.open("wb") as file:
        file.write(_AR_MAGIC)
        for name, member in (
            ("debian-binary", b"2.0\n"),
            ("control.tar.gz", control),
            ("data.tar.gz", data.getvalue()),
        ):
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(member):<10}`\n".encode())
            file.write(member + b"\n" * (len(member) % _AR_EVEN))
    partial.replace(output)


def _control_text(target: Target, version: str, size: int) -> str:
    major, minor = target.python.split(".")
    return (
        "Package: edgekit-agent\n"
        f"Version: {version}\n"
        f"Architecture: {target.debian_architecture}\n"
        "Maintainer: The edgekit maintainers <maintainers@edgekit.example>\n"
        f"Installed-Size: {size // 1024}\n"
        f"Depends: python3 (>= {target.python}), python3 (<< {major}.{int(minor) + 1})\n"
        "Section: misc\n"
        "Priority: optional\n"
        "Description: Run models on this device, and keep them up to date safely\n"
        " Verifies signed bundles, proves them on the device before they serve, watches them and\n"
        " rolls them back; serves applications over HTTP, MQTT, files and Python.\n"
    )


def _control_tar(files: dict[str, tuple[str, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, (text, mode) in files.items():
            content = text.encode()
            tar.addfile(_info(name, mode=mode, size=len(content)), io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def _info(name: str, *, mode: int, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(f"./{name}")
    info.mode, info.type, info.size = mode, kind, size
    info.uname = info.gname = "root"
    return info


def _files(site: Path) -> Iterator[Path]:
    return (path for path in sorted(site.rglob("*")) if path.is_file())
