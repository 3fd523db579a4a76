"""Options that several commands of `edgekit-agent` take."""

from __future__ import annotations

from pathlib import Path

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
new_folder_option = click.option(
    "--folder", required=True, type=click.Path(path_type=Path), help="Where to."
)
http_port_option = click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    default=8380,
    show_default=True,
    help="Where applications reach the models; 0 for any free port.",
)
