"""Device profiles: a board's facts and calibrated costs, read from the TOML files in `profiles`."""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.features import FEATURES, Counting
from edgekit_runtime.errors import UsageError
from edgekit_runtime.fields import FieldReader

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

FORMAT_VERSION: Final = 2
NAME_PATTERN: Final = r"[a-z0-9]+(?:-[a-z0-9]+)*"
DTYPES: Final = ("float32", "float16", "int8")
_DTYPE_PATTERN: Final = "|".join(DTYPES)
_DATE_PATTERN: Final = r"\d{4}(?:-\d{2}-\d{2})?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a board is.

    Attributes:
        soc: The chip.
        core: The processor core.
        cores: How many of them.
        clock_ghz: Their highest clock as delivered.
        ram_mb: The sizes that the board is sold with, ascending; below 1 on microcontrollers.
        sources: Pages that say so.
    """

    soc: str
    core: str
    cores: int
    clock_ghz: float
    ram_mb: tuple[float, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What each feature of a model costs on a board, with one runtime, dtype and thread count.

    Attributes:
        runtime: The engine that the measurements were made with.
        runtime_version: Its version, as its maker names it.
        dtype: What it computed in.
        threads: How many it used.
        counting: How the models' layers were counted.
        coefficients_ns: Nanoseconds for one unit of each of `FEATURES`.
        measurements: How many were fitted.
        families: How many families of models they belong to.
        measured: The year of the measurements.
        method: How the coefficients came about, for people.
        lofo_mape: Mean absolute relative error on a family that was left out.
        lofo_median: The median of those errors.
        lofo_p90: What nine in ten of them stay below.
        coverage: The share of left-out latencies within the band.
        band: Nine in ten left-out latencies lie between the prediction divided by this factor
            and the prediction times it.
        anchored_bands: The bands that remain when one, two, three models were measured on the
            very device and the prediction is corrected by them; empty if that is not known.
        least_macs: Of the smallest fitted model.
        most_macs: Of the largest fitted model.
        operator_cap_ns: The most that an operator can cost on average: the lowest latency for each
            operator among the fitted models, as if they computed nothing.
        serves: Other runtimes that share this one's kernels.
        serves_quicker: By what factor those may be quicker than this version, at most.
        weak: Why these measurements say little; empty if they do not.
        anchored: Whether they were made on the user's own device.
        taken_from: The board that they were made on, where nothing was measured on this one; empty
            otherwise.
        note: What else a reader must know.
        sources: Where the measurements were published.
    """

    runtime: str
    runtime_version: str
    dtype: str
    threads: int
    counting: Counting
    coefficients_ns: tuple[float, ...]
    measurements: int
    families: int
    measured: str
    method: str
    lofo_mape: float
    lofo_median: float
    lofo_p90: float
    coverage: float
    band: float
    anchored_bands: tuple[float, ...]
    least_macs: float
    most_macs: float
    operator_cap_ns: float
    serves: tuple[str, ...]
    serves_quicker: float
    weak: str
    anchored: bool
    taken_from: str
    note: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Substitution:
    """What it cost, where that was measured, to run with one setting instead of another.

    Attributes:
        setting: "runtime", "threads", "dtype" or "board".
        source: The value that a calibration has.
        target: The value that is wanted.
        within: What it was measured for: a dtype, or for another dtype the runtime, or for another
            board what they have in common.
        factor: The median of target latency over source prediction.
        low: Its 5th percentile.
        high: Its 95th percentile.
        measurements: How many it comes from.
        boards: On which boards.
    """

    setting: str
    source: str
    target: str
    within: str
    factor: float
    low: float
    high: float
    measurements: int
    boards: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One board.

    Attributes:
        name: What a user types.
        family: The name that stands for this board and its relatives.
        title: The board's own name.
        hardware: Its facts.
        calibrations: Its costs.
        substitutions: For settings that were not measured on it.
    """

    name: str
    family: str
    title: str
    hardware: Hardware
    calibrations: tuple[Calibration, ...]
    substitutions: tuple[Substitution, ...]

    @property
    def taken_from(self) -> str:
        """The board that all its prices are from, where nothing was measured on it, or nothing."""
        origins = {calibration.taken_from for calibration in self.calibrations}
        return origins.pop() if len(origins) == 1 else ""


def private_folder() -> Path:
    """Where profiles of the user's own devices are kept.

    The folder named by the environment variable EDGEKIT_PROFILES, or the place that the operating
    system has for a program's data.
    """
    if chosen := os.environ.get("EDGEKIT_PROFILES"):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("APPDATA") or str(Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Application Support")
    else:
        base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "edgekit" / "profiles"


def list_private_profiles() -> tuple[Profile, ...]:
    """Those of the user's own devices, in the order of their names."""
    folder = private_folder()
    if not folder.is_dir():
        return ()
    files = sorted(folder.glob("*.toml"))
    return tuple(read_profile(file) for file in files)


