"""Predict a model's latency on a board from its layers and the board's profile: a pure function.

What a prediction rests on decides what it is called. "anchored on your device": the user's own
device was measured. "predicted": the board was measured with this runtime, dtype and thread count,
and the model is like those measured. "weakly predicted": so it was, but with few models or by
sources that say little. "estimate only": something had to be carried over from another setting, or
the model is far from all that was measured; the band is then as wide as the widest change that
measurements show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.features import OPERATORS, count_features, count_macs, price_layer_ns
from edgekit_benchmarks.layers import LayerKind
from edgekit_benchmarks.profile import DTYPES, Calibration, Profile, Substitution
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit_benchmarks.layers import ModelLayers

ANCHORED: Final = "anchored on your device"
PREDICTED: Final = "predicted"
WEAKLY_PREDICTED: Final = "weakly predicted"
ESTIMATE_ONLY: Final = "estimate only"
RUNTIMES: Final = ("onnxruntime", "litert", "tflite-runtime", "tflite", "ncnn")
CONFIDENCE: Final = 0.9
# How far outside the calibrated sizes a model may be before its fixed costs, which no calibration
# saw, outweigh what was counted.
_FAR: Final = 3.0
_MOSTLY: Final = 0.5
_DENSE: Final = frozenset({LayerKind.DENSE, LayerKind.PRODUCT, LayerKind.RECURRENT})
# Of the normal distribution that a band's factor is taken for when another confidence is asked.
_NORMAL_90: Final = 1.6448536269514722


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """What one layer is predicted to cost, as a share of the whole.

    Attributes:
        name: The operator's name.
        type: Its type.
        kind: What it does.
        milliseconds: Its part of the predicted latency.
    """

    name: str
    type: str
    kind: str
    milliseconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One model on one board, not measured.

    Attributes:
        kind: "anchored on your device", "predicted", "weakly predicted" or "estimate only".
        profile: The board's name.
        board: The name that people know it by.
        runtime: The engine asked for.
        dtype: What the model computes in.
        threads: How many one inference may use.
        latency_ms: The most likely median latency.
        low_ms: The lower end of the 90 % band.
        high_ms: The upper end.
        ram_mb: The sizes of memory that the board is sold with, ascending.
        reasons: Why this is an estimate only, or weak; empty if it is neither.
        provenance: What the figure rests on.
        sources: Where those measurements were published.
        layers: What each layer contributes; empty unless it was asked for.
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
    ram_mb: tuple[float, ...]
    reasons: tuple[str, ...]
    provenance: str
    sources: tuple[str, ...]
    layers: tuple[LayerCost, ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, object]:
        """The prediction as a JSON object."""
        return asdict(self)

    def at_most_ms(self, confidence: float) -> float:
        """The latency that is not exceeded, with that confidence.

        The band is a central one: its upper end is the limit for (1 + 0.9) / 2. Other confidences
        are taken from a log-normal distribution of that width.
        """
        share = normal_quantile(confidence) / _NORMAL_90
        return self.latency_ms * math.exp(share * math.log(self.high_ms / self.latency_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Carry a prediction over to another setting: factors on it, and why.

    Attributes:
        factor: On the likely figure.
        low: On the lower end of the band.
        high: On its upper end.
        reason: Why it is needed; empty if nothing changes.
        basis: What it rests on.
    """

    factor: float = 1.0
    low: float = 1.0
    high: float = 1.0
    reason: str = ""
    basis: str = ""

    @property
    def width(self) -> float:
        """How far apart the ends are, on a logarithmic scale."""
        return math.log(self.high / self.low)


