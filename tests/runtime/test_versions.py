"""Semantic versions, ordered as semver.org says."""

from __future__ import annotations

import pytest

from edgekit_runtime.errors import UsageError
from edgekit_runtime.versions import Version

# Section 11 of the specification, and some.
ORDERED = [
    "0.9.9",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0",
]


def test_the_order_of_the_specification() -> None:
    assert [str(v) for v in sorted(map(Version.parse, reversed(ORDERED)))] == ORDERED


def test_build_metadata_is_kept_and_has_no_rank() -> None:
    first, second = Version.parse("1.0.0+a"), Version.parse("1.0.0+b")
    assert str(first) == "1.0.0+a"
    assert not first < second
    assert not second < first


@pytest.mark.parametrize(
    "text", ["1", "1.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0-01", " 1.0.0", ""]
)
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(UsageError, match="semantic version"):
        Version.parse(text)
