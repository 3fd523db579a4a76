"""Make an arm64 Debian in a folder, for trying on it what is built for devices: `make test-arm`.

Run as root: `python tools/arm_root.py [FOLDER]`. It needs debootstrap and qemu's user emulation
(on Debian: `apt install debootstrap qemu-user-static binfmt-support`), and takes some minutes the
first time; a folder that is complete is taken as it is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

RELEASE: Final = "bookworm"
_MIRROR: Final = "http://deb.debian.org/debian"
_BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
_EMULATOR: Final = "qemu-aarch64"
_COMPLETE: Final = ".complete"


def main() -> None:
    """Make the folder, or say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/arm64"))
    parser.add_argument("--check", action="store_true", help="say only whether it can be made")
    options = parser.parse_args()
    lacking = what_lacks()
    if lacking:
        print(f"an arm64 Debian cannot be made here: {lacking}")
        sys.exit(1)
    if not options.check:
        make_root(options.folder)
        print(options.folder)


def what_lacks() -> str:
    """Why this machine cannot make and enter an arm64 Debian; "" if it can."""
    if os.geteuid() != 0:
        return "it takes root"
    for program in ("debootstrap", "qemu-aarch64-static", "update-binfmts"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return "" if _emulates() else "the kernel does not hand arm64 programs to qemu (binfmt_misc)"


def make_root(folder: Path) -> None:
    """Make it, unless it is there."""
    if (folder / _COMPLETE).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = ["debootstrap", "--arch=arm64", "--variant=minbase", "--include=python3,systemd"]
    subprocess.run([*command, RELEASE, str(folder.absolute()), _MIRROR], check=True)
    shutil.rmtree(folder / "var/cache/apt/archives")
    (folder / _COMPLETE).touch()


def _emulates() -> bool:
    if not (_BINFMT / "status").exists():
        _try("mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT))
    if not (_BINFMT / _EMULATOR).exists():
        _try("update-binfmts", "--enable", _EMULATOR)
    return (_BINFMT / _EMULATOR).exists()


def _try(*command: str) -> None:
    subprocess.run(command, check=False)


if __name__ == "__main__":
    main()
