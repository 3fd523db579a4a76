"""One executable file: a zip of all packages, with a Python program in front that installs it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Final

from edgekit.devices.targets import Target

_SHEBANG: Final = b"#!/usr/bin/env python3\n"
_PROGRAM: Final = Path(__file__).with_name("installer_program.py")
# The same content gives the same bytes.
_DATE: Final = (1980, 1, 1, 0, 0, 0)
SITE: Final = "site"


def launcher_text(python: str) -> str:
    """The command `edgekit-agent` of an installed package, wherever its folder is.

    Args:
        python: Major and minor of the Python that it was packed for.
    """
    return (
        "#!/bin/sh\n"
        'here=$(dirname "$(readlink -f "$0")")\n'
        'export PYTHONPATH="$here/../site" PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1\n'
        'export EDGEKIT_COMMAND="$here/edgekit-agent"\n'
        f'exec "${{EDGEKIT_PYTHON:-python{python}}}" -m edgekit_agent "$@"\n'
    )


def write_single_file(site: Path, output: Path, *, target: Target, version: str) -> None:
    """Pack a tree of packages.

    Args:
        site: The tree.
        output: The file to write.
        target: What it is for.
        version: Of edgekit.
    """
    about = {
        "version": version,
        "architecture": target.architecture,
        "python": target.python,
        "launcher": launcher_text(target.python),
    }
    partial = output.with_name(f".{output.name}.part")
    with partial.open("wb") as file:
        file.write(_SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            _add(archive, "__main__.py", _PROGRAM.read_bytes())
            _add(archive, "about.json", json.dumps(about, indent=1).encode())
            for path in sorted(site.rglob("*")):
                if path.is_file():
                    name = f"{SITE}/{path.relative_to(site).as_posix()}"
                    _add(archive, name, path.read_bytes())
    partial.chmod(0o755)
    partial.replace(output)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o100644 << 16
    archive.writestr(info, data)
