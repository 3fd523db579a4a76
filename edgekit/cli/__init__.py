"""The `edgekit` command: parses, calls the library once, renders; holds no logic of its own."""

from __future__ import annotations

import importlib
from typing import Final, NoReturn

import click

from edgekit_runtime.console import run_command

# Command name -> module below this package and the object in it. A module is imported only when
# its command runs, or when the help needs its first sentence.
_COMMANDS: Final = {
    "quickstart": "quickstart:quickstart",
    "convert": "convert:convert",
    "quantize-report": "quantize_report:quantize_report",
    "inspect": "inspect:inspect",
    "bench": "bench:bench",
    "profiles": "profiles:profiles",
    "bundle": "bundle:bundle",
    "keys": "keys:keys",
    "registry": "registry:registry",
    "release": "release:release",
    "fleet": "fleet:fleet",
    "device": "device:device",
    "doctor": "doctor:doctor",
}


class LazyGroup(click.Group):
    """A group that imports the module of a command when it is asked for it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands, in the order of the road: from the model to the fleet."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command."""
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name].split(":")
        command = getattr(importlib.import_module(f"edgekit.cli.{module}"), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{name} is no command")
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgekit")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def edgekit(debug: bool) -> None:
    """Take a trained model to small devices, and know at every step that it still works.

    \b
    Start here:   edgekit quickstart
    One step:     edgekit convert model.onnx --quantize int8 --calibration data.npz
                  edgekit bench model-int8.tflite --profile raspberrypi
                  edgekit inspect model.onnx
    """


def main() -> NoReturn:
    """Run the command line and exit."""
    run_command(edgekit, name="edgekit")
