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
_ARCHITECTURES: Final = ", ".join(f"{name} ({also})" for name, also in sorted(_DEBIAN.items()))
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
    architecture = next(
        (ours for ours, also in _DEBIAN.items() if also == architecture), architecture
    )
    if re.fullmatch(r"arm(v[5-8].*|hf|el|32)?", architecture):
        raise _not_packed(architecture, python)
    if architecture not in _DEBIAN:
        raise UsageError(
            f"{architecture!r} is not supported: no inference engine has wheels for it",
            where="--arch",
            fix=f"choose from {_ARCHITECTURES}; 32-bit ARM (armv7l) is installed with pip, "
            "see docs/agent.md",
        )
    if python not in PYTHONS:
        raise UsageError(
            f"Python {python} is not supported",
            where="--python",
            fix=f"choose from {', '.join(PYTHONS)}: Bookworm has 3.11, Trixie 3.13",
        )
    return Target(architecture=architecture, python=python)


def _not_packed(architecture: str, python: str) -> UsageError:
    """Why nothing is packed for 32-bit ARM, and what to do there instead."""
    where = f"--arch {architecture} --python {python}"
    larger = "use the 64-bit system (--arch aarch64), which every Raspberry Pi since the 3 runs"
    if re.match(r"arm(v[56]|el)", architecture):
        return UsageError(
            f"{architecture} is not supported: no inference engine has wheels for it",
            where=where,
            fix="use a board with ARMv7 or newer; of these, " + larger,
        )
    if python != "3.11":
        return UsageError(
            f"32-bit ARM with Python {python} is not supported: the only engine with such wheels, "
            "tflite-runtime 2.14, ends with Python 3.11",
            where=where,
            fix=f"{larger}, or 32-bit Raspberry Pi OS Bookworm, which has Python 3.11",
        )
    return UsageError(
        "no file is packed for 32-bit ARM: numpy and cffi have no such wheels on PyPI",
        where=where,
        fix="on 32-bit Raspberry Pi OS Bookworm pip gets both from piwheels: "
        'pip install "edgekit[agent,tflite-runtime]"; or ' + larger,
    )
