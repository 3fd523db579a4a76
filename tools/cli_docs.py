"""Write `docs/cli.md` from the commands themselves, or check that it is what they say.

Run: `python tools/cli_docs.py [--check]`
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """# Commands

Written by `make docs` from the commands themselves; `make check` fails when it is out of date.
Exit codes: 0 done, 1 a gate failed, 2 usage, 3 the model is not supported, 4 the environment lacks
something, 130 interrupted. Times may be given as 90s, 10m, 2h or 7d, shares as 5%.
"""


def main() -> int:
    """Write or check the page; returns the exit code."""
    text = render()
    if "--check" not in sys.argv[1:]:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.name} is out of date: run `make docs`", file=sys.stderr)
        return 1
    return 0


def render() -> str:
    """The page."""
    from edgekit.cli import edgekit
    from edgekit_agent.cli import cli as agent

    sections = [HEAD]
    for command, name in ((edgekit, "edgekit"), (agent, "edgekit-agent")):
        for path, help_text in walk(command, click.Context(command, info_name=name)):
            sections.append(f"\n## {path}\n\n```text\n{help_text}\n```\n")
    return "".join(sections)


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Each command below one, with its help, depth first in the order that it lists them."""
    # A fixed width: the page must not depend on the terminal.
    context.terminal_width = 92
    context.max_content_width = 92
    yield context.command_path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from walk(child, click.Context(child, info_name=name, parent=context))


if __name__ == "__main__":
    sys.exit(main())
