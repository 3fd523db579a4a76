"""Renders the fleet's pages from what it is given; knows no database."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from edgekit.cli.render import size
from edgekit_runtime.extras import require

STATIC: Final = Path(__file__).parent / "static"
# Path and name of each page, as they stand in the head.
PAGES: Final = (
    ("/", "Fleet"),
    ("/devices", "Devices"),
    ("/rollouts", "Rollouts"),
    ("/health-of-models", "Models"),
    ("/experiments", "A/B"),
    ("/versions", "Registry"),
    ("/audit", "Audit log"),
)
_STEPS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


def render_fleet_page(name: str, **context: Any) -> str:
    """A page as HTML.

    Args:
        name: Of the template.
        context: What the template names; something that is missing is an error.

    Raises:
        EnvironmentLackError: If jinja2 is not installed.
    """
    text: str = _environment().get_template(f"{name}.html.j2").render(pages=PAGES, **context)
    return text


def moment(seconds: float | None) -> str:
    """A moment for people, in UTC: 2026-11-25 14:03:09."""
    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def ago(seconds: float | None, now: float) -> str:
    """How long something is past, in one figure: 3 min ago."""
    if seconds is None:
        return "never"
    past = max(0.0, now - seconds)
    for length, unit in _STEPS:
        if past >= length:
            return f"{past / length:.0f} {unit} ago"
    return "now"


def details(detail: Mapping[str, object]) -> str:
    """What is noted of something, for people; "text" says it all by itself."""
    named = [
        str(value) if name == "text" else f"{name}: {value}"
        for name, value in sorted(detail.items(), key=lambda item: item[0] != "text")
        if value != ""
    ]
    return "; ".join(named)


@functools.cache
def _environment() -> Any:
    jinja2: Any = require("jinja2", extra="fleet")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates" / "fleet"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "moment": moment, "ago": ago, "details": details}
    return environment
