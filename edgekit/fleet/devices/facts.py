"""What a label query can ask of a device: its owner's labels, and what it reports of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from edgekit.fleet.rollouts.labels import Label, Labels
from edgekit_runtime.errors import UsageError

LABEL_PATTERN: Final = r"[A-Za-z_][A-Za-z0-9_./-]{0,62}"
MAX_LABELS: Final = 64
MAX_LABEL_VALUE: Final = 256
# What devices report: an owner's label of the same name would be hidden, so it is refused.
REPORTED: Final = {
    "id": "its id",
    "online": '"yes" or "no"',
    "silent": "seconds since it was heard last",
    "agent": "the agent's version",
    "order": "the order that it follows",
    "arch": "as `platform.machine()` says it",
    "ram": "all its memory, in bytes",
    "python": "the interpreter's version",
    "litert": "the version of that runtime",
    "tflite-runtime": "the version of that runtime",
    "onnxruntime": "the version of that runtime",
}
_RUNTIMES: Final = ("litert", "tflite-runtime", "onnxruntime")
_WORDS: Final = frozenset({"and", "or", "not", "in"})


def facts_of(
    device: str,
    *,
    labels: Mapping[str, str],
    hardware: Mapping[str, Any],
    agent: str,
    online: bool,
    order_version: int,
    silent_seconds: float | None,
) -> Labels:
    """Everything that a query can ask for; what the device did not report is absent."""
    facts: dict[str, Label] = dict(labels)
    facts |= {"id": device, "online": "yes" if online else "no", "order": float(order_version)}
    if silent_seconds is not None:
        facts["silent"] = silent_seconds
    if agent:
        facts["agent"] = agent
    for name, key in (("arch", "architecture"), ("python", "python")):
        if isinstance(hardware.get(key), str):
            facts[name] = hardware[key]
    ram = hardware.get("ram_bytes")
    if isinstance(ram, int | float) and not isinstance(ram, bool) and ram > 0:
        facts["ram"] = float(ram)
    runtimes = hardware.get("runtimes")
    if isinstance(runtimes, dict):
        facts |= {name: runtimes[name] for name in _RUNTIMES if isinstance(runtimes.get(name), str)}
    return facts


def require_labels(labels: Mapping[str, str | None]) -> None:
    """Go on only if these may be labels; None stands for one to be taken away.

    Raises:
        UsageError: If not; everything that is wrong is named.
    """
    faults = []
    for name, value in labels.items():
        if not re.fullmatch(LABEL_PATTERN, name) or name in _WORDS:
            faults.append(f"{name[:80]!r} is no name of a label")
        elif name in REPORTED:
            faults.append(f"{name!r} is what the device reports: {REPORTED[name]}")
        if value is not None and (len(value) > MAX_LABEL_VALUE or not value.isprintable()):
            faults.append(
                f"the value of {name[:80]!r} is longer than {MAX_LABEL_VALUE} characters, "
                "or not printable"
            )
    if faults:
        raise UsageError(
            "; ".join(faults), fix="write labels as NAME=VALUE: site=berlin line=3 canary=yes"
        )
