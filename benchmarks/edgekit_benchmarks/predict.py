"""Predict a model's latency on a board from its counts and the board's profile: a pure function.

What a prediction rests on decides what it is called. "predicted": the board was measured with this
runtime, dtype and thread count, and the model is like those measured. "estimate only": something
had to be carried over from another setting, or the model is far from all that was measured; the
band is then as wide as the widest change that measurements show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.features import FEATURES, features_of, macs_of
from edgekit_benchmarks.profile import DTYPES, Calibration, Profile, Substitution
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit_runtime.graph.workload import Workload

PREDICTED: Final = "predicted"
ESTIMATE_ONLY: Final = "estimate only"
RUNTIMES: Final = ("onnxruntime", "litert", "tflite-runtime", "tflite", "ncnn")
# How far outside the calibrated sizes a model may be before its fixed costs, which no calibration
# saw, outweigh what was counted.
_FAR: Final = 3.0
_MOSTLY: Final = 0.5
_OPERATORS: Final = FEATURES.index("operators")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One model on one board, not measured.

    Attributes:
        kind: "predicted" or "estimate only".
        profile: The board's name.
        board: The name that people know it by.
        runtime: The engine asked for.
        dtype: What the model computes in.
        threads: How many one inference may use.
        latency_ms: The most likely median latency.
        low_ms: The lower end of the 90 % band.
        high_ms: The upper end.
        reasons: Why this is an estimate only; empty if it is not.
        provenance: What the figure rests on.
        sources: Where those measurements were published.
    """

    kind: str
    profile: str
    board: str
    runtime: str
    dtype: str
    threads: int
    latency_ms: float
    low_ms: float
    high_ms: float
    reasons: tuple[str, ...]
    provenance: str
    sources: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The prediction as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """Carry a prediction over to another setting: factors on it, and why."""

    factor: float = 1.0
    low: float = 1.0
    high: float = 1.0
    reason: str = ""
    basis: str = ""

    @property
    def width(self) -> float:
        return math.log(self.high / self.low)


def predict(
    workload: Workload, profile: Profile, *, runtime: str, dtype: str, threads: int = 1
) -> Prediction:
    """Predict the latency of one inference.

    Args:
        workload: What the model computes.
        profile: The board.
        runtime: "onnxruntime", "litert" or "tflite-runtime".
        dtype: "float32", "float16" or "int8".
        threads: How many threads one inference may use.

    Raises:
        UsageError: If a setting is unknown, the board has fewer cores than threads, or nothing
            was measured on it.
    """
    _check(profile, runtime=runtime, dtype=dtype, threads=threads)
    calibration, changes = _nearest(profile, runtime=runtime, dtype=dtype, threads=threads)
    features = features_of(workload, calibration.counting)
    priced_ms = _price_ms(features, calibration)
    # In models as large as the calibrated ones this is far less than what is priced. A tiny model
    # may cost little else: halfway between nothing and the most it can be, for want of more.
    fixed_ms = _fixed_cap_ms(features, calibration)
    likely_ms = max(priced_ms, fixed_ms / 2)
    quicker = calibration.serves_quicker if runtime in calibration.serves else 1.0
    factor = math.prod(change.factor for change in changes)
    low = math.prod(change.low for change in changes) / calibration.band / quicker
    high = math.prod(change.high for change in changes) * calibration.band
    doubts = _doubts(workload, features, calibration)
    wide = _widest(profile.substitutions) ** len(doubts)
    reasons = (*(change.reason for change in changes if change.reason), *doubts)
    return Prediction(
        kind=ESTIMATE_ONLY if reasons else PREDICTED,
        profile=profile.name,
        board=profile.title,
        runtime=runtime,
        dtype=dtype,
        threads=threads,
        latency_ms=likely_ms * factor,
        low_ms=priced_ms * low / wide,
        high_ms=max(priced_ms * wide, likely_ms, fixed_ms if doubts else 0.0) * high,
        reasons=reasons,
        provenance=_provenance(calibration, changes),
        sources=calibration.sources,
    )


def _check(profile: Profile, *, runtime: str, dtype: str, threads: int) -> None:
    faults = []
    if runtime not in RUNTIMES:
        faults.append(f"runtime is {runtime!r}, not one of {', '.join(RUNTIMES)}")
    if dtype not in DTYPES:
        faults.append(f"dtype is {dtype!r}, not one of {', '.join(DTYPES)}")
    if not 1 <= threads <= profile.hardware.cores:
        faults.append(
            f"threads is {threads}, and {profile.title} has {profile.hardware.cores} cores"
        )
    if not profile.calibrations:
        faults.append(f"nothing was measured on {profile.title}")
    if faults:
        raise UsageError(
            f"no prediction is possible: {'; '.join(faults)}",
            where=f"profile {profile.name}",
            fix="choose other settings, or another profile",
        )


def _nearest(
    profile: Profile, *, runtime: str, dtype: str, threads: int
) -> tuple[Calibration, tuple[_Change, ...]]:
    """The calibration from which the least has to be carried over, and what."""
    candidates = [
        (
            calibration,
            (
                _runtime_change(profile.substitutions, calibration, runtime),
                _dtype_change(profile.substitutions, calibration, dtype),
                _threads_change(profile.substitutions, calibration, threads),
            ),
        )
        for calibration in profile.calibrations
    ]
    return min(
        candidates,
        key=lambda candidate: (
            sum(change.width for change in candidate[1]) + 2 * math.log(candidate[0].band)
        ),
    )


