"""Reference statistics: what a model's inputs and outputs looked like when it was made.

A device compares what it sees with these, to notice drift. Quantiles describe the shape of a
distribution without keeping a sample of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT: Final = "edgekit-statistics"
_QUANTILES: Final = 21


def summarise(array: NDArray[Any]) -> dict[str, object]:
    """The distribution of a tensor's values over all samples.

    Args:
        array: Samples along the first axis; any numeric dtype.

    Returns:
        count, mean, standard deviation, and 21 quantiles from the minimum to the maximum.
    """
    values = array.astype(np.float64).reshape(-1)
    return {
        "count": int(values.size),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "quantiles": [float(q) for q in np.quantile(values, np.linspace(0, 1, _QUANTILES))],
    }


def reference_statistics(
    inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
) -> bytes:
    """The JSON file that stands in a bundle."""
    document: dict[str, object] = {
        "format": FORMAT,
        "format_version": 1,
        "samples": min((len(array) for array in inputs.values()), default=0),
        "inputs": {name: summarise(array) for name, array in inputs.items()},
        "outputs": {name: summarise(array) for name, array in outputs.items()},
        # How often each entry of an output was the largest: for a classifier, the class shares.
        "largest": {
            name: np.bincount(
                array.reshape(-1, array.shape[-1]).argmax(axis=1), minlength=array.shape[-1]
            ).tolist()
            for name, array in outputs.items()
            if array.ndim > 1
        },
    }
    return json.dumps(document, indent=1).encode() + b"\n"
