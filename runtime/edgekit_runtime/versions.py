"""Semantic versions (semver.org 2.0.0), ordered."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

from edgekit_runtime.errors import UsageError

_IDENTIFIER = r"(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)"
VERSION_PATTERN: Final = (
    r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})"
    rf"(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)


@functools.total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A semantic version; build metadata is kept and takes no part in the order."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()
    build: str = ""

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read "1.2.3", "1.2.3-rc.1", "1.2.3+abc".

        Raises:
            UsageError: If it is no semantic version.
        """
        match = re.fullmatch(VERSION_PATTERN, text)
        if match is None:
            raise UsageError(
                f"{text!r} is no semantic version", fix="write it as MAJOR.MINOR.PATCH: 1.4.0"
            )
        major, minor, patch, prerelease, build = match.groups()
        return cls(
            int(major),
            int(minor),
            int(patch),
            tuple(prerelease.split(".")) if prerelease else (),
            build or "",
        )

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        if self.prerelease:
            text += "-" + ".".join(self.prerelease)
        return f"{text}+{self.build}" if self.build else text

    def __lt__(self, other: Version) -> bool:
        return self._precedence() < other._precedence()

    def _precedence(self) -> tuple[object, ...]:
        # Section 11: a pre-release comes before its release; numbers before words, by value.
        words = tuple(
            (0, int(word), "") if word.isdigit() else (1, 0, word) for word in self.prerelease
        )
        return (self.major, self.minor, self.patch, not self.prerelease, words)
