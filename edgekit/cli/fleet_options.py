"""Options that several fleet commands share."""

from __future__ import annotations

from pathlib import Path

import click

fleet_option = click.option(
    "--fleet",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("fleet"),
    show_default=True,
    envvar="EDGEKIT_FLEET",
    show_envvar=True,
    metavar="FOLDER",
    help="The fleet's folder, as `edgekit fleet init` made it.",
)
passphrase_option = click.option(
    "--passphrase",
    envvar="EDGEKIT_PASSPHRASE",
    show_envvar=True,
    help="Of the offline keys. Better given in the variable: a command line can be seen by others.",
)
broker_option = click.option(
    "--broker",
    metavar="HOST:PORT",
    help="The MQTT broker.  [default: the one published to last]",
)
