"""Which values flow through a model: watched in one pass over the data, in bounded memory.

May import the graph's plain form and the plan's `Range`; knows no file format of calibration data
and no quantized format.
"""

from edgekit_converters.ranges.collect import collect_ranges
from edgekit_converters.ranges.method import DEFAULT_METHOD, RangeMethod
from edgekit_converters.ranges.statistics import RangeStatistics

__all__ = ["DEFAULT_METHOD", "RangeMethod", "RangeStatistics", "collect_ranges"]