def predict(
    model: ModelLayers,
    profile: Profile,
    *,
    runtime: str,
    dtype: str,
    threads: int = 1,
    with_layers: bool = False,
) -> Prediction:
    """Predict the latency of one inference.

    Args:
        model: What the model computes.
        profile: The board.
        runtime: "onnxruntime", "litert" or "tflite-runtime".
        dtype: "float32", "float16" or "int8".
        threads: How many threads one inference may use.
        with_layers: Whether to say what each layer contributes.

    Raises:
        UsageError: If a setting is unknown, the board has fewer cores than threads, or nothing
            was measured on it.
    """
    _check(profile, runtime=runtime, dtype=dtype, threads=threads)
    calibration, changes = _nearest(
        profile, runtime=runtime, dtype=dtype, threads=threads, macs=count_macs(model.layers)
    )
    features = count_features(model.layers, calibration.counting)
    priced_ms = _price_ms(features, calibration)
    # In models as large as the calibrated ones this is far less than what is priced. A tiny model
    # may cost little else: halfway between nothing and the most it can be, for want of more.
    fixed_ms = _fixed_cap_ms(features, calibration)
    likely_ms = max(priced_ms, fixed_ms / 2)
    quicker = calibration.serves_quicker if runtime in calibration.serves else 1.0
    factor = math.prod(change.factor for change in changes)
    low = math.prod(change.low for change in changes) / calibration.band / quicker
    high = math.prod(change.high for change in changes) * calibration.band
    doubts = _doubts(model, features, calibration)
    wide = _widest(profile.substitutions, "threads") ** len(doubts)
    reasons = (*(change.reason for change in changes if change.reason), *doubts)
    return Prediction(
        kind=_kind(calibration, reasons),
        profile=profile.name,
        board=profile.title,
        runtime=runtime,
        dtype=dtype,
        threads=threads,
        latency_ms=likely_ms * factor,
        low_ms=priced_ms * low / wide,
        high_ms=max(priced_ms * wide, likely_ms, fixed_ms if doubts else 0.0) * high,
        ram_mb=profile.hardware.ram_mb,
        reasons=(*reasons, *([calibration.weak] if calibration.weak else [])),
        provenance=_provenance(calibration, changes),
        sources=calibration.sources,
        layers=_layer_costs(model, calibration, likely_ms * factor) if with_layers else (),
    )


def normal_quantile(confidence: float) -> float:
    """The standard normal distribution's quantile.

    Raises:
        UsageError: If the confidence is not between 0.5 and 1.
    """
    if not 0.5 <= confidence < 1:  # noqa: PLR2004
        raise UsageError(
            f"the confidence is {confidence:g}, not from 0.5 to below 1",
            fix="0.9 is what the bands are made for",
        )
    low, high = 0.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        if 0.5 * math.erfc(-middle / math.sqrt(2)) < confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _kind(calibration: Calibration, reasons: Sequence[str]) -> str:
    if reasons:
        return ESTIMATE_ONLY
    if calibration.anchored:
        return ANCHORED
    return WEAKLY_PREDICTED if calibration.weak else PREDICTED


def _check(profile: Profile, *, runtime: str, dtype: str, threads: int) -> None:
    faults = []
    if runtime not in RUNTIMES:
        faults.append(f"runtime is {runtime!r}, not one of {', '.join(RUNTIMES)}")
    if dtype not in DTYPES:
        faults.append(f"dtype is {dtype!r}, not one of {', '.join(DTYPES)}")
    if not 1 <= threads <= profile.hardware.cores:
        cores = profile.hardware.cores
        faults.append(
            f"threads is {threads}, and {profile.title} has {cores} core{'s' * (cores > 1)}"
        )
    if not profile.calibrations:
        faults.append(f"nothing was measured on {profile.title}")
    if faults:
        raise UsageError(
            f"no prediction is possible: {'; '.join(faults)}",
            where=f"profile {profile.name}",
            fix="choose other settings, or another profile",
        )


def nearest(
    profile: Profile, *, runtime: str, dtype: str, threads: int
) -> tuple[Calibration, Change]:
    """The calibration of the board from which the least has to be carried over, and what.

    Raises:
        UsageError: As `predict`.
    """
    _check(profile, runtime=runtime, dtype=dtype, threads=threads)
    calibration, changes = _nearest(profile, runtime=runtime, dtype=dtype, threads=threads)
    return calibration, Change(
        factor=math.prod(change.factor for change in changes),
        low=math.prod(change.low for change in changes),
        high=math.prod(change.high for change in changes),
    )


def _nearest(
    profile: Profile, *, runtime: str, dtype: str, threads: int, macs: float | None = None
) -> tuple[Calibration, tuple[Change, ...]]:
    """The calibration from which the least has to be carried over, and what."""
    candidates = [
        (
            calibration,
            (
                _runtime_change(profile.substitutions, calibration, runtime),
                _dtype_change(profile.substitutions, calibration, dtype),
                _threads_change(profile.substitutions, calibration, threads),
                _board_change(profile.substitutions, calibration),
            ),
        )
        for calibration in _newest(profile.calibrations)
    ]
    return min(candidates, key=lambda candidate: _distance(candidate[0], candidate[1], macs))


