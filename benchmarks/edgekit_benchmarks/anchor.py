"""Anchor a board's profile on real runs of a few models on the user's own device.

A device has its own clock, cooling, kernel and engine build. What those change, they change for
all models alike, nearly: the profile's prices times one factor, found from one to three models
that ran there. How near that comes is known from the models that were left out of the fit
(`Calibration.anchored_bands`).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgekit_benchmarks.features import OPERATORS
from edgekit_benchmarks.predict import do_fixed_costs_decide, is_far_smaller, nearest
from edgekit_benchmarks.profile import (
    NAME_PATTERN,
    Calibration,
    Profile,
    list_profiles,
    load_profiles,
    private_folder,
)
from edgekit_benchmarks.profile_text import write_profile
from edgekit_benchmarks.results import Counts, RecordedRun, read_results
from edgekit_runtime.errors import EnvironmentLackError, UsageError

_SUFFIX: Final = "-mine"
_TITLE: Final = ", your device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What the runs with one engine, dtype and thread count said about a profile.

    Attributes:
        runtime: The engine.
        runtime_version: Its version.
        dtype: What the models computed in.
        threads: How many one inference used.
        models: How many different ones ran.
        factor: Measured over predicted, their geometric mean.
        band: The band that remains.
        band_before: The profile's own.
    """

    runtime: str
    runtime_version: str
    dtype: str
    threads: int
    models: int
    factor: float
    band: float
    band_before: float


def guess_profile(runs: Sequence[RecordedRun], profiles: Sequence[Profile]) -> Profile | None:
    """The profile of the board that the runs name themselves, or None."""
    boards = {run.board for run in runs if run.board}
    for profile in sorted(profiles, key=lambda p: -len(p.title)):
        if any(board.startswith(profile.title) for board in boards):
            return profile
    return None


def calibrate_profile(
    results: Path, *, base: str | None = None, name: str | None = None, out: Path | None = None
) -> tuple[Path, Profile, tuple[Anchor, ...]]:
    """Write a private profile of the device that made a results file.

    Args:
        results: What `edgekit bench --json` wrote there.
        base: The board that it is, or is most like; None for what it calls itself.
        name: The new profile's name; None for the board's, and "-mine".
        out: The file to write; None for the user's private profiles.

    Returns:
        The file, the profile, and what the runs said.

    Raises:
        UsageError: If the results are none or say nothing, the board is not known, or the name is
            taken or none.
        EnvironmentLackError: If the file cannot be written.
    """
    return calibrate_runs(read_results(results), source=results.name, base=base, name=name, out=out)


def calibrate_runs(
    runs: Sequence[RecordedRun],
    *,
    source: str,
    base: str | None = None,
    name: str | None = None,
    out: Path | None = None,
) -> tuple[Path, Profile, tuple[Anchor, ...]]:
    """Write a private profile of the device that runs were made on.

    Args:
        runs: What was measured there.
        source: What they are from, for the profile's provenance.
        base: As `calibrate_profile`.
        name: Likewise.
        out: Likewise.

    Returns:
        As `calibrate_profile`.

    Raises:
        UsageError: As `calibrate_profile`.
        EnvironmentLackError: Likewise.
    """
    if base is not None:
        profile: Profile | None = require_board(base)
    else:
        profile = guess_profile(runs, list_profiles())
    if profile is None:
        boards = sorted({run.board or "a machine without a name" for run in runs})
        raise UsageError(
            f"no profile is known of {', '.join(boards)}",
            where=source,
            fix="name the board that is most like it with --profile",
        )
    name = name or f"{profile.name.removesuffix(_SUFFIX)}{_SUFFIX}"
    taken = {n for shipped in list_profiles() for n in (shipped.name, shipped.family)}
    if name in taken or not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(
            f"{name!r} is the name of a shipped profile"
            if name in taken
            else f"{name!r} is no name for a profile",
            where="--name",
            fix="choose one of lower-case letters, digits and dashes, such as garage-pi",
        )
    device, anchors = anchor_profile(_unanchored(profile), runs, name=name, source=source)
    path = out or private_folder() / f"{name}.toml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentLackError(
            f"the folder cannot be made: {error.strerror}", where=str(path.parent)
        ) from error
    write_profile(device, path)
    return path, device, anchors


def _unanchored(profile: Profile) -> Profile:
    """A profile without what earlier runs on a device said: the new ones say it again."""
    return replace(
        profile,
        title=profile.title.removesuffix(_TITLE),
        calibrations=tuple(c for c in profile.calibrations if not c.anchored),
    )


def require_board(name: str) -> Profile:
    """The one profile of that name.

    Raises:
        UsageError: If there is none, or it is a family of boards.
    """
    found = load_profiles(name)
    if len(found) > 1:
        raise UsageError(
            f"{name!r} is a family of {len(found)} boards",
            where="--profile",
            fix=f"choose one of {', '.join(profile.name for profile in found)}",
        )
    return found[0]


