"""What simulated devices do: rates of failure, and how long things take. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from edgekit_runtime.errors import UsageError

# What boards people have, and their share: architecture, RAM in bytes, runtime.
_BOARDS: Final = (
    (0.5, "aarch64", 4 << 30, "onnxruntime"),
    (0.8, "aarch64", 1 << 30, "litert"),
    (0.95, "x86_64", 8 << 30, "onnxruntime"),
    (1.0, "armv7l", 512 << 20, "tflite-runtime"),
)
_SITES: Final = ("berlin", "lyon", "oslo", "porto")


class Lot(StrEnum):
    """What will happen to a version on a device."""

    WORKS = "works"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    DEGRADES = "degrades"
    VANISHES = "vanishes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a crowd of devices behaves; shares are of the devices, from 0 to 1.

    Attributes:
        seed: Another one gives other devices the same lots.
        reject: The version fails its golden samples.
        roll_back: It fails its gates in live use, and is rolled back by the device.
        degrade: It passes the gates, and answers wrong afterwards, as telemetry shows.
        vanish: The device goes away when it is told to update, and stays away.
        only_version: The version that these befall; empty for every one but the first.
        fetch_seconds: From an order to all chunks, on average.
        prove_seconds: For the golden samples.
        requests_per_second: Of each device.
        error_share: Of requests, with a version that works.
        degraded_error_share: Of requests, with one that degrades.
        latency_ms: Median.
        telemetry_seconds: Between two batches of measurements; 0 for none.
        disagree: Share of inputs on which a version beside the one that serves says something
            else.
        gap: How far apart both answers usually lie, as a share of what was served.
        samples: Share of the devices whose owners let samples leave them.
        answer_seconds: From a request to its answer, on average.
    """

    seed: int = 0
    reject: float = 0.0
    roll_back: float = 0.0
    degrade: float = 0.0
    vanish: float = 0.0
    only_version: str = ""
    fetch_seconds: float = 2.0
    prove_seconds: float = 1.0
    requests_per_second: float = 2.0
    error_share: float = 0.0
    degraded_error_share: float = 0.2
    latency_ms: float = 12.0
    telemetry_seconds: float = 10.0
    disagree: float = 0.02
    gap: float = 0.01
    samples: float = 0.5
    answer_seconds: float = 2.0

    def __post_init__(self) -> None:
        shares = (self.reject, self.roll_back, self.degrade, self.vanish)
        if not all(share >= 0 for share in shares) or sum(shares) > 1:
            raise UsageError(
                "the shares of devices that fail must be from 0 to 1, all together at most 1"
            )

    def lot_of(self, device: str, version: str, *, first: bool) -> Lot:
        """What will happen to a version on a device: always the same.

        Args:
            device: Which.
            version: Of the bundle.
            first: Whether the device has no version yet; that one always works.
        """
        if first or self.only_version not in ("", version):
            return Lot.WORKS
        draw = chance(f"{self.seed}/{device}/{version}")
        for share, lot in (
            (self.reject, Lot.REJECTED),
            (self.roll_back, Lot.ROLLED_BACK),
            (self.degrade, Lot.DEGRADES),
            (self.vanish, Lot.VANISHES),
        ):
            if draw < share:
                return lot
            draw -= share
        return Lot.WORKS


def chance(text: str) -> float:
    """A number from 0 to 1 that looks random, always the same for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) / 2**56


def allows_samples(device: str, behaviour: Behaviour) -> bool:
    """Whether a device's owner lets samples leave it."""
    return chance(f"samples/{device}") < behaviour.samples


def hardware_of(device: str) -> dict[str, object]:
    """A board, as its agent would report it."""
    draw = chance(f"board/{device}")
    _, architecture, ram_bytes, runtime = next(board for board in _BOARDS if draw < board[0])
    return {
        "architecture": architecture,
        "ram_bytes": ram_bytes,
        "runtimes": {runtime: "simulated"},
        "python": "3.11.2",
    }


def site_of(device: str) -> str:
    """A place to stand: the label that queries ask for."""
    return _SITES[int(chance(f"site/{device}") * len(_SITES))]


def device_name(number: int) -> str:
    """The id of a simulated device."""
    return f"sim-{number:05}"
