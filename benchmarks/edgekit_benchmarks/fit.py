"""Make the device profiles from the measurements that the package carries.

A board's latency is modelled as a sum of prices, one for each of `features.FEATURES`, found by
non-negative least squares on the relative error. A combination with few measurements takes the
prices of the same board, runtime and threads in another dtype, all times one fitted factor.
Errors are those on a family of models that was left out of the fit, never on fitted models.
"""

from __future__ import annotations

import csv
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_benchmarks.features import FEATURES, Counting, macs_of
from edgekit_benchmarks.nnls import solve_nnls
from edgekit_benchmarks.profile import Calibration, Hardware, Profile, Substitution
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Below this, seven prices cannot be told apart: on 7 and 8 measurements the seven-price fit left
# errors of 8 to 26 % and priced whole kinds of layers at nothing.
_LEAST_FOR_PRICES: Final = 15
# A feature that fewer families have cannot be priced by itself; it shares the next one's price.
_LEAST_FAMILIES: Final = 3
_SHARES_PRICE_WITH: Final = {"conv3x3_stride1_macs": "conv_other_macs"}
_OPERATORS: Final = FEATURES.index("operators")
_COVERAGE: Final = 0.9
# Beyond the largest error seen, when there are too few errors for a 90 % quantile.
_FEW_ERRORS_MARGIN: Final = 1.25
_DIGITS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _RuntimeFacts:
    """What the measurements of one runtime do not say by themselves."""

    counting: Counting
    serves: tuple[str, ...] = ()
    serves_quicker: float = 1.0
    note: str = ""


