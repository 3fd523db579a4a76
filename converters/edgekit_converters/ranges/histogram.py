"""Counts of floats in bins that are fixed beforehand, as fine everywhere as the values are large.

A bin holds the floats that share their sign, exponent and first six bits of mantissa: 64 bins an
octave, each at most 1.6 % wide. One outlier does not coarsen the bins of all others, as it does
where bins are equally wide; two histograms add up without loss, in any order; and there are no
more than 32,513 bins, however many values there were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A float32 without its last 17 bits: sign, 8 bits of exponent, 6 of mantissa.
_DROPPED_BITS: Final = 17
_KEYS: Final = 1 << (32 - _DROPPED_BITS)
_SIGN: Final = _KEYS >> 1
_DENORMAL: Final = tuple(slice(sign, sign + (1 << (23 - _DROPPED_BITS))) for sign in (0, _SIGN))
_NOT_FINITE: Final = tuple(
    slice(sign + (0xFF << (23 - _DROPPED_BITS)), sign + _SIGN) for sign in (0, _SIGN)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How often values lay in each bin; empty bins are not held.

    Attributes:
        keys: The bins in use, ascending; a key is the upper 15 bits of the floats in its bin.
            Zero and the denormals share the bin 0.
        counts: One for each.
        not_finite: How many NaN and infinities there were; they are in no bin.
    """

    keys: NDArray[np.uint16]
    counts: NDArray[np.int64]
    not_finite: int = 0

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Histogram:
        """Count values of any shape."""
        bits = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)
        dense = np.bincount(bits >> _DROPPED_BITS, minlength=_KEYS)
        zeros = sum(int(dense[part].sum()) for part in _DENORMAL)
        not_finite = sum(int(dense[part].sum()) for part in _NOT_FINITE)
        for part in (*_DENORMAL, *_NOT_FINITE):
            dense[part] = 0
        dense[0] = zeros
        return cls._sparse(dense, not_finite)

    def merged(self, other: Histogram) -> Histogram:
        """The counts of both."""
        dense = np.zeros(_KEYS, np.int64)
        dense[self.keys] = self.counts
        dense[other.keys] += other.counts
        return self._sparse(dense, self.not_finite + other.not_finite)

    @property
    def total(self) -> int:
        """How many finite values were counted."""
        return int(self.counts.sum())

    @property
    def zeros(self) -> int:
        """How many of them were zero."""
        return int(self.counts[0]) if self.keys.size and self.keys[0] == 0 else 0

    def bins(self) -> Bins:
        """The bins in the order of their values, zero's with no width."""
        magnitude = (self.keys & (_SIGN - 1)).astype(np.uint32)
        inner = (magnitude << _DROPPED_BITS).view(np.float32).astype(np.float64)
        # The last finite bin ends where infinity begins, which is 2 to the 128th.
        outer = ((magnitude + 1) << _DROPPED_BITS).view(np.float32).astype(np.float64)
        outer[~np.isfinite(outer)] = 2.0**128
        outer[magnitude == 0] = 0.0
        negative = self.keys >= _SIGN
        low, high = np.where(negative, -outer, inner), np.where(negative, -inner, outer)
        order = np.argsort(low, kind="stable")
        return Bins(low=low[order], high=high[order], counts=self.counts[order])

    @classmethod
    def _sparse(cls, dense: NDArray[np.int64], not_finite: int) -> Histogram:
        # Of booleans: of whole numbers it takes thirty times as long.
        keys = np.flatnonzero(dense != 0)
        return cls(keys=keys.astype(np.uint16), counts=dense[keys], not_finite=not_finite)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """Intervals that do not overlap, ascending, and how many values lie in each.

    Attributes:
        low: Where each begins.
        high: Where each ends; the same as `low` for the bin of zero.
        counts: At least one each.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def centre(self) -> NDArray[np.float64]:
        """The middle of each."""
        return (self.low + self.high) / 2

    def within(self, low: float, high: float) -> Bins:
        """The bins cut off at the extremes that the values are known to have."""
        return Bins(
            low=np.clip(self.low, low, high), high=np.clip(self.high, low, high), counts=self.counts
        )

    def without_zero(self) -> Bins:
        """Those of values other than zero."""
        kept = (self.low != 0) | (self.high != 0)
        return Bins(low=self.low[kept], high=self.high[kept], counts=self.counts[kept])

    def quantile(self, share: float) -> float:
        """The value below which a share of all lies; values are spread evenly over their bin."""
        after = np.cumsum(self.counts)
        wanted = share * after[-1]
        at = min(int(np.searchsorted(after, wanted)), len(after) - 1)
        inside = (wanted - (after[at] - self.counts[at])) / self.counts[at]
        return float(self.low[at] + inside * (self.high[at] - self.low[at]))

    def below(self, edges: NDArray[Any]) -> NDArray[np.float64]:
        """How many values lie below each edge; those of a bin that an edge cuts are shared out."""
        if not self.counts.size:
            return np.zeros(len(edges))
        points = np.stack([self.low, self.high], axis=1).reshape(-1)
        after = np.cumsum(self.counts)
        heights = np.stack([after - self.counts, after], axis=1).reshape(-1)
        return np.asarray(np.interp(edges, points, heights.astype(np.float64), left=0.0))
