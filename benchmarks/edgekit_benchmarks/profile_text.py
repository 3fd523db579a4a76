"""Write a device profile as the TOML that `profile.parse_profile` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.features import FEATURES
from edgekit_benchmarks.profile import FORMAT_VERSION
from edgekit_runtime.durable import write_bytes

if TYPE_CHECKING:
    from edgekit_benchmarks.profile import Profile

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
        write_bytes(folder / f"{name}.toml", format_profile(profile).encode())


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
