"""What a target lacks, or that it is ready: all that the supervisor knows of installing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from edgekit_agent.state import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What to get before anything else can be done.

    Attributes:
        chunks: SHA-256 to length on the wire, of chunks and deltas.
        reuse: False once installed files have led to something else than what was signed: what
            is asked for now is whole, and so must be what is asked for later.
    """

    chunks: dict[str, int]
    reuse: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Everything of a variant is here."""

    variant: str


class Installer(Protocol):
    """Installs targets, or says what it lacks for that."""

    def install(
        self, target: Target, failed: Collection[str], *, reuse: bool = True
    ) -> Missing | Ready:
        """As `Fetcher.install`."""
        ...
