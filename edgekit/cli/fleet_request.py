"""`edgekit fleet request`: ask devices for something, and see what they answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekit.cli.amounts import SECONDS, SOME_HOURS
from edgekit.cli.fleet_options import (
    broker_if_known,
    broker_option,
    database_option,
    fleet_option,
    json_option,
    opened_database,
    require_version,
)
from edgekit.cli.interrupting import interruptible
from edgekit.cli.render import emit_json, moment, say, size, table
from edgekit.wording import plural

if TYPE_CHECKING:
    from edgekit.fleet.devices.requests import Asked, RequestBook
    from edgekit.fleet.store.database import Database

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _asking_options(command: _Command) -> _Command:
    for option in (
        json_option,
        broker_option,
        database_option,
        fleet_option,
        click.option(
            "--hours",
            type=SOME_HOURS,
            default=24.0,
            show_default=True,
            help="Then it is void: a device that comes back later is not asked any more.",
        ),
        click.option(
            "--wait",
            type=SECONDS,
            default=60.0,
            show_default=True,
            help="For the answers; 0 for not at all.",
        ),
    ):
        command = option(command)
    return command


@click.group()
def request() -> None:
    """Ask devices for something: measure a bundle, send logs or samples, restart, renew.

    DEVICES is the id of one device, or a label query: "site=berlin and online=yes". Each request is
    signed for its device, and followed once. A device that is away is asked when it comes back,
    by `edgekit fleet serve`.
    """


@request.command()
@click.argument("devices")
@click.argument("bundle")
@_asking_options
def bench(devices: str, bundle: str, **options: Any) -> None:
    """Have DEVICES measure BUNDLE, which they serve (NAME), or have (NAME@VERSION).

    `edgekit bench MODEL --device ID` does so for one device, and puts the prediction beside it.
    """
    name, at, version = bundle.partition("@")
    arguments = {"bundle": name} | ({"version": require_version(version)} if at else {})
    _ask(devices, "bench", arguments, **options)


@request.command()
@click.argument("devices")
@click.option(
    "--lines",
    type=click.IntRange(1, 1_000),
    default=200,
    show_default=True,
    help="How many at most.",
)
@_asking_options
def logs(devices: str, lines: int, **options: Any) -> None:
    """Have DEVICES send the last lines of their agents' logs."""
    _ask(devices, "logs", {"lines": lines}, **options)


@request.command()
@click.argument("devices")
@click.option(
    "--most", type=click.IntRange(1, 1_000), default=10, show_default=True, help="How many at most."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write them into this folder, one for each device.",
)
@_asking_options
def samples(devices: str, most: int, output: Path | None, **options: Any) -> None:
    """Have DEVICES send their newest samples of what people asked their models.

    A device sends none unless its owner allowed it: [samples] allow in its agent.toml. What comes
    is kept in the fleet's database as long as `edgekit fleet retention` says.
    """
    _ask(devices, "samples", {"most": most}, output=output, **options)


@request.command()
@click.argument("devices")
@click.option("--agent", is_flag=True, help="The whole agent, where systemd starts it again.")
@_asking_options
def restart(devices: str, agent: bool, **options: Any) -> None:
    """Have DEVICES restart their servers, which refuses no request of an application."""
    _ask(devices, "restart", {"what": "agent" if agent else "server"}, **options)


@request.command()
@click.argument("devices")
@_asking_options
def renew(devices: str, **options: Any) -> None:
    """Have DEVICES ask for a new certificate for the key that they have, and give it to them.

    Devices do so by themselves when two thirds of a certificate's time are over.
    """
    _ask(devices, "renew", {}, **options)


@request.command("list")
@click.argument("devices", default="")
@click.option("--all", "also_over", is_flag=True, help="Those that are over, too.")
@fleet_option
@database_option
@json_option
def list_(devices: str, also_over: bool, folder: Path, database: str | None, as_json: bool) -> None:
    """List requests that wait for a device or its answer, of all devices or of DEVICES.

    At most 1,000: of those that wait the oldest, of --all the newest.
    """
    from edgekit.fleet.devices.requests import RequestBook

    with opened_database(folder, database) as (_, opened):
        book = RequestBook(opened, actor="cli")
        read = book.newest if also_over else book.open
        found = read(most=1_000, devices=_meant(opened, devices) if devices else None)
    now = time.time()
    if as_json:
        emit_json([item.to_json(now) for item in found])
        return
    click.echo(_listing(found, now))