def _distance(
    calibration: Calibration, changes: Sequence[Change], macs: float | None
) -> tuple[bool, float]:
    """The user's own device before all published ones, then the narrowest band that results."""
    width = sum(change.width for change in changes)
    inside = macs is None or calibration.least_macs / _FAR <= macs <= calibration.most_macs * _FAR
    band = width + 2 * math.log(calibration.band) + (0.0 if inside else 2 * math.log(_FAR))
    return not (calibration.anchored and width == 0), band


def _newest(calibrations: Sequence[Calibration]) -> list[Calibration]:
    """Of several versions of one engine the newest; the user's own device before all others."""
    found: dict[tuple[str, str, int], Calibration] = {}
    for calibration in sorted(
        calibrations, key=lambda c: (c.anchored, _version(c.runtime_version))
    ):
        found[calibration.runtime, calibration.dtype, calibration.threads] = calibration
    return list(found.values())


def _version(text: str) -> tuple[int, ...]:
    parts = "".join(c if c.isdigit() else " " for c in text).split()
    return tuple(int(part) for part in parts)


def _board_change(known: Sequence[Substitution], calibration: Calibration) -> Change:
    if not calibration.taken_from:
        return Change()
    return _carried(
        known,
        setting="board",
        values=("another board", "this board"),
        within="the same core",
        reason=f"no known measurement on this board; the prices are the {calibration.taken_from}'s,"
        " which has the same core",
        taken=f"the {calibration.taken_from} taken for this board",
    )


def _runtime_change(
    known: Sequence[Substitution], calibration: Calibration, runtime: str
) -> Change:
    if runtime in {calibration.runtime, *calibration.serves}:
        return Change()
    return _carried(
        known,
        setting="runtime",
        values=(_kernels(calibration.runtime), _kernels(runtime)),
        within=calibration.dtype,
        reason=f"no measurement of {runtime} on this board with these settings",
        taken=f"{calibration.runtime} taken for {runtime}",
    )


def _dtype_change(known: Sequence[Substitution], calibration: Calibration, dtype: str) -> Change:
    if dtype == calibration.dtype:
        return Change()
    return _carried(
        known,
        setting="dtype",
        values=(calibration.dtype, dtype),
        within=_kernels(calibration.runtime),
        reason=f"no measurement of {dtype} on this board with these settings",
        taken=f"{calibration.dtype} taken for {dtype}",
    )


def _kernels(runtime: str) -> str:
    """The engine whose kernels it has, which is what was compared."""
    return "tflite" if runtime in {"litert", "tflite-runtime"} else runtime


def _carried(
    known: Sequence[Substitution],
    *,
    setting: str,
    values: tuple[str, str],
    within: str,
    reason: str,
    taken: str,
) -> Change:
    same = [s for s in known if (s.setting, s.source, s.target) == (setting, *values)]
    if not same:
        return _unmeasured(known, setting, reason, taken)
    found = next((s for s in same if s.within == within), None)
    # Measured for something else alone: its factor, in the band of all that is known.
    band = [found] if found else same
    found = found or same[0]
    return Change(
        factor=found.factor,
        low=min(s.low for s in band),
        high=max(s.high for s in band),
        reason=reason,
        basis=f"times {found.factor:.2f} from {found.source} to {found.target} "
        f"({found.within}), as {found.measurements} models did on {', '.join(found.boards)}",
    )


def _threads_change(
    known: Sequence[Substitution], calibration: Calibration, threads: int
) -> Change:
    have = calibration.threads
    if threads == have:
        return Change()
    reason = f"no measurement with {threads} thread{'s' if threads > 1 else ''} of this runtime"
    # Settings between two measured ones lie between them, on a logarithmic scale.
    for found in known:
        if (found.setting, found.source, found.within) != (
            "threads",
            str(have),
            calibration.dtype,
        ):
            continue
        share = math.log(threads / have) / math.log(int(found.target) / have)
        if not 0 < share <= 1:
            continue
        whole = share == 1
        return Change(
            factor=found.factor**share,
            low=found.low if whole else min(1.0, found.low),
            high=found.high if whole else max(1.0, found.high),
            reason=reason,
            basis=f"times {found.factor**share:.2f} from {have} to {threads} threads, as "
            f"{found.measurements} runs did on {', '.join(found.boards)}",
        )
    return _unmeasured(known, "threads", reason, f"{have} threads taken for {threads}")


