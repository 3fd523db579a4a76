"""The one place where a command line catches errors and turns them into text and exit codes."""

from __future__ import annotations

import json
import sys
from typing import Final, NoReturn

import click

from edgekit_runtime.errors import EdgekitError

EXIT_INTERRUPTED: Final = 130


def run_command(command: click.Command, *, name: str) -> NoReturn:
    """Run a click command as a program, and exit.

    An `EdgekitError` is printed as what, where and fix to standard error; with `--json` among the
    arguments, as a JSON object to standard output. `--debug` shows the traceback instead.
    """
    arguments = sys.argv[1:]
    try:
        # Not standalone: click would turn Ctrl-C into exit code 1.
        result = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except EdgekitError as error:
        if "--debug" in arguments:
            raise
        show_error(error, as_json="--json" in arguments)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted: nothing half-written was kept.", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader went away (`edgekit ... | head`); say nothing, and keep Python from saying it.
        sys.stdout = None
        sys.exit(0)
    sys.exit(result if isinstance(result, int) else 0)


def show_error(error: EdgekitError, *, as_json: bool) -> None:
    """Print an error for a person, or for a program."""
    if as_json:
        click.echo(json.dumps(error.as_json()))
        return
    click.echo(click.style("Error: ", fg="red", bold=True) + error.what, err=True)
    if error.where:
        click.echo(f"  where: {error.where}", err=True)
    if error.fix:
        click.echo(f"  fix:   {error.fix}", err=True)
