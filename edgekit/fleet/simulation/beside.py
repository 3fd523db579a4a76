"""What a simulated device counts of a version that runs beside the one that serves. Pure."""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

from edgekit.fleet.simulation.behaviour import Behaviour, Lot
from edgekit.fleet.telemetry.sketches import bucket_of
from edgekit_runtime.orders import ShadowOrder
from edgekit_runtime.shadow import OutputGaps, ShadowCounts

#: Of every simulated model.
OUTPUT: Final = "y"
# Answers that mean something else lie as much farther apart.
_DISAGREEING: Final = 20.0


def compare_beside(
    order: ShadowOrder,
    *,
    active: str,
    seconds: float,
    lot: Lot,
    behaviour: Behaviour,
    chance: random.Random,
) -> ShadowCounts:
    """What was compared in a time.

    Args:
        order: How the version runs beside.
        active: The version that served.
        seconds: How long.
        lot: What befalls the version beside: one that degrades says something else as often as it
            would fail requests if it served, one that would be rolled back says no numbers then.
        behaviour: Of the crowd.
        chance: Of the device.
    """
    chosen = int(behaviour.requests_per_second * order.rate * seconds + chance.random())
    compared = min(chosen, int(order.max_per_second * seconds + chance.random()))
    goes_wrong = lot in (Lot.DEGRADES, Lot.ROLLED_BACK)
    share = behaviour.degraded_error_share if goes_wrong else behaviour.disagree
    wrong = sum(chance.random() < share for _ in range(compared))
    insane = wrong if lot is Lot.ROLLED_BACK else 0
    answered = compared - insane
    gaps: Counter[int] = Counter()
    largest = 0.0
    for number in range(answered):
        middle = behaviour.gap * (_DISAGREEING if number < wrong - insane else 1.0)
        gap = middle * chance.lognormvariate(0.0, 0.5)
        largest = max(largest, gap)
        gaps[bucket_of(gap)] += 1
    return ShadowCounts(
        run=order.run,
        active=active,
        compared=compared,
        agreed=compared - wrong,
        insane=insane,
        dropped=chosen - compared,
        # What was served is of the size of 1.
        outputs={OUTPUT: OutputGaps(gaps=gaps, largest=largest, relative=largest)} if gaps else {},
        latency=_latencies(answered, behaviour, chance),
        active_latency=_latencies(answered, behaviour, chance),
    )


def _latencies(count: int, behaviour: Behaviour, chance: random.Random) -> dict[int, int]:
    return Counter(
        bucket_of(behaviour.latency_ms * chance.lognormvariate(0.0, 0.2)) for _ in range(count)
    )