def _runtime_change(
    known: Sequence[Substitution], calibration: Calibration, runtime: str
) -> _Change:
    if runtime in {calibration.runtime, *calibration.serves}:
        return _Change()
    # The kernels of these two are those of TFLite, which is what was compared.
    target = "tflite" if runtime in {"litert", "tflite-runtime"} else runtime
    found = _find(known, calibration, setting="runtime", source=calibration.runtime, target=target)
    reason = f"no measurement of {runtime} on this board with these settings"
    if found is None:
        return _unmeasured(known, reason, f"{calibration.runtime} taken for {runtime}")
    return _Change(
        factor=found.factor,
        low=found.low,
        high=found.high,
        reason=reason,
        basis=f"times {found.factor:.2f} from {found.source} to {found.target}, "
        f"as {found.measurements} models did on {', '.join(found.boards)}",
    )


def _dtype_change(known: Sequence[Substitution], calibration: Calibration, dtype: str) -> _Change:
    if dtype == calibration.dtype:
        return _Change()
    return _unmeasured(
        known,
        f"no measurement of {dtype} on this board with these settings",
        f"{calibration.dtype} taken for {dtype}",
    )


def _threads_change(
    known: Sequence[Substitution], calibration: Calibration, threads: int
) -> _Change:
    have = calibration.threads
    if threads == have:
        return _Change()
    reason = f"no measurement with {threads} thread{'s' if threads > 1 else ''} of this runtime"
    # Settings between two measured ones lie between them, on a logarithmic scale.
    for found in known:
        if (found.setting, found.source, found.dtype) != ("threads", str(have), calibration.dtype):
            continue
        share = math.log(threads / have) / math.log(int(found.target) / have)
        if not 0 < share <= 1:
            continue
        whole = share == 1
        return _Change(
            factor=found.factor**share,
            low=found.low if whole else min(1.0, found.low),
            high=found.high if whole else max(1.0, found.high),
            reason=reason,
            basis=f"times {found.factor**share:.2f} from {have} to {threads} threads, as "
            f"{found.measurements} runs did on {', '.join(found.boards)}",
        )
    return _unmeasured(known, reason, f"{have} threads taken for {threads}")


def _find(
    known: Sequence[Substitution],
    calibration: Calibration,
    *,
    setting: str,
    source: str,
    target: str,
) -> Substitution | None:
    wanted = (setting, source, target, calibration.dtype)
    return next(
        (s for s in known if (s.setting, s.source, s.target, s.dtype) == wanted),
        None,
    )


def _unmeasured(known: Sequence[Substitution], reason: str, basis: str) -> _Change:
    wide = _widest(known)
    return _Change(low=1 / wide, high=wide, reason=reason, basis=basis)


def _widest(known: Sequence[Substitution]) -> float:
    """The largest factor that any measured change of one setting made, either way."""
    return max((max(s.high, 1 / s.low) for s in known), default=_FAR)


def _price_ms(features: Sequence[float], calibration: Calibration) -> float:
    prices_ns = calibration.coefficients_ns
    return sum(count * price for count, price in zip(features, prices_ns, strict=True)) / 1e6


def _fixed_cap_ms(features: Sequence[float], calibration: Calibration) -> float:
    """The most that calling a model and its operators can cost, whatever they compute."""
    # The call as a whole counts as one operator more.
    return (features[_OPERATORS] + 1) * calibration.operator_cap_ns / 1e6


def _doubts(
    workload: Workload, features: Sequence[float], calibration: Calibration
) -> tuple[str, ...]:
    """Why the model itself is out of the calibration's reach."""
    macs = macs_of(features)
    doubts = []
    if macs < calibration.least_macs / _FAR:
        doubts.append(
            f"far smaller than any calibrated model ({_millions(macs)} multiply-accumulates; the "
            f"smallest has {_millions(calibration.least_macs)}): fixed costs decide"
        )
    elif _price_ms(features, calibration) < _fixed_cap_ms(features, calibration) / 2:
        doubts.append("operators smaller than in any calibrated model: fixed costs decide")
    if macs > calibration.most_macs * _FAR:
        doubts.append(
            f"far larger than any calibrated model ({_millions(macs)} multiply-accumulates; the "
            f"largest has {_millions(calibration.most_macs)})"
        )
    dense = workload.fc_macs + workload.matmul_macs + workload.recurrent_macs
    if dense > macs * _MOSTLY:
        doubts.append("mostly dense, attention or recurrent layers; calibrated on convolutions")
    if workload.unknown:
        doubts.append(f"{len(workload.unknown)} operators could not be counted")
    return tuple(doubts)


def _provenance(calibration: Calibration, changes: Sequence[_Change]) -> str:
    threads = f"{calibration.threads} thread{'s' if calibration.threads > 1 else ''}"
    parts = [
        f"{calibration.measurements} published latencies of {calibration.runtime} "
        f"{calibration.runtime_version}, {calibration.dtype}, {threads}, "
        f"on this board ({calibration.measured})",
        f"mean error on a model family left out {calibration.lofo_mape:.0%}",
        *(change.basis for change in changes if change.basis),
    ]
    if calibration.note:
        parts.append(calibration.note)
    return "; ".join(parts)


def _millions(count: float) -> str:
    return f"{count / 1e6:.3g} million"
