"""What a version in use must keep to before an alarm rings, as a fleet's owner sets it.

`[alarms]` in the fleet's `notices.toml`, each as a rollout's criterion of that name; what is not
named stays as it is:

    [alarms]
    max_error_share = 0.02
    max_drift = 0.25
    max_p90_ms = 0          # 0: no limit
    min_accuracy = 0        # of answers with feedback; 0: no limit
    min_feedback = 50       # before the accuracy is judged
    min_requests = 200
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from edgekit.fleet.telemetry.health import Limits
from edgekit.fleet.telemetry.notices import open_settings, require_no_faults

#: For all devices of a version together.
FLEET_LIMITS: Final = Limits(min_requests=200, max_error_share=0.02, min_feedback=50)
#: One device alone is judged more mildly: it has seen less.
DEVICE_LIMITS: Final = Limits(min_requests=200, max_error_share=0.1, max_drift=0.5)
_SHARES: Final = ("max_error_share", "min_accuracy")
_NUMBERS: Final = ("max_drift", "max_p90_ms")
_COUNTS: Final = ("min_feedback", "min_requests")


def read_limits(path: Path) -> Limits:
    """The limits for all devices of a version together, by a fleet's `notices.toml`.

    Raises:
        UsageError: If they are invalid; every fault is named.
    """
    reader = open_settings(path).nested("alarms", optional=True)
    changes: dict[str, Any] = {}
    for name in reader.names():
        if name in _COUNTS:
            changes[name] = reader.integer(name, least=1, most=10**9)
        elif name in _SHARES or name in _NUMBERS:
            changes[name] = reader.number(name, least=0)
            if name in _SHARES and changes[name] > 1:
                reader.fault(name, f"{changes[name]:g} is a share, and at most 1")
        else:
            reader.fault(name, "is unknown")
    require_no_faults(reader, "the limits of alarms are", path)
    return replace(FLEET_LIMITS, **changes)
