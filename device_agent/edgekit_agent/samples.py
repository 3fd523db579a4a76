"""Requests and answers that are kept for retraining: in a bounded ring, if the owner allows it.

One `.npz` for each: the inputs as `input:NAME`, the outputs as `output:NAME`, and why it was kept.
"""

from __future__ import annotations

import logging
import queue
import random
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_agent.settings import SampleSettings
from edgekit_runtime.durable import discard
from edgekit_runtime.errors import EdgekitError, VerificationError
from edgekit_runtime.sealing.vault import Vault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit_agent.plans import ModelPlan

_log = logging.getLogger(__name__)

RANDOM: Final = "random"
LOW_CONFIDENCE: Final = "low-confidence"
SUFFIX: Final = ".npz"
# Samples that wait for the disk; a slow one loses samples, and never slows a request.
_QUEUE: Final = 4
_CLOSE_SECONDS: Final = 5.0
_SUM_TOLERANCE: Final = 1e-2


class SampleRing:
    """Files in a folder, of which the oldest make room for new ones."""

    def __init__(self, folder: Path, *, most_bytes: int, vault: Vault | None = None) -> None:
        """Keep files there.

        Args:
            folder: Where.
            most_bytes: What all of them may take.
            vault: Of the agent's folder, around it; None for one that keeps files plain.
        """
        self.folder = folder
        self._vault = vault or Vault(folder.parent)
        self._most_bytes = most_bytes

    def files(self) -> list[Path]:
        """What is kept, the oldest first."""
        return sorted(self.folder.glob(f"*{SUFFIX}"))

    def add(self, name: str, data: bytes) -> bool:
        """Keep a file; whether it fits at all.

        Raises:
            OSError: If the disk is full or failing.
            StorageLockedError: If it is to be encrypted, and the key is missing.
        """
        stored = b"".join(self._vault.encode(self.folder / name, [data]))
        if len(stored) > self._most_bytes:
            return False
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sizes = {file: file.stat().st_size for file in self.files()}
        taken = sum(sizes.values()) + len(stored)
        for file, size in sizes.items():
            if taken <= self._most_bytes:
                break
            file.unlink(missing_ok=True)
            taken -= size
        partial = self.folder / f".{name}.part"
        partial.write_bytes(stored)
        partial.replace(self.folder / name)
        return True

    def read(self, file: Path) -> bytes:
        """One of `files`.

        Raises:
            OSError: If it cannot be read.
            StorageLockedError: If it is encrypted, and the key is missing.
            VerificationError: If it is damaged, or encrypted with a key that is not here.
        """
        return self._vault.read(file)

    def convert(self) -> int:
        """Write every file anew that is not in the form that is configured now; how many were.

        What cannot be read any more is deleted.

        Raises:
            StorageLockedError: If the key is missing.
            EnvironmentLackError: If the disk is full or cannot be written.
        """
        converted = 0
        for file in self.files():
            try:
                converted += self._vault.convert(file)
            except VerificationError as error:
                _log.warning("a sample is lost: %s", error)
                discard(file)
            except FileNotFoundError:
                # The server has made room meanwhile.
                continue
        return converted


def forget_samples(folder: Path) -> None:
    """Delete every sample: the owner does not allow them any more."""
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Sample:
    name: str
    arrays: dict[str, NDArray[np.generic]]


class SampleKeeper:
    """Chooses samples, and writes them in a thread of its own."""

    def __init__(
        self, ring: SampleRing, settings: SampleSettings, *, chance: random.Random | None = None
    ) -> None:
        """Start the thread.

        Args:
            ring: Where samples are kept.
            settings: Which; they must allow any.
            chance: Of the random choice; another one in tests.
        """
        self._ring = ring
        self._settings = settings
        self._chance = chance or random.Random()  # noqa: S311 - no secret depends on it
        self._queue: queue.Queue[_Sample | None] = queue.Queue(_QUEUE)
        self._thread = threading.Thread(target=self._write, name="samples", daemon=True)
        self._thread.start()

    def offer(
        self,
        plan: ModelPlan,
        inputs: Mapping[str, NDArray[np.generic]],
        outputs: Mapping[str, NDArray[np.generic]],
    ) -> None:
        """Keep a request and its answer, if they are to be kept and there is time for it."""
        reason = self._reason(outputs)
        if not reason or self._queue.full():
            return
        # Copies: the arrays may lie in memory that the next request is read into.
        arrays = {f"input:{name}": array.copy() for name, array in inputs.items()}
        arrays |= {f"output:{name}": array.copy() for name, array in outputs.items()}
        name = f"{time.time_ns():020d}-{plan.bundle}-{plan.version}-{reason}{SUFFIX}"
        try:
            self._queue.put_nowait(_Sample(name, arrays))
        except queue.Full:
            return

    def close(self) -> None:
        """Write what waits, and end."""
        self._queue.put(None)
        self._thread.join(_CLOSE_SECONDS)

    def _reason(self, outputs: Mapping[str, NDArray[np.generic]]) -> str:
        if self._chance.random() < self._settings.random_share:
            return RANDOM
        if self._settings.low_confidence:
            confidence = least_confidence(outputs)
            if confidence is not None and confidence < self._settings.low_confidence:
                return LOW_CONFIDENCE
        return ""

    def _write(self) -> None:
        from edgekit_runtime.bundle.golden import save_arrays

        while (sample := self._queue.get()) is not None:
            try:
                self._ring.add(sample.name, save_arrays(sample.arrays))
            except (OSError, EdgekitError) as error:
                _log.warning("a sample could not be kept: %s", error)


def least_confidence(outputs: Mapping[str, NDArray[np.generic]]) -> float | None:
    """The largest probability of the least certain row of the first output.

    None where that output holds no probabilities: other scores have no scale to judge them by.
    """
    for array in outputs.values():
        if array.dtype.kind != "f" or array.ndim < 2 or not array.size:  # noqa: PLR2004
            return None
        rows = array.reshape(-1, array.shape[-1])
        sums = rows.sum(axis=1)
        if rows.min() < 0 or abs(sums - 1).max() > _SUM_TOLERANCE:
            return None
        return float(rows.max(axis=1).min())
    return None
