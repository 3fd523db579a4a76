"""Every command that prints a result prints it for programs too."""

from __future__ import annotations

import pytest

from tests.edgekit.cli.commands import ALL

# These run until Ctrl-C and have no result; what is held on a device is exported as JSON alone.
WITHOUT = {"fleet serve", "fleet broker", "fleet devices export"}


@pytest.mark.parametrize("name", ALL)
def test_a_command_prints_its_result_as_json_too(name: str) -> None:
    has = any("--json" in parameter.opts for parameter in ALL[name].params)
    assert has == (name not in WITHOUT)


def test_the_exceptions_are_commands() -> None:
    assert ALL.keys() >= WITHOUT
