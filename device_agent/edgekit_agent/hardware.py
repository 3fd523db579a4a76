"""What this device has, and which of a bundle's variants fits it; loads no inference engine."""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit_runtime.bundle.manifest import Manifest, Variant
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.installed import installed_version

# Runtime names as manifests use them, and the distribution that brings each.
RUNTIMES: Final = {
    "litert": "ai-edge-litert",
    "tflite-runtime": "tflite-runtime",
    "onnxruntime": "onnxruntime",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The facts that decide which variant runs here.

    Attributes:
        architecture: As `platform.machine()` says it.
        ram_bytes: All of it, used or not; 0 if unknown.
        runtimes: Installed inference engines and their versions.
        python: The interpreter's version.
    """

    architecture: str
    ram_bytes: int
    runtimes: dict[str, str]
    python: str

    def to_json(self) -> dict[str, object]:
        """The facts as the device reports them."""
        return {
            "architecture": self.architecture,
            "ram_bytes": self.ram_bytes,
            "runtimes": dict(self.runtimes),
            "python": self.python,
        }


def detect_hardware() -> Hardware:
    """Look at the machine; an engine is found by its metadata, not by importing it."""
    found = {name: installed_version(distribution) for name, distribution in RUNTIMES.items()}
    runtimes = {name: version for name, version in found.items() if version}
    return Hardware(
        architecture=platform.machine(),
        ram_bytes=_total_ram_bytes(),
        runtimes=runtimes,
        python=platform.python_version(),
    )


def why_unfit(variant: Variant, hardware: Hardware) -> str:
    """Why a variant cannot run on that hardware; empty if it can."""
    needs = variant.requires
    faults = []
    if needs.architectures and hardware.architecture not in needs.architectures:
        faults.append(f"is for {', '.join(needs.architectures)}, not {hardware.architecture}")
    if not any(name in hardware.runtimes for name in needs.runtimes):
        faults.append(f"needs {' or '.join(needs.runtimes)}, which is not installed")
    if hardware.ram_bytes and needs.ram_bytes > hardware.ram_bytes:
        faults.append(
            f"needs {needs.ram_bytes >> 20} MB of memory, and there are "
            f"{hardware.ram_bytes >> 20} MB"
        )
    return ", ".join(faults)


def choose_variant(
    manifest: Manifest, hardware: Hardware, *, failed: Collection[str] = ()
) -> Variant:
    """The first variant, in the manifest's order, that fits and has not failed here.

    Raises:
        UnsupportedModelError: If there is none; says why for each.
    """
    reasons = []
    for variant in manifest.variants:
        if variant.id in failed:
            continue
        reason = why_unfit(variant, hardware)
        if not reason:
            return variant
        reasons.append(f"{variant.id} {reason}")
    raise UnsupportedModelError(
        "no variant is left to try" if failed else "no variant fits this device",
        where="; ".join(reasons) or f"{manifest.name} {manifest.version}",
        fix="install one of the runtimes, or release a variant for this device",
    )


def choose_runtime(variant: Variant, hardware: Hardware) -> str:
    """The variant's best engine that is installed here.

    Raises:
        UnsupportedModelError: If none is.
    """
    for name in variant.requires.runtimes:
        if name in hardware.runtimes:
            return name
    raise UnsupportedModelError(f"variant {variant.id} {why_unfit(variant, hardware)}")


def _total_ram_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return 0
