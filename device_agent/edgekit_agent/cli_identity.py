"""`edgekit-agent enrol`: join a fleet with a one-time token."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgekit_agent.cli_options import http_port_option, json_option, new_folder_option


@click.command()
@click.option("--url", required=True, help="The fleet's control plane, https://…")
@click.option("--device", required=True, help="The device id that the token was made for.")
@click.option("--fleet", required=True, help="The fleet's id.")
@click.option(
    "--token",
    required=True,
    envvar="EDGEKIT_TOKEN",
    show_envvar=True,
    help="The one-time token; better in the environment, where other users do not see it.",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path),
    help="PEM file that proves the control plane; by default the system's authorities do.",
)
@new_folder_option
@http_port_option
@json_option
def enrol(
    *,
    url: str,
    device: str,
    fleet: str,
    token: str,
    ca: Path | None,
    folder: Path,
    http_port: int,
    as_json: bool,
) -> None:
    """Join a fleet: make this device's key, and get its certificate and the roots of trust.

    The key is made here and never leaves the device. After a failure it may be tried again; a
    token that was used up needs a new one.
    """
    from edgekit_agent.identity.enrolment import enrol as join

    path = join(
        url,
        device=device,
        fleet=fleet,
        token=token,
        folder=folder,
        ca=ca,
        http_port=http_port,
    )
    if as_json:
        click.echo(json.dumps({"config": str(path)}))
    else:
        click.echo(f"enrolled; wrote {path}\nnext: edgekit-agent run --config {path}")
