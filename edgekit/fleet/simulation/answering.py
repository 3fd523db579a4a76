"""What a simulated device answers to a request that was proven. Pure."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgekit.fleet.simulation.behaviour import Behaviour, allows_samples, hardware_of
from edgekit_agent.state import BundleRecord
from edgekit_runtime.reports import ShadowPhase
from edgekit_runtime.requests import MAX_REPLY_BYTES, DeviceReply, DeviceRequest, RequestKind

#: Where a real device names its board: nobody takes what it measures for a measurement.
BOARD: Final = "simulated"
_MOST_SAMPLES: Final = 1_000
# Of each: few bytes, for thousands of devices may be asked.
_FEATURES: Final = 4
# What base64 and the envelope leave of a reply.
_PART_BYTES: Final = 40_000

Result = dict[str, Any]


def answer_request(
    request: DeviceRequest,
    *,
    records: Mapping[str, BundleRecord],
    log: Sequence[str],
    behaviour: Behaviour,
    chance: random.Random,
    now: float,
) -> list[DeviceReply]:
    """The parts of an answer, which says what was not done as a real device does.

    Args:
        request: What was asked.
        records: Where the device's bundles stand.
        log: Its last lines.
        behaviour: Of the crowd.
        chance: Of the device.
        now: Seconds since 1970.
    """
    arguments = request.arguments
    match request.kind:
        case RequestKind.BENCH:
            bundle, version = (str(arguments.get(name, "")) for name in ("bundle", "version"))
            parts = [_bench(request.device, records.get(bundle), version, behaviour, chance)]
        case RequestKind.LOGS:
            lines = _count(arguments, "lines", 200)
            parts = [{"lines": list(log[-lines:] if lines else [])}]
        case RequestKind.SAMPLES:
            parts = _samples(request, records, behaviour, chance, now)
        case RequestKind.RESTART:
            parts = [{"restarting": arguments.get("what", "server")}]
        case RequestKind.RENEW | RequestKind.CERTIFICATE:
            parts = [{"error": "this device has no certificate of its own: [broker.tls]"}]
    ok = not any("error" in part for part in parts)
    replies = [
        DeviceReply(
            device=request.device,
            number=request.number,
            ok=ok,
            part=number,
            parts=len(parts),
            result=part,
        )
        for number, part in enumerate(parts)
    ]
    assert all(len(reply.to_json()) <= MAX_REPLY_BYTES for reply in replies)  # noqa: S101
    return replies


def _bench(
    device: str,
    record: BundleRecord | None,
    version: str,
    behaviour: Behaviour,
    chance: random.Random,
) -> Result:
    slots = []
    if record is not None and record.serving is not None:
        slots.append(record.serving)
    beside = record.shadow if record is not None else None
    if beside is not None and beside.phase is ShadowPhase.WATCHING:
        slots.append(beside.slot)
    found = next((slot for slot in slots if version in ("", slot.version)), None)
    if found is None:
        return {"error": f"no such {'version' if version else 'bundle'} is served here"}
    runtimes: Any = hardware_of(device)["runtimes"]
    runtime, runtime_version = next(iter(runtimes.items()))
    return {
        "bundle": found.target.bundle,
        "version": found.version,
        "variant": found.variant,
        "runtime": runtime,
        "runtime_version": runtime_version,
        "threads": 1,
        "board": BOARD,
        "median_ms": behaviour.latency_ms * chance.lognormvariate(0.0, 0.05),
        "peak_bytes": 32 << 20,
    }


def _samples(
    request: DeviceRequest,
    records: Mapping[str, BundleRecord],
    behaviour: Behaviour,
    chance: random.Random,
    now: float,
) -> list[Result]:
    if not allows_samples(request.device, behaviour):
        return [{"error": "the owner of this device does not allow samples: [samples] allow"}]
    import numpy as np

    from edgekit_runtime.bundle.golden import save_arrays

    served = [
        (bundle, record.serving.version)
        for bundle, record in sorted(records.items())
        if record.serving is not None
    ]
    most = min(_count(request.arguments, "most", 10), _MOST_SAMPLES)
    parts: list[Result] = []
    for number in range(most if served else 0):
        bundle, version = served[number % len(served)]
        row = np.array([[chance.random() for _ in range(_FEATURES)]], np.float32)
        data = save_arrays({"input:x": row, "output:y": row.sum(axis=1, keepdims=True)})
        taken = int((now - most + number) * 1e9)
        parts += _pieces(f"{taken:020d}-{bundle}-{version}-random.npz", data)
    return parts or [{"samples": 0}]


def _pieces(name: str, data: bytes) -> list[Result]:
    places = range(0, len(data), _PART_BYTES)
    return [
        {
            "sample": name,
            "piece": piece,
            "pieces": len(places),
            "data": base64.b64encode(data[place : place + _PART_BYTES]).decode(),
        }
        for piece, place in enumerate(places)
    ]


def _count(arguments: Mapping[str, Any], name: str, default: int) -> int:
    value = arguments.get(name, default)
    return min(max(value, 0), 1_000) if isinstance(value, int) else default
