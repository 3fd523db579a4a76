"""`edgekit fleet simulate`: devices that are not there."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.amounts import NUMBER, SECONDS, SHARE, SOME_SECONDS, Amount
from edgekit.cli.fleet_options import broker_address, broker_option, json_option
from edgekit.cli.interrupting import interruptible
from edgekit.cli.render import emit_json, say, size, wait_for_interrupt
from edgekit.cli.rollout_options import plan_options
from edgekit.wording import plural

if TYPE_CHECKING:
    from edgekit.fleet.rollouts.plan import RolloutPlan
    from edgekit.fleet.rollouts.state import Decision
    from edgekit.fleet.simulation.behaviour import Behaviour
    from edgekit.fleet.simulation.fetching import FetchPlan
    from edgekit.fleet.simulation.trial import TrialReport

_OF_DEVICES = (
    *("devices", "reject", "roll_back", "degrade", "vanish", "fetch_seconds", "fetch", "seed"),
    *("requests_per_second", "telemetry_seconds", "attach", "broker", "disagree", "samples"),
)
# Of what only a control plane asks of devices, and no rollout.
_OF_ATTACHED = ("disagree", "samples")
_BATCHES_PER_SECOND = 100.0
# Of a fleet that exists the size is not known before its devices are told something.
_USUAL_BUNDLE_BYTES = 1 << 20
_RATES = (
    ("--reject", "Share of the devices on which the version fails its golden samples."),
    ("--roll-back", "Share on which it fails its gates and is rolled back by the device."),
    ("--degrade", "Share on which it passes its gates, and goes wrong in live use."),
    ("--vanish", "Share that goes away when told to update, and stays away."),
)


def _rates(command: Callable[..., None]) -> Callable[..., None]:
    for name, text in reversed(_RATES):
        command = click.option(name, type=SHARE, default=0.0, show_default=True, help=text)(command)
    return command


@click.command()
@click.argument("bundle", default="model@1.0.0")
@click.option("--devices", type=click.IntRange(1), default=100, show_default=True, help="How many.")
@_rates
@click.option(
    "--fetch-seconds",
    type=SECONDS,
    default=20.0,
    show_default=True,
    help="Of an update, on average.",
)
@click.option(
    "--requests-per-second",
    type=NUMBER,
    default=2.0,
    show_default=True,
    help="Of each device.",
)
@click.option(
    "--telemetry-seconds",
    type=SOME_SECONDS,
    help="Of theirs, between two batches of measurements.  [default: 10; longer where it would be "
    "less than 5 of ours, or more than 100 batches in one of ours]",
)
@click.option(
    "--fetch",
    metavar="all|index|SHARE",
    help="What devices really fetch, chunk by chunk, and check: every chunk of a version; its "
    "index; or every chunk on this share of them, 0.1 or 10%, and the index on the others. Who "
    "does not fetch takes --fetch-seconds.  [default: all, or index if that is more than 256 MB]",
)
@click.option(
    "--bundle-kb", type=click.IntRange(1), default=256, show_default=True, help="Size of BUNDLE."
)
@click.option(
    "--speed",
    type=Amount("factor", what="a factor", most=1_000.0, above=True),
    default=60.0,
    show_default=True,
    help="Seconds of theirs in one of ours.",
)
@click.option("--seed", type=int, default=0, help="Another one strikes other devices.")
@click.option(
    "--attach",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Only connect devices to that fleet and its broker, in real time, until Ctrl-C: to load "
    "a control plane that runs. No rollout is made.",
)
@click.option(
    "--disagree",
    type=SHARE,
    default=0.02,
    show_default=True,
    help="With --attach: share of inputs on which a version that runs beside (`edgekit fleet "
    "shadow`) says something else.",
)
@click.option(
    "--samples",
    type=SHARE,
    default=0.5,
    show_default=True,
    help="With --attach: share of the devices whose owners let samples leave them (`edgekit fleet "
    "request samples`).",
)
@plan_options
@broker_option
@json_option
def simulate(
    bundle: str,
    devices: int,
    reject: float,
    roll_back: float,
    degrade: float,
    vanish: float,
    fetch_seconds: float,
    requests_per_second: float,
    telemetry_seconds: float | None,
    fetch: str | None,
    bundle_kb: int,
    speed: float,
    seed: int,
    attach: Path | None,
    disagree: float,
    samples: float,
    broker: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Try a rollout of BUNDLE (NAME@VERSION, which need not exist) on simulated devices.

    They speak the real protocol and decide by the agent's own state machine; only inference is
    made up. A fleet, a broker and devices are made for it, and are gone afterwards.

    \b
    edgekit fleet simulate --devices 500 --reject 0.02 --vanish 0.01 \\
        --stage canary=5 --stage 25% --stage 100% --min-seconds 600 --min-requests 500
    """
    from edgekit.cli.rollout_options import plan_of_options
    from edgekit.fleet.rollouts.plan import check_plan
    from edgekit.fleet.simulation.behaviour import Behaviour
    from edgekit.fleet.simulation.fetching import parse_fetch
    from edgekit.fleet.simulation.trial import TrialSettings, try_rollout

    pace = speed if attach is None else 1.0
    behaviour = Behaviour(
        seed=seed,
        reject=reject,
        roll_back=roll_back,
        degrade=degrade,
        vanish=vanish,
        fetch_seconds=fetch_seconds,
        requests_per_second=requests_per_second,
        telemetry_seconds=telemetry_seconds
        or max(10.0, 5.0 * pace, devices * pace / _BATCHES_PER_SECOND),
        disagree=disagree,
        samples=samples,
    )
    chosen = parse_fetch(fetch) if fetch is not None else None
    if attach is not None:
        _refuse(
            {parameter.name for parameter in simulate.params}.difference(_OF_DEVICES),
            why="with --attach no rollout is made",
            fix="leave it out; make the rollout in that fleet: edgekit fleet rollout start",
        )
        _attach(attach, broker, devices, behaviour, chosen)
        return
    _refuse(
        _OF_ATTACHED,
        why="without --attach devices are asked for nothing",
        fix="leave it out, or connect the devices to a fleet: --attach FOLDER",
    )
    plan = check_plan(plan_of_options(bundle, by=getpass.getuser(), now=time.time(), **options))
    with interruptible() as interrupted:
        report = try_rollout(
            plan,
            TrialSettings(
                devices=devices,
                behaviour=behaviour,
                fetch=chosen,
                bundle_bytes=bundle_kb << 10,
                speed=speed,
            ),
            on_decision=_show_decision(quiet=as_json),
            say=say,
            goes_on=lambda: not interrupted(),
        )
    if as_json:
        emit_json(report.to_json())
    else:
        _show(report)


