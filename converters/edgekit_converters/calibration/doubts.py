"""What is odd about calibration data that can be used all the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from edgekit_converters.calibration.survey import InputSummary, Survey
    from edgekit_runtime.tensors import TensorSpec

_FEW_SAMPLES: Final = 32
# Of a sample with so many numbers whole bytes are pixels, not ages.
_PICTURE_ELEMENTS: Final = 64
_LARGEST_BYTE: Final = 255
_LEAST_FULL_BYTE: Final = 100


def doubts_of(found: Survey, specs: Sequence[TensorSpec]) -> Iterator[str]:
    """Sentences for a report; none where the data looks as it should."""
    if found.count < _FEW_SAMPLES:
        yield (
            f"only {found.count} calibration sample(s): the ranges of activations may be too "
            f"narrow; {_FEW_SAMPLES} or more, from everywhere in the data, are better"
        )
    elif len(np.unique(found.digests)) == 1:
        yield f"all {found.count} calibration samples are the same"
    if found.count > 1:
        yield from _class_doubts(found)
    for spec in specs:
        seen = found.inputs.get(spec.name)
        if seen is None:
            continue
        if seen.low == seen.high:
            yield (
                f"the calibration data holds {seen.low:g} and nothing else for the input "
                f"{spec.name!r}: whatever else it gets in use will be clipped"
            )
        elif _are_raw_bytes(spec, seen):
            yield (
                f"the calibration data for {spec.name!r} are whole numbers from {seen.low:g} to "
                f"{seen.high:g}, like the bytes of an image: if the model was trained on 0 to 1, "
                "or on standardised values, preprocess them the same way"
            )


def _class_doubts(found: Survey) -> Iterator[str]:
    if found.classes == 1:
        yield "all calibration samples are of one class: choose them from all classes"
    elif (
        found.classes is not None
        and found.runs == found.classes
        and found.classes * 2 <= found.count
    ):
        yield (
            f"the calibration samples are sorted by their {found.classes} classes: a moving "
            "average depends on the last ones most, and a part of the file has few classes; "
            "shuffle them"
        )


def _are_raw_bytes(spec: TensorSpec, seen: InputSummary) -> bool:
    elements = prod(size or 1 for size in spec.shape[1:])
    return (
        spec.dtype.startswith("float")
        and elements >= _PICTURE_ELEMENTS
        and seen.whole
        and seen.low >= 0
        and _LEAST_FULL_BYTE <= seen.high <= _LARGEST_BYTE
    )
