"""Which machines the agent can be packed for, and what wheels they take."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from edgekit_runtime.errors import UsageError

# pip does not expand a tag into the older ones that it includes: each has to be named.
_GLIBC: Final = ("2_34", "2_31", "2_28", "2_27", "2_26", "2_24", "2_17", "2_5")
_ALIASES: Final = ("manylinux2014", "manylinux2010", "manylinux1")
_DEBIAN: Final = {"aarch64": "arm64", "x86_64": "amd64"}
PYTHONS: Final = ("3.11", "3.12", "3.13")
ENGINES: Final = ("tflite", "onnx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A kind of machine.

    Attributes:
        architecture: As `platform.machine()` says it there.
        python: Its Python, major and minor.
    """

    architecture: str
    python: str

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platform tags of wheels that run there."""
        names = [f"manylinux_{glibc}" for glibc in _GLIBC] + list(_ALIASES)
        return tuple(f"{name}_{self.architecture}" for name in names)

    @property
    def abi(self) -> str:
        """The tag of its Python: "cp311"."""
        return f"cp{self.python.replace('.', '')}"

    @property
    def debian_architecture(self) -> str:
        """As Debian calls it."""
        return _DEBIAN[self.architecture]


def parse_target(architecture: str, python: str) -> Target:
    """Check that something can be packed for a machine.

    Raises:
        UsageError: If not; says what can be done there instead.
    """
    if re.fullmatch(r"arm(v[67]l?|hf|32)?", architecture):
        raise UsageError(
            "a file cannot be packed for 32-bit ARM: numpy, cffi and LiteRT have no such wheels",
            where=f"--arch {architecture}",
            fix="on 32-bit Raspberry Pi OS Bookworm, pip gets numpy and cffi from piwheels: "
            'pip install "edgekit[agent,tflite-runtime]"; or use the 64-bit system',
        )
    if architecture not in _DEBIAN:
        raise UsageError(
            f"{architecture!r} is not a known architecture",
            where="--arch",
            fix=f"choose from {', '.join(sorted(_DEBIAN))}",
        )
    if python not in PYTHONS:
        raise UsageError(
            f"Python {python} is not supported",
            where="--python",
            fix=f"choose from {', '.join(PYTHONS)}: Bookworm has 3.11, Trixie 3.13",
        )
    return Target(architecture=architecture, python=python)