def _refuse(names: Collection[str | None], *, why: str, fix: str) -> None:
    """Options that mean nothing are no options: somebody expects something of them."""
    from click.core import ParameterSource

    from edgekit_runtime.errors import UsageError

    context = click.get_current_context()
    given = [
        parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
    ]
    if given:
        raise UsageError(f"{why}: {', '.join(given)} would do nothing", fix=fix)


def _attach(
    folder: Path,
    broker: str | None,
    devices: int,
    behaviour: Behaviour,
    fetch: FetchPlan | None,
) -> None:
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.simulation.crowd import Crowd
    from edgekit.fleet.simulation.fetching import usual_fetch

    fleet = Fleet.open(folder)
    address = broker_address(fleet, broker)
    crowd = Crowd.of_fleet(
        fleet,
        address,
        count=devices,
        behaviour=behaviour,
        fetch=fetch or usual_fetch(devices, _USUAL_BUNDLE_BYTES),
    )
    with crowd:
        click.echo(
            f"{plural(devices, 'device is', 'devices are')} connected to {address}, "
            f"{crowd.names[0]} to {crowd.names[-1]}, measured every "
            f"{behaviour.telemetry_seconds:g} s; Ctrl-C ends it"
        )
        wait_for_interrupt()
        figures = crowd.figures()
    served = ", ".join(f"{count} {what}" for what, count in figures.phases.items())
    click.echo(
        f"what devices served: {served or '-'}; {plural(figures.orders, 'order')} and "
        f"{plural(figures.requests, 'request')} followed, "
        f"{plural(figures.chunks, 'chunk')} fetched, {plural(figures.refused, 'message')} refused"
    )


def _show_decision(*, quiet: bool) -> Callable[[RolloutPlan, Decision], None]:
    began: list[float] = []

    def show(_plan: RolloutPlan, decision: Decision) -> None:
        began.append(decision.time)
        if not quiet:
            minutes = (decision.time - began[0]) / 60
            click.echo(f"{minutes:7.1f} min  {decision.what}  {decision.reason}".rstrip())

    return show


def _show(report: TrialReport) -> None:
    from edgekit.fleet.rollouts.state import ENDED

    document = report.to_json()
    click.echo(
        ("\nthe rollout is " if report.state.phase in ENDED else "\nended while the rollout was ")
        + str(document["phase"])
        + (f": {document['reason']}" if document["reason"] else "")
    )
    for title, name in (("devices of the rollout", "statuses"), ("what devices serve", "served")):
        counts = document[name]
        assert isinstance(counts, dict)  # noqa: S101 - as `TrialReport.to_json` makes it
        click.echo(f"{title}: " + (", ".join(f"{n} {what}" for what, n in counts.items()) or "-"))
    if report.crowd.chunks:
        fetched = f"{plural(report.crowd.chunks, 'chunk')}, {size(report.crowd.chunk_bytes)}"
        click.echo(f"really fetched: {fetched}")
    click.echo(
        f"{report.simulated_seconds / 60:.1f} simulated minutes in {report.rollout_seconds:.1f} s; "
        f"{report.control_cpu_seconds:.1f} CPU s and "
        f"{size(report.control_rss_bytes)} of control plane; "
        f"{plural(len(report.wrong), 'device')} in a wrong state"
    )