def read_profile(path: Path) -> Profile:
    """Read a profile's file.

    Raises:
        UsageError: If it cannot be read, or is no valid profile.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the profile cannot be read: {error}", where=str(path)) from error
    return parse_profile(text, where=str(path))


def list_profiles() -> tuple[Profile, ...]:
    """Every shipped profile, families together, in the order of their names."""
    return tuple(sorted(_shipped().values(), key=lambda profile: (profile.family, profile.name)))


def load_profiles(name: str) -> tuple[Profile, ...]:
    """The profile of that name, or one for each board of the family of that name.

    A name with a folder or with the ending `.toml` is a file of the user's.

    Raises:
        UsageError: If there is none; suggests the names that come nearest.
    """
    if name.endswith(".toml") or "/" in name or os.sep in name:
        return (read_profile(Path(name)),)
    shipped = list_profiles()
    found = tuple(
        profile
        for profile in shipped
        # A family is its measured boards; one that is only estimated must be asked for.
        if name == profile.name or (name == profile.family and not profile.taken_from)
    )
    if found:
        return found
    private = list_private_profiles()
    found = tuple(profile for profile in private if profile.name == name)
    if found:
        return found
    names = sorted(
        {n for profile in shipped for n in (profile.name, profile.family)}
        | {profile.name for profile in private}
    )
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    raise UsageError(
        f"there is no device profile {name!r}",
        where="--profile",
        fix=f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}",
    )


def parse_profile(text: str, *, where: str) -> Profile:
    """Read a profile's TOML.

    Raises:
        UsageError: Naming every field that is missing or wrong.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"this is no TOML: {error}", where=where) from error
    reader = FieldReader(document)
    reader.integer("format_version", least=FORMAT_VERSION, most=FORMAT_VERSION)
    profile = Profile(
        name=reader.text("name", pattern=NAME_PATTERN),
        family=reader.text("family", pattern=NAME_PATTERN),
        title=reader.text("title"),
        hardware=_read_hardware(reader.nested("hardware")),
        calibrations=reader.items("calibration", _read_calibration, optional=True),
        substitutions=reader.items("substitution", _read_substitution, optional=True),
    )
    if reader.faults:
        raise UsageError(f"this is no valid profile: {'; '.join(reader.faults)}", where=where)
    return profile


@cache
def _shipped() -> dict[str, Profile]:
    profiles = (
        parse_profile(file.read_text(encoding="utf-8"), where=file.name) for file in profile_files()
    )
    return {profile.name: profile for profile in profiles}


def profile_files() -> list[Traversable]:
    """The shipped TOML files, one a board."""
    folder = resources.files("edgekit_benchmarks") / "profiles"
    return sorted(
        (file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda f: f.name
    )


def shipped_folder() -> Path:
    """Where the shipped files lie, for the tool that makes them anew."""
    return Path(str(resources.files("edgekit_benchmarks") / "profiles"))


def _read_hardware(reader: FieldReader) -> Hardware:
    return Hardware(
        soc=reader.text("soc"),
        core=reader.text("core"),
        cores=reader.integer("cores", least=1, most=1024),
        clock_ghz=reader.number("clock_ghz", least=0.001),
        ram_mb=_numbers(reader, "ram_mb"),
        sources=reader.texts("sources"),
    )


def _read_calibration(reader: FieldReader) -> Calibration:
    costs = reader.nested("coefficients_ns")
    return Calibration(
        runtime=reader.text("runtime"),
        runtime_version=reader.text("runtime_version"),
        dtype=reader.text("dtype", pattern=_DTYPE_PATTERN),
        threads=reader.integer("threads", least=1, most=1024),
        counting=_read_counting(reader),
        coefficients_ns=tuple(costs.number(name, least=0.0) for name in FEATURES),
        measurements=reader.integer("measurements", least=1),
        families=reader.integer("families", least=1),
        measured=reader.text("measured", pattern=_DATE_PATTERN),
        method=reader.text("method"),
        lofo_mape=reader.number("lofo_mape", least=0.0),
        lofo_median=reader.number("lofo_median", least=0.0),
        lofo_p90=reader.number("lofo_p90", least=0.0),
        coverage=reader.number("coverage", least=0.0),
        band=reader.number("band", least=1.0),
        anchored_bands=_numbers(reader, "anchored_bands"),
        least_macs=reader.number("least_macs", least=0.0),
        most_macs=reader.number("most_macs", least=0.0),
        operator_cap_ns=reader.number("operator_cap_ns", least=0.0),
        serves=reader.texts("serves"),
        serves_quicker=reader.number("serves_quicker", least=1.0),
        weak=reader.text("weak"),
        anchored=reader.boolean("anchored"),
        taken_from=reader.text("taken_from", default=""),
        note=reader.text("note"),
        sources=reader.texts("sources"),
    )


def _read_substitution(reader: FieldReader) -> Substitution:
    return Substitution(
        setting=reader.text("setting", pattern="runtime|threads|dtype|board"),
        source=reader.text("source"),
        target=reader.text("target"),
        within=reader.text("within"),
        factor=reader.number("factor", least=0.0),
        low=reader.number("low", least=0.0),
        high=reader.number("high", least=0.0),
        measurements=reader.integer("measurements", least=1),
        boards=reader.texts("boards"),
    )


def _read_counting(reader: FieldReader) -> Counting:
    text = reader.text("counting", pattern="|".join(Counting))
    # A fault has been noted; reading goes on with any value.
    return Counting(text) if text in set(Counting) else Counting.DIRECT


def _numbers(reader: FieldReader, field: str) -> tuple[float, ...]:
    values = reader.sequence(field)
    numbers = tuple(v for v in values if isinstance(v, int | float) and not isinstance(v, bool))
    if len(numbers) != len(values) or not all(number > 0 for number in numbers):
        reader.fault(field, "must be a list of numbers above 0")
    return numbers
