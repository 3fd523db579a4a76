"""`edgekit fleet rollout`: a version to many devices, in stages that watch the model."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.fleet_options import (
    broker_address,
    broker_if_known,
    broker_option,
    database_option,
    fleet_option,
    json_option,
    opened_database,
)
from edgekit.cli.interrupting import interruptible
from edgekit.cli.render import emit_json, say, table
from edgekit.cli.rollout_options import plan_of_options, plan_options, require_plan_alone
from edgekit.wording import plural

if TYPE_CHECKING:
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.rollouts.plan import RolloutPlan
    from edgekit.fleet.rollouts.state import Decision, RolloutState
    from edgekit.fleet.rollouts.store import StoredRollout
    from edgekit.fleet.store.database import Database

_Decide = Callable[["RolloutPlan", "RolloutState", float], "RolloutState"]
by_option = click.option(
    "--by", default=getpass.getuser, metavar="NAME", help="Who decides.  [default: your login]"
)
reason_option = click.option("--reason", default="", help="Why; it stands in the record.")


def _change_options(command: Callable[..., None]) -> Callable[..., None]:
    """Where the rollout is; `_change` takes them."""
    for option in (json_option, database_option, fleet_option):
        command = option(command)
    return command


@click.group()
def rollout() -> None:
    """Bring a version to many devices in stages, and stop when the model goes wrong.

    The first stage is the canary. A stage begins when the one before has kept its criteria: what
    was installed, errors, latency, drift. When one fails, the devices that were told go back to
    what they ran before. Rollouts are in the fleet's database: `edgekit fleet serve` drives them
    and shows them on its page, and so does `run`. Either may be killed at any time, and goes on
    where it was.
    """


@rollout.command()
@click.argument("bundle", required=False)
@plan_options
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Take everything from a JSON file instead, as `status --json` shows it.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan, and do nothing.")
@click.option("--no-run", is_flag=True, help="Make the rollout; `run` or `fleet serve` drives it.")
@by_option
@fleet_option
@database_option
@broker_option
@json_option
@click.pass_context
def start(
    context: click.Context,
    /,
    bundle: str | None,
    plan_file: Path | None,
    dry_run: bool,
    no_run: bool,
    by: str,
    folder: Path,
    database: str | None,
    broker: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Roll BUNDLE out, given as NAME@VERSION, and drive it to its end.

    \b
    edgekit fleet rollout start digits@2.0.0 --group "site=berlin and ram>=1GB" \\
        --stage canary=5 --stage 25% --stage 100% --min-seconds 3600 --min-requests 1000
    """
    from edgekit.fleet.installable import require_installable
    from edgekit.fleet.rollouts.plan import check_plan, plan_from_json
    from edgekit.fleet.store.rollouts import RolloutTable
    from edgekit_runtime.errors import UsageError

    if plan_file is not None:
        require_plan_alone(context)
        try:
            document = json.loads(plan_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(
                f"the plan is no JSON: {error}",
                where=str(plan_file),
                fix="write one: edgekit fleet rollout start NAME@VERSION --dry-run > plan.json",
            ) from error
        plan = plan_from_json(document, where=str(plan_file))
    else:
        plan = check_plan(plan_of_options(bundle, by=by, now=time.time(), **options))
    if dry_run:
        emit_json(plan.to_json())
        return
    with opened_database(folder, database) as (fleet, opened):
        address = broker_if_known(fleet, broker)
        require_installable(fleet, plan.bundle, [plan.version], broker=address)
        RolloutTable(opened).create(plan)
        if not as_json:
            stages = ", ".join(f"{stage.name} ({stage.size})" for stage in plan.stages)
            click.echo(f"rollout {plan.id}: {plan.bundle} {plan.version}, stages {stages}")
        if not no_run:
            _drive(fleet, opened, plan.id, broker, as_json=as_json)
        elif as_json:
            emit_json(_json(opened, plan.id))


@rollout.command()
@click.argument("name")
@fleet_option
@database_option
@broker_option
@json_option
def run(name: str, folder: Path, database: str | None, broker: str | None, as_json: bool) -> None:
    """Stay with the rollout NAME until it is over or Ctrl-C, and drive it on from where it is.

    While `edgekit fleet serve` or another `run` works for the fleet, that one drives it; this one
    shows how it goes, and takes over when the other ends.
    """
    with opened_database(folder, database) as (fleet, opened):
        _drive(fleet, opened, name, broker, as_json=as_json)


@rollout.command()
@click.argument("name", required=False)
@fleet_option
@database_option
@json_option
def status(name: str | None, folder: Path, database: str | None, as_json: bool) -> None:
    """Show all rollouts, or how the stages and devices of NAME are."""
    from edgekit.fleet.store.rollouts import RolloutTable

    with opened_database(folder, database) as (_, opened):
        if name is not None:
            if as_json:
                emit_json(_json(opened, name))
            else:
                _show(RolloutTable(opened).load(name))
            return
        found = [_short(stored) for stored in RolloutTable(opened).all()]
    if as_json:
        emit_json(found)
        return
    rows = [[str(value) for value in item.values()] for item in found]
    head = ["rollout", "bundle", "version", "phase", "stage", "reason"]
    none = "No rollout yet. Make one: edgekit fleet rollout start NAME@VERSION"
    click.echo(table(rows, head=head, none=none))


@rollout.command()
@click.argument("name")
@by_option
@reason_option
@_change_options
def pause(name: str, by: str, reason: str, **place: Any) -> None:
    """Tell no further device; those that were told go on."""
    from edgekit.fleet.rollouts import commands

    _change(name, lambda plan, state, now: commands.pause(
        plan, state, who=by, now=now, reason=reason), **place)  # fmt: skip


@rollout.command()
@click.argument("name")
@click.option("--accept", is_flag=True, help="Overrule the criteria of the stages so far.")
@by_option
@_change_options
def resume(name: str, accept: bool, by: str, **place: Any) -> None:
    """Go on after a pause. What made a stage fail pauses it again, unless you --accept it."""
    from edgekit.fleet.rollouts import commands

    _change(name, lambda plan, state, now: commands.resume(
        plan, state, who=by, now=now, accept=accept), **place)  # fmt: skip


@rollout.command()
@click.argument("name")
@click.option("--stage", help="Which.  [default: the next that waits for approval]")
@by_option
@_change_options
def approve(name: str, stage: str | None, by: str, **place: Any) -> None:
    """Approve a stage that waits for a second person; nobody approves their own rollout."""
    from edgekit.fleet.rollouts import commands
    from edgekit_runtime.errors import UsageError

    def decide(plan: RolloutPlan, state: RolloutState, now: float) -> RolloutState:
        names = [item.name for item in plan.stages]
        if stage is not None and stage not in names:
            raise UsageError(f"there is no stage {stage!r}", fix=f"there are: {', '.join(names)}")
        number = None if stage is None else names.index(stage)
        return commands.approve(plan, state, who=by, now=now, stage=number)

    _change(name, decide, **place)


@rollout.command()
@click.argument("name")
@by_option
@reason_option
@_change_options
def abort(name: str, by: str, reason: str, **place: Any) -> None:
    """End the rollout where it stands: devices keep what they were told."""
    from edgekit.fleet.rollouts import commands

    _change(name, lambda plan, state, now: commands.abort(
        plan, state, who=by, now=now, reason=reason), **place)  # fmt: skip


@rollout.command()
@click.argument("name")
@by_option
@reason_option
@fleet_option
@database_option
@broker_option
@json_option
def stop(
    name: str,
    by: str,
    reason: str,
    folder: Path,
    database: str | None,
    broker: str | None,
    as_json: bool,
) -> None:
    """Emergency stop: every device that was told goes back, at once, whatever the hour.

    Also after the rollout was completed. If no process drives the rollout, this one does.
    """
    from edgekit.fleet.rollouts import commands
    from edgekit.fleet.service.single import who_works

    with opened_database(folder, database) as (fleet, opened):
        _decide(opened, name, lambda plan, state, now: commands.stop(
            plan, state, who=by, now=now, reason=reason), as_json=as_json)  # fmt: skip
        working = who_works(opened)
        if not working:
            _drive(fleet, opened, name, broker, as_json=as_json, wanted="rolled_back")
            return
        say(f"{working} works for the fleet and tells the devices")
        if as_json:
            emit_json(_json(opened, name))


def _drive(
    fleet: Fleet,
    database: Database,
    name: str,
    broker: str | None,
    *,
    as_json: bool,
    wanted: str = "completed",
) -> None:
    from edgekit.fleet.rollouts.engine import is_finished
    from edgekit.fleet.rollouts.state import ENDED
    from edgekit.fleet.service.single import drive_rollout, who_works
    from edgekit.fleet.store.rollouts import RolloutTable
    from edgekit_runtime.errors import GateFailedError

    def tell(_plan: RolloutPlan, decision: Decision) -> None:
        if not as_json:
            moment = time.strftime("%H:%M:%S", time.localtime(decision.time))
            click.echo(f"{moment}  {decision.what}  {decision.reason}".rstrip())

    before = RolloutTable(database).load(name).state
    address = broker_address(fleet, broker)
    working = who_works(database)
    if is_finished(before):
        say(f"rollout {name} is {before.phase.words} already")
    elif working:
        say(f"{working} drives rollout {name}; Ctrl-C ends only the watching")
    else:
        say(f"driving rollout {name} at {address}; Ctrl-C leaves it as it is, `run` goes on")
    with interruptible() as interrupted:
        state = drive_rollout(
            fleet, database, name, address, goes_on=lambda: not interrupted(), on_decision=tell
        )
    failed = state.phase in ENDED and state.phase.value != wanted
    if as_json:
        emit_json(_json(database, name))
        if failed:
            # Why stands in what was printed: a second document would spoil the first.
            click.get_current_context().exit(GateFailedError.exit_code)
    elif failed:
        raise GateFailedError(
            f"the rollout is {state.phase.words}: {state.reason}",
            where=name,
            fix=f"edgekit fleet rollout status {name}",
        )
    elif state.phase not in ENDED:
        say(f"rollout {name} is {state.phase.words}; go on: edgekit fleet rollout run {name}")


def _change(
    name: str, decide: _Decide, *, folder: Path, database: str | None, as_json: bool
) -> None:
    with opened_database(folder, database) as (_, opened):
        _decide(opened, name, decide, as_json=as_json)
        if as_json:
            emit_json(_json(opened, name))


def _decide(database: Database, name: str, decide: _Decide, *, as_json: bool) -> None:
    """Change a rollout; people are told at once, programs get the whole of it at the end."""
    from edgekit.fleet.rollouts.driving import change_rollout
    from edgekit.fleet.store.rollouts import RolloutTable

    stored = change_rollout(RolloutTable(database), name, lambda p, s: decide(p, s, time.time()))
    if not as_json:
        last, phase = stored.state.decisions[-1], stored.state.phase.words
        click.echo(f"{name}: {last.what}, by {last.who}; it is {phase} now")


def _short(stored: StoredRollout) -> dict[str, object]:
    plan, state = stored.plan, stored.state
    return {
        "rollout": plan.id,
        "bundle": plan.bundle,
        "version": plan.version,
        "phase": state.phase.value,
        "stage": plan.stages[state.stage].name,
        "reason": state.reason,
    }


def _json(database: Database, name: str) -> dict[str, object]:
    from edgekit.fleet.store.rollouts import RolloutTable

    stored = RolloutTable(database).load(name)
    return {
        "plan": stored.plan.to_json(),
        "state": stored.state.to_json(),
        "revision": stored.revision,
    }


def _show(stored: StoredRollout) -> None:
    from edgekit.fleet.rollouts.selection import stage_bounds

    plan, state = stored.plan, stored.state
    click.echo(
        f"rollout {plan.id} of {plan.bundle} {plan.version}, made by {plan.created_by}: "
        f"{state.phase.words}" + (f", {state.reason}" if state.reason else "")
    )
    click.echo(f"group: {plan.query or 'all devices'} ({plural(len(state.members), 'device')})\n")
    bounds = stage_bounds(plan.stages, len(state.members))
    rows = []
    for number, stage in enumerate(plan.stages):
        counts: dict[str, int] = {}
        for device in state.devices.values():
            if device.stage == number:
                counts[device.status.value] = counts.get(device.status.value, 0) + 1
        waits = stage.needs_approval and number not in state.approvals
        rows.append(
            [
                ("> " if number == state.stage else "  ") + stage.name,
                stage.size,
                str(bounds[number]),
                ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
                or ("waits for approval" if waits else "-"),
            ]
        )
    click.echo(table(rows, head=["  stage", "size", "devices so far", "how they are"]))
    click.echo()
    for decision in state.decisions[-10:]:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(decision.time))
        line = f"{moment}  {decision.who}: {decision.what}  {decision.reason}"
        click.echo(line.rstrip())
