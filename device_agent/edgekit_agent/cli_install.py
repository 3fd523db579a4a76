"""`edgekit-agent install` and `uninstall`: the agent as a service of this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit_agent.cli_options import json_option

if TYPE_CHECKING:
    from edgekit_agent.install.setup import Done

_root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/"),
    show_default=True,
    help="Root folder of the machine; another one than / prepares an image, and starts nothing.",
)


@click.command()
@click.option(
    "--agent",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that `init` or `enrol` made.",
)
@_root_option
@click.option(
    "--executable", default="", help="Command that starts the agent; by default this one."
)
@json_option
def install(*, agent: Path, root: Path, executable: str, as_json: bool) -> None:
    """Install an agent's folder as a systemd service: user, configuration, hardened unit.

    It starts with the machine and is watched by systemd. Installing again replaces configuration
    and unit, and leaves what the agent has stored.
    """
    from edgekit_agent.install.setup import install as set_up

    _show(set_up(agent, root=root, executable=executable), as_json=as_json)


@click.command()
@_root_option
@click.option("--keep-data", is_flag=True, help="Leave identity, models and configuration.")
@json_option
def uninstall(*, root: Path, keep_data: bool, as_json: bool) -> None:
    """Take the service away, and everything that belongs to it."""
    from edgekit_agent.install.setup import uninstall as take_away

    _show(take_away(root=root, keep_data=keep_data), as_json=as_json)


def _show(done: Done, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(done), indent=1))
        return
    for step in done.steps:
        click.echo(step)
    for step in done.left:
        click.echo(f"left to do: {step}")
