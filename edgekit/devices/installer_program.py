"""The program in a single-file package: puts the agent onto this machine; needs only Python.

    sudo python3 edgekit-agent.pyz install --agent FOLDER     a service that starts at boot
    python3 edgekit-agent.pyz extract FOLDER                  only the software, anywhere

It runs on the device and may use nothing but the standard library.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

OPT = Path("opt/edgekit")
LINK = Path("usr/local/bin/edgekit-agent")


def main() -> int:
    """Do what the command line says; the exit code."""
    parser = argparse.ArgumentParser(description="Install the edgekit agent on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    install = commands.add_parser("install", help="install the agent as a service")
    install.add_argument("--agent", type=Path, required=True, help="what init or enrol made")
    install.add_argument("--root", type=Path, default=Path("/"), help="of the machine's files")
    extract = commands.add_parser("extract", help="unpack the software into a folder")
    extract.add_argument("folder", type=Path)
    options = parser.parse_args()
    package = Path(sys.argv[0]).resolve()
    with zipfile.ZipFile(package) as archive:
        about = json.loads(archive.read("about.json"))
        fault = misfit(about)
        if fault and os.environ.get("EDGEKIT_ANY_MACHINE") != "1":
            sys.stderr.write(f"edgekit-agent: {fault}\n")
            return 4
        if options.command == "extract":
            unpack(archive, about, options.folder)
            sys.stdout.write(f"{options.folder}/bin/edgekit-agent\n")
            return 0
        folder = options.root / OPT
        unpack(archive, about, folder)
    link = options.root / LINK
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() or link.exists():
        link.unlink()
    link.symlink_to(Path("/") / OPT / "bin" / "edgekit-agent")
    command = [str(folder / "bin" / "edgekit-agent"), "install", "--agent", str(options.agent)]
    command += [
        "--root",
        str(options.root),
        "--executable",
        str(Path("/") / OPT / "bin/edgekit-agent"),
    ]
    return subprocess.run(command, check=False).returncode


def misfit(about: dict[str, Any]) -> str:
    """Why the package is not for this machine; empty if it is."""
    here = "{}.{}".format(*sys.version_info[:2])
    if here != about["python"]:
        return f"this package is for Python {about['python']}, and this is {here}"
    if platform.machine() != about["architecture"]:
        return f"this package is for {about['architecture']}, and this is {platform.machine()}"
    return ""


def unpack(archive: zipfile.ZipFile, about: dict[str, Any], folder: Path) -> None:
    """Put the software into a folder, at once: an older one is replaced when all is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        members = [name for name in archive.namelist() if name.startswith("site/")]
        archive.extractall(fresh, members)
        launcher = fresh / "bin" / "edgekit-agent"
        launcher.parent.mkdir()
        launcher.write_text(about["launcher"], encoding="utf-8")
        launcher.chmod(0o755)
        fresh.chmod(0o755)
        # Now, because the agent's user may not write here: else every start would compile all,
        # in both forms that its processes run in.
        for level in (0, 2):
            compileall.compile_dir(
                fresh / "site", quiet=2, optimize=level, stripdir=str(fresh), prependdir=str(folder)
            )
        old = fresh.with_name(fresh.name + ".old")
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