# MLPerf's logs state neither threads nor whether XNNPACK was on; all four cores are the harness's
# default, and MobileNetV2 and V3 run 30 to 50 % slower there than with XNNPACK, today's default.
_RUNTIMES: Final = {
    "ncnn": _RuntimeFacts(
        counting=Counting.LAYERS,
        note="measured with benchncnn, an engine that edgekit does not run",
    ),
    "tflite": _RuntimeFacts(
        counting=Counting.OPERATORS,
        serves=("litert", "tflite-runtime"),
        serves_quicker=1.5,
        note="MLPerf Inference v2.1, single stream; the logs state neither the threads (all cores "
        "by default) nor XNNPACK; a newer LiteRT may be up to 1.5 times as quick",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One published latency with the counts of its model.

    Attributes:
        board: The profile's name.
        runtime: The engine.
        runtime_version: Its version.
        threads: How many it used.
        dtype: What it computed in.
        model: The model's name.
        family: Models of one design, left out together.
        features: In the order of `FEATURES`.
        latency_ms: Mean or median, as published.
        year: When.
        source: Where it was published.
    """

    board: str
    runtime: str
    runtime_version: str
    threads: int
    dtype: str
    model: str
    family: str
    features: tuple[float, ...]
    latency_ms: float
    year: str
    source: str


def fit_profiles() -> dict[str, Profile]:
    """Every profile, made anew from the measurements."""
    groups: defaultdict[tuple[str, str, int, str], list[Measured]] = defaultdict(list)
    for row in read_measurements():
        groups[row.board, row.runtime, row.threads, row.dtype].append(row)
    calibrations = {
        key: _calibrate(rows, _richer(key, groups)) for key, rows in sorted(groups.items())
    }
    substitutions = _substitutions(groups, calibrations)
    boards = tomllib.loads(_text("boards.toml"))
    return {
        name: Profile(
            name=name,
            family=facts["family"],
            title=facts["title"],
            hardware=Hardware(
                soc=facts["soc"],
                core=facts["core"],
                cores=facts["cores"],
                clock_ghz=facts["clock_ghz"],
                ram_mb=tuple(facts["ram_mb"]),
                sources=tuple(facts["sources"]),
            ),
            calibrations=tuple(c for key, c in calibrations.items() if key[0] == name),
            substitutions=substitutions,
        )
        for name, facts in boards.items()
    }


def read_measurements() -> list[Measured]:
    """The published latencies, in the order of the file.

    Raises:
        UsageError: If a row names a model without counts.
    """
    models = {row["model"]: row for row in csv.DictReader(_text("models.csv").splitlines())}
    measured = []
    for row in csv.DictReader(_text("latencies.csv").splitlines()):
        counts = models.get(row["model"])
        if counts is None:
            raise UsageError(f"no counts for the model {row['model']!r}", where="models.csv")
        measured.append(
            Measured(
                board=row["board"],
                runtime=row["runtime"],
                runtime_version=row["runtime_version"],
                threads=int(row["threads"]),
                dtype=row["dtype"],
                model=row["model"],
                family=counts["family"],
                features=_features(counts),
                latency_ms=float(row["latency_ms"]),
                year=row["year"],
                source=row["source"],
            )
        )
    return measured


def left_out_ratios(
    rows: Sequence[Measured], richer: Sequence[Measured] | None = None
) -> list[float]:
    """Measured over predicted for every row, predicted without any row of its family.

    Args:
        rows: The measurements of one combination.
        richer: Those whose prices it takes, times a factor; None to fit its own prices.
    """
    ratios = []
    for family in sorted({row.family for row in rows}):
        kept = [row for row in rows if row.family != family]
        kept_richer = None if richer is None else [r for r in richer if r.family != family]
        prices = _prices(kept, kept_richer)
        ratios += [
            row.latency_ms / float(np.dot(row.features, prices))
            for row in rows
            if row.family == family
        ]
    return ratios


def band_of(ratios: Sequence[float]) -> float:
    """The factor that nine in ten new ratios stay within, on either side of 1.

    Split-conformal: the ceil(0.9 (n + 1))-th smallest of |log ratio| (Vovk et al., "Algorithmic
    Learning in a Random World", 2005); with fewer than nine, the largest times a margin.
    """
    sizes = np.sort(np.abs(np.log(ratios)))
    rank = int(np.ceil(_COVERAGE * (len(sizes) + 1)))
    wide = sizes[rank - 1] if rank <= len(sizes) else sizes[-1] * _FEW_ERRORS_MARGIN
    return float(np.exp(wide))


def _calibrate(rows: Sequence[Measured], richer: Sequence[Measured] | None) -> Calibration:
    first = rows[0]
    facts = _RUNTIMES[first.runtime]
    prices = _prices(rows, richer)
    ratios = left_out_ratios(rows, richer)
    errors = [abs(1 / ratio - 1) for ratio in ratios]
    method = (
        f"non-negative least squares on the relative error over {len(FEATURES)} counts"
        if richer is None
        else f"the {richer[0].dtype} prices of {len(richer)} measurements on the same board, "
        "runtime and threads, all times one factor"
    )
    return Calibration(
        runtime=first.runtime,
        runtime_version=first.runtime_version,
        dtype=first.dtype,
        threads=first.threads,
        counting=facts.counting,
        coefficients_ns=tuple(_rounded(price * 1e6) for price in prices),
        measurements=len(rows),
        families=len({row.family for row in rows}),
        measured=max(row.year for row in rows),
        method=method,
        lofo_mape=_rounded(float(np.mean(errors))),
        band=_rounded(band_of(ratios)),
        least_macs=min(macs_of(row.features) for row in rows),
        most_macs=max(macs_of(row.features) for row in rows),
        operator_cap_ns=_rounded(_operator_cap_ms(rows, richer) * 1e6),
        serves=facts.serves,
        serves_quicker=facts.serves_quicker,
        note=facts.note,
        sources=tuple(sorted({_page(row.source) for row in rows})),
    )


def _richer(
    key: tuple[str, str, int, str],
    groups: Mapping[tuple[str, str, int, str], Sequence[Measured]],
) -> Sequence[Measured] | None:
    if len(groups[key]) >= _LEAST_FOR_PRICES:
        return None
    same = [rows for other, rows in groups.items() if other[:3] == key[:3] and other != key]
    richest = max(same, key=len, default=[])
    if len(richest) < _LEAST_FOR_PRICES:
        raise UsageError(f"too few measurements of {key}", where="latencies.csv")
    return richest


def _prices(rows: Sequence[Measured], richer: Sequence[Measured] | None) -> NDArray[np.float64]:
    """Milliseconds for one unit of each feature."""
    if richer is not None:
        prices = _prices(richer, None)
        return prices * _factor(rows, prices)
    features = np.array([row.features for row in rows])
    latencies = np.array([row.latency_ms for row in rows])
    shared = _shared_prices(rows)
    for column, other in shared.items():
        features[:, other] += features[:, column]
        features[:, column] = 0.0
    prices = solve_nnls(features / latencies[:, None], np.ones(len(rows)))
    for column, other in shared.items():
        prices[column] = prices[other]
    return prices


def _factor(rows: Sequence[Measured], prices: NDArray[np.float64]) -> float:
    ratios = [row.latency_ms / float(np.dot(row.features, prices)) for row in rows]
    return float(np.exp(np.median(np.log(ratios))))


def _operator_cap_ms(rows: Sequence[Measured], richer: Sequence[Measured] | None) -> float:
    cap = min(row.latency_ms / row.features[_OPERATORS] for row in rows)
    if richer is None:
        return cap
    return min(cap, _operator_cap_ms(richer, None) * _factor(rows, _prices(richer, None)))


def _shared_prices(rows: Sequence[Measured]) -> dict[int, int]:
    shared = {}
    for name, other in _SHARES_PRICE_WITH.items():
        column = FEATURES.index(name)
        if len({row.family for row in rows if row.features[column] > 0}) < _LEAST_FAMILIES:
            shared[column] = FEATURES.index(other)
    return shared


def _substitutions(
    groups: Mapping[tuple[str, str, int, str], Sequence[Measured]],
    calibrations: Mapping[tuple[str, str, int, str], Calibration],
) -> tuple[Substitution, ...]:
    """Compare every two combinations on one board that differ in runtime or threads alone."""
    found: defaultdict[tuple[str, str, str, str], list[tuple[str, float]]] = defaultdict(list)
    for source, calibration in calibrations.items():
        for target, rows in groups.items():
            if (source[0], source[3]) != (target[0], target[3]) or source == target:
                continue
            if source[1] != target[1] and source[2] != target[2]:
                continue
            setting, at = ("runtime", 1) if source[1] != target[1] else ("threads", 2)
            key = (setting, str(source[at]), str(target[at]), source[3])
            prices = np.array(calibration.coefficients_ns) / 1e6
            found[key] += [
                (row.board, row.latency_ms / float(np.dot(row.features, prices))) for row in rows
            ]
    return tuple(_substitution(key, pairs) for key, pairs in sorted(found.items()))


def _substitution(
    key: tuple[str, str, str, str], pairs: Sequence[tuple[str, float]]
) -> Substitution:
    low, factor, high = np.exp(
        np.quantile(np.log([ratio for _, ratio in pairs]), [0.05, 0.5, 0.95])
    )
    setting, source, target, dtype = key
    return Substitution(
        setting=setting,
        source=source,
        target=target,
        dtype=dtype,
        factor=_rounded(float(factor)),
        low=_rounded(float(low)),
        high=_rounded(float(high)),
        measurements=len(pairs),
        boards=tuple(sorted({board for board, _ in pairs})),
    )


def _features(counts: Mapping[str, str]) -> tuple[float, ...]:
    """A row of `models.csv`; see `features.features_of`, which does the same to a user's model."""
    return (
        float(counts["conv3x3_stride1_macs"]),
        float(counts["conv_other_macs"]),
        float(counts["pointwise_macs"]) + float(counts["fc_macs"]),
        float(counts["depthwise_macs"]),
        float(counts["conv_activation_elements"]) + float(counts["other_elements"]),
        float(counts["weight_elements"]),
        float(counts["operators"]),
    )


def _page(source: str) -> str:
    """A measurement's repository and commit: the file and the line stay in the table."""
    return "/".join(source.split("/")[:7]).partition("?")[0]


def _rounded(value: float) -> float:
    """Four significant digits: more would differ from one linear algebra library to the next."""
    return float(f"{value:.{_DIGITS}g}")


def _text(name: str) -> str:
    folder = resources.files("edgekit_benchmarks") / "measurements"
    return (folder / name).read_text(encoding="utf-8")
