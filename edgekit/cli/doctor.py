"""`edgekit doctor`: what this machine can do."""

from __future__ import annotations

import sys

import click

from edgekit.cli.render import emit_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def doctor(as_json: bool) -> int:
    """Check what is installed here, and say what is missing and how to get it.

    Exit code 4 if something that `edgekit quickstart` needs is missing.
    """
    from edgekit.doctor import examine

    checks = examine()
    if as_json:
        emit_json([check.to_json() for check in checks])
    else:
        for check in checks:
            mark = (
                click.style("ok     ", fg="green")
                if check.ok
                else click.style(
                    "missing" if check.required else "without",
                    fg="red" if check.required else "yellow",
                )
            )
            click.echo(f"{mark}  {check.name:24}{check.detail}")
            if not check.ok and check.fix:
                click.echo(f"         {'':24}fix: {check.fix}")
        click.echo(f"\nPython {sys.version.split()[0]} at {sys.executable}")
    return 0 if all(check.ok or not check.required for check in checks) else 4
