"""Devices that label queries name by id, and texts that quote such queries. Pure.

A query is the owner's own text: `id=oven-001` says a device's name to whoever may read it, and
goes on saying it when the device was deleted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_VALUE: Final = r"""(?:"[^"]*"|'[^']*'|[^\s()!=<>,"']+)"""
_MENTION: Final = re.compile(
    rf"(?<![\w./-])id\s*(?:(?:!=|<=|>=|=|<|>)\s*{_VALUE}|in\s*\(\s*{_VALUE}(?:\s*,\s*{_VALUE})*)"
)
_OPENING: Final = re.compile(r"id\s*(?:!=|<=|>=|=|<|>|in\s*\()\s*")
_ID: Final = re.compile(_VALUE)


def mentioned_devices(text: str) -> frozenset[str]:
    """The ids that stand in a query, or in a text that quotes one; also of devices unknown."""
    found: set[str] = set()

    def note(device: str) -> str:
        found.add(device)
        return device

    rename_mentions(text, note)
    return frozenset(found)


def rename_mentions(text: str, name_of: Callable[[str], str]) -> str:
    """The same query or text with other names for the devices that it names by id.

    Args:
        text: A query, or a text that quotes one.
        name_of: The name to put in an id's place.
    """

    def rename(mention: re.Match[str]) -> str:
        opening = _OPENING.match(mention[0])
        start = opening.end() if opening else 0
        return mention[0][:start] + _ID.sub(_renaming(name_of), mention[0][start:])

    return _MENTION.sub(rename, text)


def _renaming(name_of: Callable[[str], str]) -> Callable[[re.Match[str]], str]:
    def rename(value: re.Match[str]) -> str:
        quote = value[0][0] if value[0][0] in "\"'" else ""
        return quote + name_of(value[0].strip(quote) if quote else value[0]) + quote

    return rename