def anchor_profile(
    profile: Profile, runs: Sequence[RecordedRun], *, name: str, source: str
) -> tuple[Profile, tuple[Anchor, ...]]:
    """A private profile of the device that the runs were made on.

    Args:
        profile: The board that it is, or that is most like it.
        runs: What was measured there.
        name: The new profile's name.
        source: The results file's name.

    Raises:
        UsageError: If there are no runs, or none whose model could be counted, or all are of
            models that are far smaller than those the board was calibrated with.
    """
    counted = [(run, run.counts) for run in runs if run.counts is not None]
    if not counted:
        raise UsageError(
            "there is no run of a model whose operators could be counted"
            if runs
            else "there are no measurements in these results",
            where=source,
            fix="measure with `edgekit bench MODEL --json` on the device, with the packages that "
            "read the model's format installed",
        )
    telling = [(run, counts) for run, counts in counted if _tells_prices(profile, run, counts)]
    if not telling:
        raise UsageError(
            "nothing can be learnt from models as small as these: fixed costs decide what they "
            "take, and no price",
            where=source,
            fix=f"measure a model of the size that {profile.title} was calibrated with",
        )
    groups: defaultdict[tuple[str, str, str, int], list[tuple[RecordedRun, Counts]]]
    groups = defaultdict(list)
    for run, counts in telling:
        groups[run.runtime, run.runtime_version, counts.dtype, run.threads].append((run, counts))
    anchored = [_anchor(profile, found, source) for _, found in sorted(groups.items())]
    device = replace(
        profile,
        name=name,
        title=f"{profile.title}{_TITLE}",
        calibrations=(*(calibration for calibration, _ in anchored), *profile.calibrations),
    )
    return device, tuple(anchor for _, anchor in anchored)


def _tells_prices(profile: Profile, run: RecordedRun, counts: Counts) -> bool:
    base, _ = nearest(profile, runtime=run.runtime, dtype=counts.dtype, threads=run.threads)
    features = counts.features[base.counting]
    return not (is_far_smaller(counts.macs, base) or do_fixed_costs_decide(features, base))


def _anchor(
    profile: Profile, runs: Sequence[tuple[RecordedRun, Counts]], source: str
) -> tuple[Calibration, Anchor]:
    first, counts = runs[0]
    base, change = nearest(
        profile, runtime=first.runtime, dtype=counts.dtype, threads=first.threads
    )
    # One model measured twice is one model.
    logs: defaultdict[str, list[float]] = defaultdict(list)
    for run, found in runs:
        priced = sum(
            amount * price
            for amount, price in zip(
                found.features[base.counting], base.coefficients_ns, strict=True
            )
        )
        logs[run.sha256].append(math.log(run.median_ms * 1e6 / (priced * change.factor)))
    ratios = [sum(values) / len(values) for values in logs.values()]
    level = sum(ratios) / len(ratios)
    bands = base.anchored_bands or (base.band,)
    left = math.log(bands[min(len(ratios), len(bands)) - 1])
    # What was carried over differs from model to model: the factor takes away its middle, not its
    # width. And the runs themselves must lie within the band.
    width = math.hypot(left, change.width / 2)
    band = math.exp(max(width, *(abs(ratio - level) for ratio in ratios)))
    factor = math.exp(level)
    scale = change.factor * factor
    calibration = replace(
        base,
        runtime=first.runtime,
        runtime_version=first.runtime_version,
        dtype=counts.dtype,
        threads=first.threads,
        coefficients_ns=tuple(price * scale for price in base.coefficients_ns),
        measurements=len(ratios),
        families=len(ratios),
        measured=max(run.measured_at for run, _ in runs)[:10],
        method=f"the prices of {base.runtime} {base.runtime_version}, {base.dtype}, "
        f"{base.threads} threads on {profile.title}, all times {scale:.3g}",
        band=band,
        coverage=1.0,
        anchored_bands=(),
        least_macs=min(base.least_macs, *(found.macs for _, found in runs)),
        most_macs=max(base.most_macs, *(found.macs for _, found in runs)),
        operator_cap_ns=min(
            base.operator_cap_ns * scale,
            *(
                run.median_ms * 1e6 / max(1.0, found.features[base.counting][OPERATORS])
                for run, found in runs
            ),
        ),
        serves=(),
        serves_quicker=1.0,
        weak="",
        anchored=True,
        taken_from="",
        note="",
        sources=(source, *base.sources),
    )
    return calibration, Anchor(
        runtime=first.runtime,
        runtime_version=first.runtime_version,
        dtype=counts.dtype,
        threads=first.threads,
        models=len(ratios),
        factor=factor,
        band=band,
        band_before=base.band,
    )
