"""What people read: every link leads somewhere, and decisions are numbered once and referred to."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgekit.cli import edgekit
from edgekit_agent.cli import cli as agent

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("deploy/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
    ]
)
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[(?:[^\][]|\[[^\]]*\])*\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)|<img([^>]*)>")


def prose(page: Path) -> str:
    """Without code: what stands there in brackets is no link."""
    return re.sub(r"`[^`\n]*`", lambda found: found[0].strip("`[]()"), text(page))


def text(page: Path) -> str:
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ +(.+?) *#*$", text(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def links(page: Path) -> list[str]:
    found = [link or source for link, source in _LINK.findall(prose(page))]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


def test_links_are_found_at_all() -> None:
    assert sum(len(links(page)) for page in PAGES) > 50
    assert "a-version-beside-the-one-that-serves" in anchors(ROOT / "docs/fleet.md")


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
        waiting += [target for target in targets if target.suffix == ".md"]
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in reached] == []


def test_decisions_are_numbered_once_and_referred_to() -> None:
    decisions = sorted((ROOT / "docs/adr").glob("*.md"))
    numbers = [int(path.name[:4]) for path in decisions]
    assert numbers == list(range(1, len(numbers) + 1))
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        if page.parent.name != "adr"
        for link in links(page)
    }
    assert [path.name for path in decisions if path not in linked] == []
    for path, number in zip(decisions, numbers, strict=True):
        assert path.read_text().startswith(f"# {number}. "), path.name


def test_pictures_say_in_words_what_they_show() -> None:
    shown: set[str] = set()
    for page in PAGES:
        for words, path, tag in _PICTURE.findall(text(page)):
            said = words or "".join(re.findall(r'alt="([^"]*)"', tag))
            assert len(said.split()) >= 3, f"{page.name}: {path or tag}"
            shown.add((path or re.findall(r'src="([^"]*)"', tag)[0]).rsplit("/", 1)[-1])
    kept = {path.name for path in (ROOT / "docs/pictures").iterdir()}
    assert kept == shown


def commands(page: Path) -> Iterator[list[str]]:
    """Everything that a page has people type of edgekit's own, in blocks and between words."""
    whole = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```(?:sh|console|)\n(.*?)^```", whole, re.DOTALL | re.MULTILINE)
    lines = [line.partition(" # ")[0] for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`]+)`", _FENCED.sub("", whole))
    for line in lines:
        for part in re.split(r"&&|\||;", line):
            # After "-n" it is a namespace.
            found = re.search(
                r"(?:^|[ /(])(?<!-n )(edgekit(?:-agent)? [a-z].*)", " ".join(part.split())
            )
            if found:
                yield found[1].split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page):
        said = " ".join(words)
        command: click.Command = edgekit if words[0] == "edgekit" else agent
        rest = words[1:]
        while rest and isinstance(command, click.Group) and re.fullmatch(r"[a-z-]+", rest[0]):
            under = command.get_command(click.Context(command), rest.pop(0))
            assert under is not None, said
            command = under
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        asked = {word.strip("[]").partition("=")[0] for word in rest}
        assert {word for word in asked if re.fullmatch(r"--[a-z][a-z0-9-]*", word)} <= known, said


def test_commands_are_found_at_all() -> None:
    assert sum(1 for page in PAGES for _ in commands(page)) > 200


def test_extras_that_are_named_exist() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    for page in PAGES:
        for names in re.findall(r"edgekit\[([a-z0-9,-]+)\]", page.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= extras, f"{page.name}: {names}"
