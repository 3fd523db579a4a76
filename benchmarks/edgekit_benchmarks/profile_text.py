"""Write a device profile as the TOML that `profile.parse_profile` reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.features import FEATURES
from edgekit_benchmarks.profile import FORMAT_VERSION
from edgekit_runtime.durable import write_bytes

if TYPE_CHECKING:
    from edgekit_benchmarks.profile import Profile

_LAST_DIGITS: Final = 3e-3
_HEAD: Final = """\
# Made by edgekit_benchmarks.fit from the files in edgekit_benchmarks/measurements: do not edit.
# Coefficients: nanoseconds for one multiply-accumulate, element or operator.
"""


def write_profiles(profiles: Mapping[str, Profile], folder: Path) -> None:
    """Write one file a board, replacing those that are there.

    Raises:
        EnvironmentLackError: If the folder cannot be written.
    """
    for name, profile in profiles.items():
        write_profile(profile, folder / f"{name}.toml")


def write_profile(profile: Profile, path: Path) -> None:
    """Write one profile.

    Raises:
        EnvironmentLackError: If the file cannot be written.
    """
    write_bytes(path, format_profile(profile).encode())


def differences(shipped: Mapping[str, Profile], made: Mapping[str, Profile]) -> list[str]:
    """Where profiles are not the same, but for the last digits of their figures.

    Those differ between linear algebra libraries.
    """
    found = [f"{name} is missing" for name in made.keys() - shipped.keys()]
    found += [f"{name} has no measurements" for name in shipped.keys() - made.keys()]
    for name in sorted(shipped.keys() & made.keys()):
        found += _differences(asdict(shipped[name]), asdict(made[name]), name)
    return found


def _differences(one: object, other: object, where: str) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            text
            for key in other
            for text in _differences(one.get(key), other[key], f"{where}.{key}")
        ]
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return [
            text
            for position, (left, right) in enumerate(zip(one, other, strict=True))
            for text in _differences(left, right, f"{where}[{position}]")
        ]
    if isinstance(one, float) and isinstance(other, float):
        same = math.isclose(one, other, rel_tol=_LAST_DIGITS)
    else:
        same = one == other
    return [] if same else [where]


def format_profile(profile: Profile) -> str:
    """A profile's TOML."""
    parts = [
        _HEAD
        + _table(
            {
                "format_version": FORMAT_VERSION,
                "name": profile.name,
                "family": profile.family,
                "title": profile.title,
            }
        ),
        "[hardware]\n" + _table(asdict(profile.hardware)),
    ]
    for calibration in profile.calibrations:
        fields = asdict(calibration)
        prices = dict(zip(FEATURES, fields.pop("coefficients_ns"), strict=True))
        parts.append(
            f"[[calibration]]\n{_table(fields)}\n[calibration.coefficients_ns]\n{_table(prices)}"
        )
    parts += [f"[[substitution]]\n{_table(asdict(s))}" for s in profile.substitutions]
    return "\n".join(parts)


def _table(fields: Mapping[str, object]) -> str:
    return "".join(f"{name} = {_value(value)}\n" for name, value in fields.items())


def _value(value: object) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    # A JSON string, number or boolean is a TOML one.
    return json.dumps(value, ensure_ascii=False)