@request.command()
@click.argument("device")
@click.argument("number", type=int)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the samples of the answer into this folder.",
)
@fleet_option
@database_option
@json_option
def show(
    device: str,
    number: int,
    output: Path | None,
    folder: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Show a request and what DEVICE answered."""
    from edgekit.fleet.devices.requests import RequestBook

    with opened_database(folder, database) as (_, opened):
        book = RequestBook(opened, actor="cli")
        _show(book, [book.get(device, number)], output=output, as_json=as_json)


@request.command()
@click.argument("device")
@click.argument("number", type=int)
@fleet_option
@database_option
@json_option
def withdraw(device: str, number: int, folder: Path, database: str | None, as_json: bool) -> None:
    """Take back what DEVICE is asked for; what it has already, it does."""
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.devices.requests import RequestBook

    with opened_database(folder, database) as (_, opened):
        done = RequestBook(opened, actor=local_actor()).withdraw(device, number)
    if as_json:
        emit_json(done.to_json(time.time()))
        return
    click.echo(f"{done.device}: request {number} withdrawn")


def _ask(
    devices: str,
    kind: str,
    arguments: dict[str, Any],
    *,
    hours: float,
    wait: float,
    folder: Path,
    database: str | None,
    broker: str | None,
    as_json: bool,
    output: Path | None = None,
) -> None:
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.devices.requests import RequestBook
    from edgekit.fleet.service.attending import attend
    from edgekit_runtime.requests import RequestKind

    with opened_database(folder, database) as (fleet, opened):
        book = RequestBook(opened, actor=local_actor())
        asked = book.ask_all(_meant(opened, devices), RequestKind(kind), arguments, hours=hours)
        say(f"asked {plural(len(asked), 'device')} for {kind}")
        if wait > 0:
            address = broker_if_known(fleet, broker)
            with interruptible() as interrupted:
                asked = list(
                    attend(
                        fleet,
                        opened,
                        asked,
                        broker=address,
                        seconds=wait,
                        progress=_Progress(asked).show,
                        goes_on=lambda: not interrupted(),
                    )
                )
        _show(book, asked, output=output, as_json=as_json)
        waiting = sum(item.answered is None for item in asked)
        if waiting:
            what = plural(waiting, "answer is", "answers are")
            say(f"{what} still to come; see: edgekit fleet request list")


def _meant(database: Database, devices: str) -> list[str]:
    """The ids of those that are meant: one at least."""
    from edgekit.fleet.devices.inventory import Inventory
    from edgekit_runtime.errors import UsageError

    found = [device.id for device in Inventory(database, actor="cli").meant(devices)]
    if not found:
        raise UsageError(f"no device matches {devices!r}", fix="see: edgekit fleet devices list")
    return found


class _Progress:
    """Says when another device has answered."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        self._open = {(item.device, item.number) for item in asked}
        self._sent: set[tuple[str, int]] = set()

    def show(self, standing: Sequence[Asked]) -> None:
        """Tell what is new."""
        for item in standing:
            place = (item.device, item.number)
            if item.sent is not None and place not in self._sent:
                self._sent.add(place)
                say(f"{item.device}: sent")
            if item.answered is not None and place in self._open:
                self._open.discard(place)
                say(f"{item.device}: {item.standing(time.time())}")


def _show(book: RequestBook, asked: Sequence[Asked], *, output: Path | None, as_json: bool) -> None:
    from edgekit.fleet.devices.requests import samples_in

    now = time.time()
    answers = [book.answer(item.device, item.number) for item in asked]
    files = {item.device: samples_in(parts) for item, parts in zip(asked, answers, strict=True)}
    written = _write(files, output) if output else []
    if as_json:
        emit_json(
            [
                item.to_json(now) | {"answer": list(parts)}
                for item, parts in zip(asked, answers, strict=True)
            ]
        )
    else:
        for item, parts in zip(asked, answers, strict=True):
            for part in parts:
                _show_part(item.device, part)
        click.echo(_listing(asked, now))
        for path in written:
            click.echo(f"wrote {path}")
    _fail_where_refused(asked, answers, as_json=as_json)


def _show_part(device: str, part: dict[str, Any]) -> None:
    match part:
        case {"lines": list(lines)}:
            for line in lines:
                click.echo(f"{device}  {line}")
        case {"sample": str(name), "piece": 0}:
            click.echo(f"{device}  sample {name}")
        case {"median_ms": float() | int() as median, "bundle": bundle, "version": version}:
            peak = part.get("peak_bytes")
            memory = f", {size(peak)} at most" if isinstance(peak, int) and peak else ""
            click.echo(
                f"{device}  {bundle} {version}, {part.get('variant')}, {part.get('runtime')}, "
                f"{plural(part.get('threads', 1), 'thread')}: {median:.3g} ms (measured on that "
                f"device){memory}"
            )
        case {"error": error}:
            click.echo(f"{device}  {error}")


def _listing(asked: Sequence[Asked], now: float) -> str:
    rows = [
        [
            item.device,
            str(item.number),
            item.kind.value,
            item.standing(now),
            item.created_by,
            moment(item.created),
            moment(item.sent, none="not yet"),
            moment(item.answered),
            moment(item.expires),
        ]
        for item in asked
    ]
    head = ["device", "number", "what", "is", "asked by", "at", "sent", "answered", "void after"]
    return table(rows, head=head, none="No request.")


def _write(files: dict[str, dict[str, bytes]], output: Path) -> list[Path]:
    from edgekit_runtime.durable import write_bytes

    written = []
    for device, samples_ in files.items():
        for name, data in samples_.items():
            path = output / device / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data)
            written.append(path)
    return written


def _fail_where_refused(
    asked: Sequence[Asked], answers: Sequence[Sequence[Any]], *, as_json: bool
) -> None:
    """Exit code 1 where a device said no; that one is away is no failure."""
    from edgekit_runtime.errors import GateFailedError

    for item, parts in zip(asked, answers, strict=True):
        if item.ok is False and item.answered is not None:
            if as_json:
                # It stands in what was printed: a second document would spoil the first.
                click.get_current_context().exit(1)
            reasons = [str(part["error"]) for part in parts if "error" in part]
            raise GateFailedError(
                f"{item.device} did not do it: {reasons[0] if reasons else 'no reason given'}",
                where=f"request {item.number}",
            )
