"""How the values of one activation lie: a histogram, its channels, and the range that is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.diagnosis.causes import channels_apart, magnitudes, usual_magnitude

if TYPE_CHECKING:
    from edgekit_converters.quantize.plan import Range
    from edgekit_converters.ranges import RangeStatistics

_BARS: Final = 48
_MOST_CHANNELS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSpread:
    """How one value's elements lie.

    Attributes:
        value: Its name.
        edges: Of the histogram's bars, ascending, one more than there are bars.
        shares: Of the elements, in each bar.
        kept_low: Where the range begins that 8 bits stand for.
        kept_high: Where it ends.
        usual: The magnitude that all but a hundredth of the elements other than zero stay below.
        clipped_share: Of the elements, outside of the range.
        channels_apart: The largest channel's magnitude by the smaller ones'.
        channel_magnitudes: The largest magnitude of each channel, in their order; of a wide value
            evenly chosen ones.
    """

    value: str
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    kept_low: float
    kept_high: float
    usual: float
    clipped_share: float
    channels_apart: float
    channel_magnitudes: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        """Everything, as JSON has it."""
        return {
            "value": self.value,
            "kept": [self.kept_low, self.kept_high],
            "usual_magnitude": self.usual,
            "clipped_share": self.clipped_share,
            "channels_apart": self.channels_apart,
            "channel_magnitudes": list(self.channel_magnitudes),
            "histogram": {"edges": list(self.edges), "shares": list(self.shares)},
        }


def spread_of(name: str, seen: RangeStatistics, kept: Range) -> ValueSpread:
    """Describe a value by what was seen of it and the range that is kept."""
    bins = seen.bins()
    low, high = min(seen.low, kept.low), max(seen.high, kept.high)
    edges = np.linspace(low, high if high > low else low + 1.0, _BARS + 1)
    counts, _ = np.histogram(bins.centre, edges, weights=bins.counts)
    channels = magnitudes(seen)
    shown = np.unique(np.linspace(0, len(channels) - 1, _MOST_CHANNELS).round().astype(int))
    return ValueSpread(
        value=name,
        edges=tuple(float(edge) for edge in edges),
        shares=tuple(float(share) for share in counts / max(counts.sum(), 1)),
        kept_low=kept.low,
        kept_high=kept.high,
        usual=usual_magnitude(seen),
        clipped_share=seen.saturation(kept),
        channels_apart=channels_apart(seen),
        channel_magnitudes=tuple(float(channels[at]) for at in shown),
    )
