"""`edgekit quickstart`: the whole road, in one command."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.render import (
    emit_json,
    milliseconds,
    percent,
    say,
    size,
    table,
    wait_for_interrupt,
)

if TYPE_CHECKING:
    from edgekit.quickstart.figures import QuickstartFigures
    from edgekit.quickstart.road import Road
    from edgekit.quickstart.workspace import Workspace

_STEPS = 10


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("edgekit-quickstart"),
    show_default=True,
    help="Where to work; an earlier quickstart's folder is emptied first.",
)
@click.option(
    "--profile", default="raspberrypi", show_default=True, help="The boards to predict for."
)
@click.option(
    "--http-port",
    type=click.IntRange(0, 65_535),
    default=0,
    help="Of the agent's HTTP interface.  [default: any free]",
)
@click.option(
    "--broker",
    type=click.Choice(["auto", "mosquitto", "amqtt"]),
    default="auto",
    show_default=True,
    help="mosquitto where it is installed, else the embedded development broker.",
)
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON at the end.")
def quickstart(
    folder: Path, profile: str, http_port: int, broker: str, keep: bool, as_json: bool
) -> None:
    """From a trained model to a proven update on a device, in one command.

    Converts and quantizes a small digits model, benchmarks it, signs it, delivers it over MQTT to
    an agent in a process of its own, updates it under traffic, and shows what protects it: about
    a minute, all of it on this machine, nothing faked. Every step is what the other commands do.
    """
    from edgekit.pages.quickstart import render_page
    from edgekit.quickstart.road import Options, Reporter, Road
    from edgekit_runtime.durable import write_bytes

    # A polite end (systemd, a closed terminal) stops what runs just as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    progress = _Progress()
    options = Options(folder=folder, profile=profile, http_port=http_port, broker=broker)  # type: ignore[arg-type]
    road = Road.open(options, Reporter(step=progress.step, say=say))
    try:
        try:
            figures = road.run()
            progress.step("Sum up")
            write_bytes(road.workspace.page, render_page(figures).encode())
            write_bytes(road.workspace.summary, _json(figures))
        except KeyboardInterrupt:
            road.close()
            road.workspace.remove()
            raise
        if as_json:
            emit_json(figures.to_json())
        else:
            _show(figures, road.workspace)
        if keep:
            _keep(road)
    finally:
        road.close()


class _Progress:
    """Numbers the steps."""

    def __init__(self) -> None:
        self._number = 0

    def step(self, title: str) -> None:
        """Begin a step."""
        self._number += 1
        click.echo(click.style(f"\n[{self._number}/{_STEPS}] {title}", bold=True), err=True)


def _show(figures: QuickstartFigures, workspace: Workspace) -> None:
    click.echo(
        table(
            [
                [
                    item.model,
                    item.variant,
                    size(item.size_bytes),
                    percent(item.accuracy),
                    milliseconds(item.median_ms),
                    milliseconds(item.p90_ms),
                    size(item.peak_memory_bytes) if item.peak_memory_bytes is not None else "-",
                ]
                for item in figures.variants
            ],
            head=["model", "variant", "size", "accuracy", "median", "p90", "peak memory"],
        )
    )
    click.echo("Measured here, one thread; peak memory above Python and the engine.\n")
    click.echo(
        table(
            [
                [
                    item.version,
                    item.variant,
                    str(item.requests),
                    percent(item.accuracy),
                    milliseconds(item.median_ms),
                ]
                for item in figures.serving
            ],
            head=["served on the device", "variant", "requests", "accuracy", "client's median"],
        )
    )
    update = figures.update
    click.echo(
        f"\nUpdate {update.before} -> {update.after}: {update.seconds:.1f} s, "
        f"{update.requests} requests meanwhile, {update.refused} refused.\n"
    )
    click.echo(
        table(
            [[item.threat, item.outcome, item.still_serving] for item in figures.protections],
            head=["tried against the device", "outcome", "still serving"],
        )
    )
    click.echo(
        f"\nSupervisor, idle: {size(figures.supervisor_rss_bytes)}. "
        f"All of it: {sum(figures.seconds.values()):.0f} s.\n"
        f"Pictures: {workspace.page}\nFigures:  {workspace.summary}"
    )


def _keep(road: Road) -> None:
    running = road.restart_broker()
    host, port = road.http_address()
    config, fleet = road.workspace.device / "agent.toml", road.workspace.fleet
    # As this command was called: in a virtual environment that is not activated, by its folder.
    bin_ = "" if shutil.which("edgekit") else f"{Path(sys.argv[0]).parent}/"
    click.echo(
        f"""
Everything runs until Ctrl-C. Look around from another terminal:
  curl http://{host}:{port}/v2/models/digits
  {bin_}edgekit-agent status --config {config}
  {bin_}edgekit fleet status --fleet {fleet} --broker {running.address}
  {bin_}edgekit fleet watch --fleet {fleet} --broker {running.address}
  {bin_}edgekit fleet order device-1 digits@1.0.0 --fleet {fleet}
  {bin_}edgekit fleet publish --fleet {fleet}"""
    )
    wait_for_interrupt()


def _json(figures: QuickstartFigures) -> bytes:
    import json

    return json.dumps(figures.to_json(), indent=1).encode() + b"\n"
