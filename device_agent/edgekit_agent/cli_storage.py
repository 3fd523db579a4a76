"""`edgekit-agent storage-key`: keys for what is stored encrypted."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgekit_agent.cli_options import json_option


@click.command("storage-key")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--rotate",
    is_flag=True,
    help="Put a new key before those of a key file: the agent rewrites everything with it when it "
    "starts next. Delete the older lines once `check` says that nothing needs them.",
)
@json_option
def storage_key(*, file: Path, rotate: bool, as_json: bool) -> None:
    """Make a key FILE for [encryption] in agent.toml, which only its owner may read.

    What is stored is lost to whoever does not have the key: keep a copy elsewhere. A device whose
    key is gone fetches its models anew.
    """
    from edgekit_runtime.sealing.keys import write_new_key

    count = write_new_key(file, rotate=rotate)
    if as_json:
        click.echo(json.dumps({"file": str(file), "keys": count}))
        return
    click.echo(f"wrote {file}: {count} key{'s' if count > 1 else ''}, the first one new")
    if not rotate:
        click.echo(f'next: [encryption] with key_file = "{file.name}" in agent.toml, beside it')
