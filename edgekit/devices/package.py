"""Pack the agent with all that it needs for a kind of machine."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from edgekit.devices.debian import write_debian_package
from edgekit.devices.single_file import write_single_file
from edgekit.devices.targets import ENGINES, Target
from edgekit.devices.wheels import (
    copy_own_packages,
    download_wheels,
    requirements_of,
    unpack_wheels,
)
from edgekit_runtime.durable import unwritable
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.files import sha256_of

_UNIT: Final = Path("install") / "edgekit-agent.service"
_CONFIG: Final = "agent.toml"

Fetch = Callable[[tuple[str, ...], Target, Path], list[Path]]


class PackageForm(StrEnum):
    """What kind of file is made."""

    SINGLE_FILE = "pyz"
    DEBIAN = "deb"


@dataclass(frozen=True, slots=True, kw_only=True)
class MadePackage:
    """A package that was made.

    Attributes:
        path: Of the file.
        size_bytes: Its length.
        sha256: Of its content.
        packages: The wheels in it.
        agent: The copied agent's folder beside it; None for none.
    """

    path: Path
    size_bytes: int
    sha256: str
    packages: tuple[str, ...]
    agent: Path | None


def make_package(
    target: Target,
    output: Path,
    *,
    form: PackageForm = PackageForm.SINGLE_FILE,
    engines: tuple[str, ...] = ("tflite",),
    pictures: bool = False,
    agent: Path | None = None,
    fetch: Fetch = download_wheels,
    progress: Callable[[str], None] = lambda _: None,
) -> MadePackage:
    """Make a file that installs the agent without the internet.

    Args:
        target: What it is for.
        output: The folder that it goes into.
        form: What kind of file.
        engines: Extras of edgekit: "tflite", "onnx".
        pictures: Whether to bring Pillow, so that pictures are requests.
        agent: A folder that `edgekit-agent init` made, to be put beside it; None for none.
        fetch: Gets wheels for requirements, for a target, into a folder.
        progress: Told one plain sentence a step.

    Raises:
        UsageError: If an engine is unknown, or the folder holds no agent.
        EnvironmentLackError: If the wheels cannot be had, or the place cannot be written.
    """
    unknown = sorted(set(engines) - set(ENGINES))
    if unknown or not engines:
        raise UsageError(
            f"unknown engine {', '.join(unknown) or '(none)'}",
            where="--engine",
            fix=f"choose from {', '.join(ENGINES)}",
        )
    if agent is not None and not (agent / _CONFIG).is_file():
        raise UsageError(f"there is no {_CONFIG}", where=str(agent), fix="make it with `init`")
    extras = ("agent", *engines, *(["images"] if pictures else []))
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgekit-package-") as name:
            folder = Path(name)
            return _make(target, output, folder, form, extras, agent, fetch, progress)
    except OSError as error:
        raise unwritable(output, error) from error


def _make(
    target: Target,
    output: Path,
    folder: Path,
    form: PackageForm,
    extras: tuple[str, ...],
    agent: Path | None,
    fetch: Fetch,
    progress: Callable[[str], None],
) -> MadePackage:
    progress(f"fetching wheels for {target.architecture}, Python {target.python}")
    wheels_folder, site = folder / "wheels", folder / "site"
    wheels_folder.mkdir()
    site.mkdir()
    wheels = fetch(requirements_of(*extras), target, wheels_folder)
    progress(f"packing {len(wheels)} wheels and the agent")
    unpack_wheels(wheels, site)
    version = copy_own_packages(site)
    if form is PackageForm.DEBIAN:
        path = output / f"edgekit-agent_{version}_{target.debian_architecture}.deb"
        write_debian_package(site, path, target=target, version=version, unit=_unit_text())
    else:
        path = output / f"edgekit-agent-{version}-{target.architecture}-{target.abi}.pyz"
        write_single_file(site, path, target=target, version=version)
    beside = None
    if agent is not None:
        beside = output / "agent"
        shutil.copytree(
            agent, beside, dirs_exist_ok=True, ignore=shutil.ignore_patterns("data", ".*")
        )
    return MadePackage(
        path=path,
        size_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        packages=tuple(wheel.name for wheel in wheels),
        agent=beside,
    )


def _unit_text() -> str:
    found = importlib.util.find_spec("edgekit_agent")
    if found is None or not found.submodule_search_locations:
        raise EnvironmentLackError("the package edgekit_agent is not here", fix="install edgekit")
    template = Path(found.submodule_search_locations[0]) / _UNIT
    return template.read_text(encoding="utf-8").replace("@EXECUTABLE@", "/usr/bin/edgekit-agent")
