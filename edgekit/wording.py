"""Words that depend on a figure."""

from __future__ import annotations


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun: "1 device", "2 devices"; "1 entry", "2 entries".

    Args:
        count: Of what.
        one: What a single one is called, and does: "device is".
        many: What more are called, and do; by default with an "s" at the end.
    """
    return f"{count} {one if count == 1 else many or one + 's'}"