def _unmeasured(known: Sequence[Substitution], setting: str, reason: str, basis: str) -> Change:
    wide = _widest(known, setting)
    return Change(low=1 / wide, high=wide, reason=reason, basis=basis)


def _widest(known: Sequence[Substitution], setting: str) -> float:
    """The largest factor that a measured change of that setting made, either way."""
    same = [found for found in known if found.setting == setting]
    return max((max(s.high, 1 / s.low) for s in same), default=_FAR)


def _price_ms(features: Sequence[float], calibration: Calibration) -> float:
    prices_ns = calibration.coefficients_ns
    return sum(count * price for count, price in zip(features, prices_ns, strict=True)) / 1e6


def _fixed_cap_ms(features: Sequence[float], calibration: Calibration) -> float:
    """The most that calling a model and its operators can cost, whatever they compute."""
    # The call as a whole counts as one operator more.
    return (features[OPERATORS] + 1) * calibration.operator_cap_ns / 1e6


def _layer_costs(
    model: ModelLayers, calibration: Calibration, latency_ms: float
) -> tuple[LayerCost, ...]:
    costs = [
        price_layer_ns(layer, calibration.counting, calibration.coefficients_ns)
        for layer in model.layers
    ]
    scale = latency_ms / sum(costs) if sum(costs) > 0 else 0.0
    return tuple(
        LayerCost(
            name=layer.name, type=layer.type, kind=layer.kind.value, milliseconds=cost * scale
        )
        for layer, cost in zip(model.layers, costs, strict=True)
    )


def is_far_smaller(macs: float, calibration: Calibration) -> bool:
    """Whether a model has far fewer multiply-accumulates than any that was calibrated."""
    return macs < calibration.least_macs / _FAR


def do_fixed_costs_decide(features: Sequence[float], calibration: Calibration) -> bool:
    """Whether calling a model's operators may cost more than what they compute."""
    return _price_ms(features, calibration) < _fixed_cap_ms(features, calibration) / 2


def _doubts(
    model: ModelLayers, features: Sequence[float], calibration: Calibration
) -> tuple[str, ...]:
    """Why the model itself is out of the calibration's reach."""
    macs = count_macs(model.layers)
    doubts = []
    if is_far_smaller(macs, calibration):
        doubts.append(
            f"far smaller than any calibrated model ({_millions(macs)} multiply-accumulates; the "
            f"smallest has {_millions(calibration.least_macs)}): fixed costs decide"
        )
    elif do_fixed_costs_decide(features, calibration):
        doubts.append("operators smaller than in any calibrated model: fixed costs decide")
    if macs > calibration.most_macs * _FAR:
        doubts.append(
            f"far larger than any calibrated model ({_millions(macs)} multiply-accumulates; the "
            f"largest has {_millions(calibration.most_macs)})"
        )
    dense = count_macs(layer for layer in model.layers if layer.kind in _DENSE)
    if dense > macs * _MOSTLY:
        doubts.append("mostly dense, attention or recurrent layers; calibrated on convolutions")
    if model.unknown:
        doubts.append(f"{len(model.unknown)} operators could not be counted")
    return tuple(doubts)


def _provenance(calibration: Calibration, changes: Sequence[Change]) -> str:
    threads = f"{calibration.threads} thread{'s' if calibration.threads > 1 else ''}"
    what = (
        f"{calibration.measurements} measurements on your device"
        if calibration.anchored
        else f"{calibration.measurements} published latencies"
    )
    board = f"a {calibration.taken_from}" if calibration.taken_from else "this board"
    parts = [
        f"{what} of {calibration.runtime} {calibration.runtime_version}, {calibration.dtype}, "
        f"{threads}, on {board} ({calibration.measured})",
        f"mean error on a model family left out {calibration.lofo_mape:.0%}",
        *(change.basis for change in changes if change.basis),
    ]
    if calibration.note:
        parts.append(calibration.note)
    return "; ".join(parts)


def _millions(count: float) -> str:
    return f"{count / 1e6:.3g} million"
