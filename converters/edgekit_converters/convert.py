"""Convert a model: the one entry point, from a file to checked, published files and a report."""

from __future__ import annotations

import json
from collections.abc import Callable

from edgekit_converters.conversion import Conversion
from edgekit_converters.publish import publish, staging_for
from edgekit_converters.report import ConversionReport, Precision
from edgekit_converters.request import ConversionRequest, plan_conversion

__all__ = ["ConversionReport", "ConversionRequest", "Precision", "convert_model"]


def _ignore(_: str) -> None:
    """The default for `progress`."""


def convert_model(
    request: ConversionRequest, *, progress: Callable[[str], None] = _ignore
) -> ConversionReport:
    """Make every artifact that is asked for, check each, and publish all of them, or none.

    Args:
        request: What to make of what.
        progress: Told one plain sentence a step.

    Returns:
        The report that is also written as JSON beside the artifacts. Where a goal for accuracy or
        latency is missed, it says so, and nothing is published unless the request keeps the best.

    Raises:
        UsageError: If the request, a path or the given data cannot be used.
        UnsupportedModelError: If the source is no model, or has operators that a target lacks;
            they are all named.
        GateFailedError: If a float artifact does not compute what the source does; the first
            node that differs is named.
        EnvironmentLackError: If a package is missing or the output cannot be written.
    """
    plan = plan_conversion(request)
    with staging_for(plan.folder) as staging:
        work = Conversion(request, plan, staging, progress)
        try:
            report = work.make()
        finally:
            work.close()
        if not report.published:
            return report
        staged_report = staging / "report.json"
        staged_report.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
        moves = [(work.staged(artifact), artifact.path) for artifact in plan.artifacts]
        progress(f"publishing {len(moves)} file(s) in {plan.folder}")
        publish([*moves, (staged_report, plan.report)], staging=staging)
    return report
