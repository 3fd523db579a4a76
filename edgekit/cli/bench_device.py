"""`edgekit bench MODEL --device NAME`: measured on that device, beside what was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.fleet_options import broker_if_known, opened_database
from edgekit.cli.render import emit_json, milliseconds, say, size, table

if TYPE_CHECKING:
    from edgekit.fleet.devices.benching import Calibrated, Measured
    from edgekit.fleet.service.benching import DeviceBench

# What of `edgekit bench` means something for a device elsewhere.
_MEANT = {
    "models", "device", "profiles", "wait", "calibrate", "folder", "database", "broker", "as_json",
    "max_latency_ms", "max_memory_mb",
}  # fmt: skip


def require_meant(context: click.Context) -> None:
    """Go on only if every option that was given means something for a device elsewhere.

    Raises:
        UsageError: If not; all of them are named.
    """
    from click.core import ParameterSource

    from edgekit_runtime.errors import UsageError

    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name is not None
        and parameter.name not in _MEANT
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise UsageError(
            f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} for measurements on this "
            "machine",
            where="--device",
            fix="leave it out: the device measures with its own engine, threads and golden samples",
        )


def bench_device(
    models: Sequence[str],
    device: str,
    *,
    profiles: Sequence[str],
    wait: float,
    calibrate: bool,
    max_latency_ms: float | None,
    max_memory_mb: float | None,
    folder: Path,
    database: str | None,
    broker: str | None,
    as_json: bool,
) -> None:
    """Have a device of the fleet measure models that it serves, and show what came of it."""
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.service.benching import bench_on_device

    with opened_database(folder, database) as (fleet, opened):
        done = bench_on_device(
            fleet,
            opened,
            device,
            models,
            profiles=profiles,
            calibrate=calibrate,
            seconds=wait,
            broker=broker_if_known(fleet, broker),
            actor=local_actor(),
            progress=say,
        )
    if as_json:
        emit_json(_json(done))
    else:
        _show(done)
    _judge(done.measured, max_latency_ms, max_memory_mb)


def _show(done: DeviceBench) -> None:
    measured, predictions, calibrated = done.measured, done.predictions, done.calibrated
    rows = [
        [
            f"{item.bundle} {item.version}, {item.variant}",
            f"{item.runtime} {item.runtime_version}".strip(),
            str(item.threads),
            milliseconds(item.median_ms),
            size(item.peak_bytes) if item.peak_bytes else "-",
        ]
        for item in measured
    ]
    head = ["measured on that device", "engine", "threads", "median", "peak memory"]
    click.echo(table(rows, head=head))
    first = measured[0]
    click.echo(
        f"Device: {first.device}{', ' + first.board if first.board else ''}. Median: over the "
        "bundle's golden samples. Peak: of the whole process, Python and engine included.\n"
    )
    rows = [
        [
            f"{item.bundle} {item.version}, {item.variant}",
            prediction.board,
            milliseconds(prediction.latency_ms),
            f"{prediction.low_ms:.3g} to {prediction.high_ms:.3g} ms",
            "inside" if prediction.low_ms <= item.median_ms <= prediction.high_ms else "OUTSIDE",
            f"x {item.median_ms / prediction.latency_ms:.2f}",
            prediction.kind,
        ]
        for item, found in zip(measured, predictions, strict=True)
        for prediction in found
    ]
    if not rows and not done.note:
        click.echo(
            "Nothing is predicted: no profile is known of its board. Name the one that is most "
            "like it with --profile."
        )
    if not rows:
        if done.note:
            click.echo(done.note)
        return
    head = [
        "predicted", "board", "latency", "90 % band", "measured is", "of predicted", "kind",
    ]  # fmt: skip
    click.echo(table(rows, head=head))
    for prediction in {p.profile: p for found in predictions for p in found}.values():
        for reason in prediction.reasons:
            click.echo(f"  {prediction.board}: {reason}")
    if done.note:
        click.echo(f"\nNo profile is made: {done.note}.")
    if calibrated is not None:
        _show_calibrated(calibrated)


def _show_calibrated(calibrated: Calibrated) -> None:
    for anchor in calibrated.anchors:
        click.echo(
            f"\n{anchor.runtime} {anchor.runtime_version}, {anchor.dtype}, {anchor.threads} "
            f"thread{'s' * (anchor.threads > 1)}: x {anchor.factor:.2f} of {calibrated.base}, from "
            f"{anchor.models} model{'s' * (anchor.models > 1)}; the 90 % band of other "
            f"models is / {anchor.band:.2f} to x {anchor.band:.2f} now"
        )
    click.echo(
        f"Wrote {calibrated.path}: use it with `edgekit bench MODEL --profile {calibrated.profile}`"
    )


def _json(done: DeviceBench) -> dict[str, Any]:
    from dataclasses import asdict

    measured, predictions, calibrated = done.measured, done.predictions, done.calibrated
    return {
        "device": measured[0].device,
        "models": [
            {
                "measured": item.to_json(),
                "predictions": [
                    prediction.to_json()
                    | {"holds": prediction.low_ms <= item.median_ms <= prediction.high_ms}
                    for prediction in found
                ],
            }
            for item, found in zip(measured, predictions, strict=True)
        ],
        "note": done.note,
        "calibrated": None
        if calibrated is None
        else {
            "profile": calibrated.profile,
            "path": str(calibrated.path),
            "base": calibrated.base,
            "anchors": [asdict(anchor) for anchor in calibrated.anchors],
        },
    }


def _judge(measured: Sequence[Measured], latency_ms: float | None, memory_mb: float | None) -> None:
    from edgekit_runtime.errors import GateFailedError

    faults = []
    for item in measured:
        if latency_ms is not None and item.median_ms > latency_ms:
            faults.append(
                f"{item.bundle}: its median is {item.median_ms:.3g} ms, above {latency_ms:g}"
            )
        if memory_mb is not None and item.peak_bytes > memory_mb * 1e6:
            faults.append(
                f"{item.bundle}: it needs {size(item.peak_bytes)}, above {memory_mb:g} MB"
            )
    if faults:
        raise GateFailedError("; ".join(faults), where=measured[0].device)
