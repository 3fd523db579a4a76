"""Every command that prints a result prints it for programs too."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from edgekit.cli import edgekit

# These run until Ctrl-C and have no result; what is held on a device is exported as JSON alone.
WITHOUT = {"fleet serve", "fleet broker", "fleet devices export"}


def commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


ALL = dict(commands(edgekit))


@pytest.mark.parametrize("name", ALL)
def test_a_command_prints_its_result_as_json_too(name: str) -> None:
    has = any("--json" in parameter.opts for parameter in ALL[name].params)
    assert has == (name not in WITHOUT)


def test_the_exceptions_are_commands() -> None:
    assert ALL.keys() >= WITHOUT
