"""Weights and inputs of the small models that both writers are tried on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F = np.float32


def w(*shape: int, seed: int = 1, scale: float = 0.3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(F)


def images(seed: int = 0, count: int = 8) -> dict[str, NDArray[Any]]:
    return {"x": np.random.default_rng(seed).normal(size=(count, 3, 17, 17)).astype(F)}


def tokens(seed: int = 0) -> dict[str, NDArray[Any]]:
    return {"ids": np.random.default_rng(seed).integers(0, 50, (4, 12))}
