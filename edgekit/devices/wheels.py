"""The packages that an agent needs on another machine, as one tree of files."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Final

from edgekit.devices.targets import Target
from edgekit_runtime.errors import EnvironmentLackError, VerificationError

# The import packages of ours that run on a device.
_OURS: Final = ("edgekit_agent", "edgekit_runtime")
_DOWNLOAD_SECONDS: Final = 900
_MAX_UNPACKED_BYTES: Final = 1 << 30
_SKIPPED_FOLDERS: Final = frozenset({"__pycache__", "tests", "test"})
_EXTRA: Final = re.compile(r"""^(?P<need>[^;]+);\s*extra\s*==\s*['"](?P<extra>[\w-]+)['"]\s*$""")


def requirements_of(*extras: str) -> tuple[str, ...]:
    """What the agent with some extras requires, without its own extras' names.

    Raises:
        EnvironmentLackError: If edgekit itself is not installed, but run from a copy.
    """
    try:
        lines = metadata.requires("edgekit") or []
    except metadata.PackageNotFoundError as error:
        raise EnvironmentLackError(
            "edgekit's own requirements are not known", fix="install edgekit with pip"
        ) from error
    wanted = [line for line in lines if ";" not in line]
    found = [match for line in lines if (match := _EXTRA.match(line)) and match["extra"] in extras]
    wanted += [match["need"].strip() for match in found]
    unknown = sorted(set(extras) - {match["extra"] for match in found})
    if unknown:
        raise EnvironmentLackError(
            f"the installed edgekit does not know what {', '.join(unknown)} needs",
            fix="install this version of edgekit again with pip",
        )
    return tuple(dict.fromkeys(wanted))


def download_wheels(requirements: tuple[str, ...], target: Target, folder: Path) -> list[Path]:
    """Fetch wheels for another machine with pip.

    Raises:
        EnvironmentLackError: If pip cannot get one of them; its words are in the error.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    command += ["--python-version", target.python, "--implementation", "cp"]
    for abi in (target.abi, "abi3", "none"):
        command += ["--abi", abi]
    for platform in target.platforms:
        command += ["--platform", platform]
    try:
        done = subprocess.run(
            [*command, *requirements],
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentLackError("pip took too long to fetch the wheels") from error
    if done.returncode:
        raise EnvironmentLackError(
            f"pip cannot get the wheels: {done.stderr.strip()[-600:]}",
            where=f"{target.architecture}, Python {target.python}",
            fix="check the connection to the package index; not every engine is there for each "
            "Python",
        )
    return sorted(folder.glob("*.whl"))


def unpack_wheels(wheels: list[Path], site: Path) -> None:
    """Unpack wheels into one folder of packages, without their tests.

    Raises:
        VerificationError: If a wheel names a place outside, or is far too large.
    """
    total = 0
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                path = PurePosixPath(member.filename)
                if path.is_absolute() or ".." in path.parts:
                    raise VerificationError("a wheel names a place outside", where=wheel.name)
                total += member.file_size
                if total > _MAX_UNPACKED_BYTES:
                    raise VerificationError("the wheels unpack to more than 1 GiB")
                if member.is_dir() or _SKIPPED_FOLDERS & set(path.parts[:-1]):
                    continue
                # What pip would move to other places: scripts are of no use here, the rest is.
                parts = path.parts
                if parts[0].endswith(".data"):
                    if parts[1] not in ("purelib", "platlib"):
                        continue
                    parts = parts[2:]
                target = site.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(member))


def copy_own_packages(site: Path) -> str:
    """Copy the agent and its runtime, and enough metadata for their version; the version."""
    for name in _OURS:
        found = importlib.util.find_spec(name)
        if found is None or not found.submodule_search_locations:
            raise EnvironmentLackError(f"the package {name} is not here", fix="install edgekit")
        shutil.copytree(
            found.submodule_search_locations[0],
            site / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    version = metadata.version("edgekit")
    info = site / f"edgekit-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: edgekit\nVersion: {version}\n", encoding="utf-8"
    )
    return version
