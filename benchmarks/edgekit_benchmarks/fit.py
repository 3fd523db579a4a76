"""Make the device profiles from the measurements that the package carries.

A board's latency is modelled as a sum of prices, one for each of `features.FEATURES`, found
together for all boards (`pricing`). Errors and bands are those on a family of models that no board
had seen, never on fitted models.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_benchmarks.bands import anchored_bands, band_of, coverage_of
from edgekit_benchmarks.features import OPERATORS
from edgekit_benchmarks.pricing import (
    ENGINES,
    LeftOut,
    predict_left_out,
    price_combinations,
)
from edgekit_benchmarks.profile import Calibration, Hardware, Profile, Substitution
from edgekit_benchmarks.published import (
    Combination,
    Measured,
    read_measurements,
    read_text,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DIGITS: Final = 4
_METHOD: Final = (
    "counts times prices, found together for all boards with this engine: pooled log-normal "
    "prices with a factor for each board and deviations, most probable values"
)
_METHOD_MACS: Final = "one price for a multiply-accumulate: the median over models and engines"
_METHOD_LEFT: Final = {
    True: "errors on a family of models left out of every board",
    False: "one family only, errors on a model left out of this board",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """How well a combination is predicted, family by family left out.

    Attributes:
        combination: Board, runtime and setting.
        models: How many were predicted.
        families: How many families they belong to.
        mape: Mean absolute relative error.
        median: The median of those errors.
        p90: What nine in ten stay below.
        coverage: The share within the 90 % band.
        band: That band's factor.
    """

    combination: Combination
    models: int
    families: int
    mape: float
    median: float
    p90: float
    coverage: float
    band: float


def fit_profiles() -> dict[str, Profile]:
    """Every profile, made anew from the measurements."""
    rows = read_measurements()
    prices = price_combinations(rows)
    left_out = predict_left_out(rows)
    boards = tomllib.loads(read_text("boards.toml"))
    grouped = _grouped(rows)
    calibrations = {
        combination: _calibrate(
            grouped[combination],
            prices[combination],
            left_out,
            weak=boards[combination.board].get("weak", ""),
        )
        for combination in sorted(grouped, key=lambda c: c.order)
    }
    substitutions = _substitutions(grouped, calibrations)
    between = _between_boards(
        grouped, calibrations, {name: facts["core"] for name, facts in boards.items()}
    )
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
            calibrations=tuple(
                replace(calibration, taken_from=boards[like]["title"]) if like else calibration
                for combination, calibration in calibrations.items()
                if combination.board == (like or name)
            ),
            substitutions=(*substitutions, between) if like else substitutions,
        )
        for name, facts in boards.items()
        for like in (facts.get("like", ""),)
    }


def validate(rows: Sequence[Measured]) -> list[Validation]:
    """The leave-one-family-out table."""
    left_out = predict_left_out(rows)
    return [
        _validation(combination, left_out)
        for combination in sorted(left_out, key=lambda c: c.order)
    ]


def _validation(
    combination: Combination, left_out: Mapping[Combination, Sequence[LeftOut]]
) -> Validation:
    found = left_out[combination]
    ratios = [entry.ratio for entry in found]
    errors = [abs(1 / ratio - 1) for ratio in ratios]
    others = [
        entry.ratio
        for other, entries in left_out.items()
        for entry in entries
        if (other.runtime, other.dtype) == (combination.runtime, combination.dtype)
    ]
    band = band_of(ratios, others)
    return Validation(
        combination=combination,
        models=len(found),
        families=len({entry.model.family for entry in found}),
        mape=float(np.mean(errors)),
        median=float(np.median(errors)),
        p90=float(np.quantile(errors, 0.9)),
        coverage=coverage_of(ratios, band),
        band=band,
    )


def _calibrate(
    rows: Sequence[Measured],
    prices: NDArray[np.float64],
    left_out: Mapping[Combination, Sequence[LeftOut]],
    *,
    weak: str,
) -> Calibration:
    combination = rows[0].combination
    facts = ENGINES[combination.runtime]
    validation = _validation(combination, left_out)
    found = left_out[combination]
    method = _METHOD_MACS if facts.per_mac else _METHOD
    return Calibration(
        runtime=combination.runtime,
        runtime_version=combination.runtime_version,
        dtype=combination.dtype,
        threads=combination.threads,
        counting=facts.counting,
        coefficients_ns=tuple(_rounded(price * 1e6) for price in prices),
        measurements=len(rows),
        families=validation.families,
        measured=max(row.year for row in rows),
        method=f"{method}; {_METHOD_LEFT[validation.families > 1]}",
        lofo_mape=_rounded(validation.mape),
        lofo_median=_rounded(validation.median),
        lofo_p90=_rounded(validation.p90),
        coverage=_rounded(validation.coverage),
        band=_rounded(validation.band),
        anchored_bands=tuple(
            _rounded(band)
            for band in anchored_bands(
                [entry.ratio for entry in found], [entry.model.family for entry in found]
            )
        ),
        least_macs=min(row.model.macs for row in rows),
        most_macs=max(row.model.macs for row in rows),
        operator_cap_ns=_rounded(_operator_cap_ms(rows) * 1e6),
        serves=facts.serves,
        serves_quicker=facts.serves_quicker,
        weak=weak,
        anchored=False,
        taken_from="",
        note=facts.note,
        sources=tuple(sorted({_page(row.source) for row in rows})),
    )


def _operator_cap_ms(rows: Sequence[Measured]) -> float:
    counting = ENGINES[rows[0].combination.runtime].counting
    return min(row.latency_ms / row.model.features[counting][OPERATORS] for row in rows)


def _substitutions(
    grouped: Mapping[Combination, Sequence[Measured]],
    calibrations: Mapping[Combination, Calibration],
) -> tuple[Substitution, ...]:
    """Compare every two combinations on one board that differ in one setting alone."""
    found: defaultdict[tuple[str, str, str, str], list[tuple[str, float]]] = defaultdict(list)
    for source, calibration in calibrations.items():
        for target, rows in grouped.items():
            setting = _changed(source, target)
            if setting is None:
                continue
            key = (
                setting,
                str(getattr(source, setting)),
                str(getattr(target, setting)),
                source.runtime if setting == "dtype" else source.dtype,
            )
            prices = np.array(calibration.coefficients_ns) / 1e6
            found[key] += [
                (
                    row.combination.board,
                    row.latency_ms
                    / float(np.dot(row.model.features[calibration.counting], prices)),
                )
                for row in rows
            ]
    return tuple(_substitution(key, pairs) for key, pairs in sorted(found.items()))


def _between_boards(
    grouped: Mapping[Combination, Sequence[Measured]],
    calibrations: Mapping[Combination, Calibration],
    cores: Mapping[str, str],
) -> Substitution:
    """What boards of one core make of each other's prices, in all settings that two of them share.

    The factor is 1: which of two boards is the quicker, these measurements do not say of a third.
    """
    pairs = [
        (
            target.board,
            row.latency_ms
            / float(
                np.dot(
                    row.model.features[calibration.counting],
                    np.array(calibration.coefficients_ns) / 1e6,
                )
            ),
        )
        for source, calibration in calibrations.items()
        for target, rows in grouped.items()
        if source.board != target.board
        and cores[source.board] == cores[target.board]
        and _setting(source) == _setting(target)
        and not ENGINES[source.runtime].per_mac
        for row in rows
    ]
    found = _substitution(("board", "another board", "this board", "the same core"), pairs)
    return replace(found, factor=1.0)


def _setting(combination: Combination) -> tuple[str, str, int]:
    return combination.runtime, combination.dtype, combination.threads


def _changed(source: Combination, target: Combination) -> str | None:
    """The one setting that differs; versions of an engine are taken for one another."""
    if source.board != target.board:
        return None
    settings = ("runtime", "threads", "dtype")
    found = [name for name in settings if getattr(source, name) != getattr(target, name)]
    return found[0] if len(found) == 1 else None


def _substitution(
    key: tuple[str, str, str, str], pairs: Sequence[tuple[str, float]]
) -> Substitution:
    low, factor, high = np.exp(
        np.quantile(np.log([ratio for _, ratio in pairs]), [0.05, 0.5, 0.95])
    )
    setting, source, target, within = key
    return Substitution(
        setting=setting,
        source=source,
        target=target,
        within=within,
        factor=_rounded(float(factor)),
        low=_rounded(float(low)),
        high=_rounded(float(high)),
        measurements=len(pairs),
        boards=tuple(sorted({board for board, _ in pairs})),
    )


def _grouped(rows: Sequence[Measured]) -> dict[Combination, list[Measured]]:
    found: defaultdict[Combination, list[Measured]] = defaultdict(list)
    for row in rows:
        found[row.combination].append(row)
    return dict(found)


def _page(source: str) -> str:
    """A measurement's repository and commit: the file and the line stay in the table."""
    return "/".join(source.split("/")[:7]).partition("?")[0]


def _rounded(value: float) -> float:
    """Four significant digits: more would differ from one linear algebra library to the next."""
    return float(f"{value:.{_DIGITS}g}")


def as_rows(validations: Sequence[Validation]) -> list[dict[str, object]]:
    """The table for JSON."""
    return [
        asdict(entry.combination)
        | {name: value for name, value in asdict(entry).items() if name != "combination"}
        for entry in validations
    ]
