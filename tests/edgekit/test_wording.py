from __future__ import annotations

import pytest

from edgekit.wording import plural


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ("device",), "0 devices"),
        (1, ("device",), "1 device"),
        (2, ("device",), "2 devices"),
        (1, ("entry", "entries"), "1 entry"),
        (7, ("device is", "devices are"), "7 devices are"),
    ],
)
def test_one_is_singular(count: int, words: tuple[str, ...], text: str) -> None:
    assert plural(count, *words) == text
