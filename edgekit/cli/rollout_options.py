"""The options that make a rollout's plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.amounts import MILLISECONDS, NUMBER, PERCENT, SECONDS, SHARE, SOME_SECONDS
from edgekit.cli.fleet_options import require_version

if TYPE_CHECKING:
    from edgekit.fleet.rollouts.plan import RolloutPlan, Stage

# Option, type, default, help.
_CRITERIA = (
    ("--min-installed-share", SHARE, "0.9", "Least share of a stage's devices that must run it."),
    ("--max-failed-share", SHARE, "0.05", "Largest share that may refuse it or roll it back."),
    ("--min-seconds", SECONDS, "600", "How long to watch after a stage's last device has settled."),
    ("--min-requests", click.IntRange(0), "0", "How many requests a stage must have answered."),
    ("--stage-deadline", SOME_SECONDS, "604800", "After that a stage that is not done pauses."),
    ("--max-error-share", SHARE, "0.01", "Largest share of requests that may fail."),
    ("--max-p90-ms", MILLISECONDS, "0", "Largest 90th percentile of the latency; 0 for no limit."),
    ("--max-drift", NUMBER, "0.25", "Largest population stability index; 0 for no limit."),
    ("--min-accuracy", SHARE, "0", "Least share of right answers with feedback; 0 for no limit."),
    ("--min-feedback", click.IntRange(0), "0", "How many answers with feedback to wait for."),
)
# What else makes a plan; the criteria are known by their options.
_PLANNED = {
    "bundle", "rollout_id", "query", "stages", "approve_from", "on_failure", "windows",
    "comparable_by", "accepted_drift", "max_in_flight", "device_timeout", "gate_requests",
    "gate_seconds",
}  # fmt: skip
_OPTIONS = (
    click.option("--id", "rollout_id", help="Its name.  [default: BUNDLE-VERSION]"),
    click.option(
        "--group",
        "query",
        default="",
        metavar="QUERY",
        help="Which devices: 'site=berlin and ram>=1GB'.  [default: all]",
    ),
    click.option(
        "--stage",
        "stages",
        multiple=True,
        metavar="[NAME=]SIZE",
        help="A number of devices or a share such as 25%, counted from the first; repeatable.  "
        "[default: canary=1, 10%, 50%, 100%]",
    ),
    click.option(
        "--approve-from",
        metavar="STAGE",
        help="From this stage on, each waits for a second person.",
    ),
    click.option(
        "--on-failure",
        type=click.Choice(["rollback", "pause"]),
        default="rollback",
        show_default=True,
        help="What happens by itself when a stage fails.",
    ),
    click.option(
        "--window",
        "windows",
        multiple=True,
        metavar="WINDOW",
        help="When devices may be told: 'mon-fri 22:00-04:00 Europe/Berlin'; repeatable.",
    ),
    click.option(
        "--comparable-by",
        "comparable_by",
        multiple=True,
        metavar="LABEL",
        help="Every stage has the whole group's shares of this label: arch; repeatable.",
    ),
    click.option(
        "--accept-drift",
        "accepted_drift",
        multiple=True,
        metavar="FEATURE",
        help="A feature whose drift is known: input:light; repeatable.",
    ),
    click.option(
        "--max-in-flight", type=click.IntRange(0), default=0, help="Devices that update at a time."
    ),
    click.option(
        "--device-timeout",
        type=SOME_SECONDS,
        default=86_400.0,
        show_default=True,
        help="After that a device that was told counts as vanished.",
    ),
    click.option(
        "--gate-requests",
        type=click.IntRange(0),
        help="Of each device, before it counts as installed.  [default: 0]",
    ),
    click.option(
        "--gate-seconds",
        type=SECONDS,
        help="Of each device, before it counts as installed.  [default: 10]",
    ),
)


def plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options."""
    for name, kind, default, text in reversed(_CRITERIA):
        command = click.option(name, type=kind, help=f"{text}  [default: {default}]")(command)
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def require_plan_alone(context: click.Context) -> None:
    """Go on only if nothing was given that stands in the file of --plan.

    Raises:
        UsageError: If something was; all of it is named.
    """
    from click.core import ParameterSource

    from edgekit_runtime.errors import UsageError

    criteria = {name for name, *_ in _CRITERIA}
    given = [
        parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
        for parameter in context.command.params
        if parameter.name is not None
        and (parameter.opts[0] in criteria or parameter.name in _PLANNED)
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise UsageError(
            f"{', '.join(given)} would be overlooked: with --plan all of it is in the file",
            fix="leave it out, or change the file",
        )


def plan_of_options(
    bundle: str | None,
    *,
    by: str,
    now: float,
    rollout_id: str | None,
    query: str,
    stages: Sequence[str],
    approve_from: str | None,
    on_failure: str,
    windows: Sequence[str],
    comparable_by: Sequence[str],
    accepted_drift: Sequence[str],
    max_in_flight: int,
    device_timeout: float,
    gate_requests: int | None,
    gate_seconds: float | None,
    **criteria: Any,
) -> RolloutPlan:
    """The plan that the options describe.

    Raises:
        UsageError: If one of them cannot be read.
    """
    from edgekit.fleet.rollouts.plan import Criteria, OnFailure, RolloutPlan
    from edgekit.fleet.rollouts.windows import parse_window
    from edgekit_runtime.errors import UsageError
    from edgekit_runtime.orders import BundleOrder, Gates

    name, at, version = (bundle or "").partition("@")
    if not at:
        raise UsageError(
            f"{bundle!r} names no version" if bundle else "no bundle is named",
            fix="write it as NAME@VERSION, or give --plan FILE",
        )
    require_version(version)
    given = {key: value for key, value in criteria.items() if value is not None}
    if "stage_deadline" in given:
        given["deadline_seconds"] = given.pop("stage_deadline")
    made = _stages(stages or ("canary=1", "10%", "50%", "100%"), Criteria(**given), approve_from)
    gates = {"min_requests": gate_requests, "min_seconds": gate_seconds}
    chosen = Gates(**{key: value for key, value in gates.items() if value is not None})  # type: ignore[arg-type]
    return RolloutPlan(
        id=rollout_id or f"{name}-{version}".replace("+", "-")[:64],
        order=BundleOrder(bundle=name, version=version, gates=chosen),
        query=query,
        stages=made,
        created_by=by,
        created=now,
        comparable_by=tuple(comparable_by),
        on_failure=OnFailure(on_failure),
        windows=tuple(map(parse_window, windows)),
        device_timeout_seconds=device_timeout,
        max_in_flight=max_in_flight,
        accepted_drift=tuple(accepted_drift),
    )


def _stages(texts: Sequence[str], criteria: Any, approve_from: str | None) -> tuple[Stage, ...]:
    from edgekit.fleet.rollouts.plan import Stage
    from edgekit_runtime.errors import UsageError

    made: list[Stage] = []
    approval = False
    for text in texts:
        name, equals, size = text.rpartition("=")
        try:
            percent = PERCENT(size[:-1]) if size.endswith("%") else None
            count = None if percent is not None else click.IntRange(1)(size)
        except (ValueError, click.BadParameter) as error:
            raise UsageError(
                f"{text!r} is no stage", fix="write it as 5, 25% or canary=5"
            ) from error
        named = name if equals else text
        approval = approval or named == approve_from
        made.append(
            Stage(
                name=named,
                count=count,
                percent=percent,
                criteria=criteria,
                needs_approval=approval,
            )
        )
    if approve_from is not None and not approval:
        raise UsageError(
            f"there is no stage {approve_from!r}",
            fix=f"there are: {', '.join(stage.name for stage in made)}",
        )
    return tuple(made)
