"""Every command that the control plane's pages show exists, with its options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from edgekit.cli import edgekit

ROOT = Path(__file__).resolve().parents[3]
PAGES = (
    "docs/fleet.md",
    "docs/keys.md",
    "docs/rollouts.md",
    "docs/compliance.md",
    "deploy/README.md",
)


def shown_commands(page: str) -> list[str]:
    text = (ROOT / page).read_text().replace("\\\n", " ")
    blocks = [
        re.sub(r"\s+&?\s+#.*|\s+&$", "", line).strip()
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.S)
        for line in map(without_prompt, block.splitlines())
        if line.startswith("edgekit ")
    ]
    found = [part.split(" | ")[0].strip() for line in blocks for part in line.split("&&")]
    return [*found, *re.findall(r"`(edgekit (?:fleet|registry) [^`]+)`", text)]


def without_prompt(line: str) -> str:
    # What a plan goes on with is left to the reader.
    return line.strip().removeprefix("$ ").removesuffix(" …")


@pytest.mark.parametrize("page", PAGES)
def test_what_is_shown_can_be_run(page: str) -> None:
    commands = shown_commands(page)
    assert commands
    for line in commands:
        command: click.Command = edgekit
        words = shlex.split(line)[1:]
        context = click.Context(edgekit, info_name="edgekit")
        while words and isinstance(command, click.Group):
            found = command.get_command(context, words[0])
            assert found is not None, f"{page}: {line}"
            command, words = found, words[1:]
            context = click.Context(command, info_name=command.name, parent=context)
        if words and not isinstance(command, click.Group):
            # Parses as it stands; nothing is run.
            command.make_context(command.name, words, parent=context.parent)
        for option in (word for word in words if word.startswith("--")):
            known = {name for parameter in command.params for name in parameter.opts}
            assert option.split("=")[0] in known, f"{page}: {line}"
