"""Labels as a model numbers its classes, whatever the data calls them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WHOLE: Final = re.compile(r"[+-]?\d{1,18}")
_SHOWN: Final = 3


class LabelNumbers:
    """Turns labels that are text into numbers: those that they spell, or one for each name.

    Attributes:
        remark: A sentence for the report where names were numbered; "" where nothing was decided.
    """

    def __init__(self, every: NDArray[Any] | None) -> None:
        """Look at all labels of a set of data."""
        self.remark = ""
        self._kind: type | None = None
        self._names: dict[str, int] = {}
        if every is None or every.dtype.kind not in "US":
            return
        names = sorted({str(label) for label in every.reshape(-1).tolist()})
        if all(_WHOLE.fullmatch(name) for name in names):
            self._kind = int
        elif all(map(_is_number, names)):
            self._kind = float
        else:
            self._names = {name: number for number, name in enumerate(names)}
            shown = ", ".join(f"{name} = {number}" for number, name in enumerate(names[:_SHOWN]))
            self.remark = f"the classes are numbered in the order of their names: {shown}" + (
                ", ..." if names[_SHOWN:] else ""
            )

    def of(self, labels: NDArray[Any] | None) -> NDArray[Any] | None:
        """Some of those labels in numbers; what is no text stays as it is."""
        if labels is None or labels.dtype.kind not in "US":
            return labels
        if self._kind is not None:
            return labels.astype(np.int64 if self._kind is int else np.float64)
        return np.array([self._names[str(label)] for label in labels.reshape(-1)], np.int64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
