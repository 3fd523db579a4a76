"""Options that several fleet commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.wording import plural

if TYPE_CHECKING:
    from edgekit.fleet.folder import BrokerAddress, Fleet
    from edgekit.fleet.folder_changes import FolderChange
    from edgekit.fleet.store.database import Database

fleet_option = click.option(
    "--fleet",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("fleet"),
    show_default=True,
    envvar="EDGEKIT_FLEET",
    show_envvar=True,
    metavar="FOLDER",
    help="The fleet's folder, as `edgekit fleet init` made it.",
)
passphrase_option = click.option(
    "--passphrase",
    envvar="EDGEKIT_PASSPHRASE",
    show_envvar=True,
    help="Of the offline keys. Better given in the variable: a command line can be seen by others.",
)
broker_option = click.option(
    "--broker",
    metavar="ADDRESS",
    envvar="EDGEKIT_BROKER",
    show_envvar=True,
    help="The MQTT broker: HOST:PORT, or mqtts://HOST:PORT with TLS (?login=FILE for a password, "
    "?ca=, certificate=, key= for other files than the fleet's).  [default: the one published to "
    "last]",
)
database_option = click.option(
    "--database",
    envvar="EDGEKIT_DATABASE",
    show_envvar=True,
    metavar="URL",
    help="postgresql://… or a SQLite file.  [default: fleet.db in the fleet's folder]",
)


def how_the_broker_hears(fleet: Fleet, path: Path) -> str:
    """What a person has still to do after a file of the broker has changed, in one sentence."""
    if fleet.broker_command:
        return f"The broker was told by {fleet.broker_command[0]}."
    from edgekit.fleet.broker_changes import RUNNER

    return (
        f"A mosquitto that {RUNNER} has started hears of it by itself; for another, carry "
        f"{path} to the broker and send mosquitto a SIGHUP, or name a command that does "
        "([broker_files] in fleet.toml)."
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@contextlib.contextmanager
def opened_database(folder: Path, address: str | None) -> Iterator[tuple[Fleet, Database]]:
    """The fleet in a folder and its database, which is closed at the end."""
    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.store.database import open_fleet_database

    fleet = Fleet.open(folder)
    database = open_fleet_database(fleet, address)
    try:
        yield fleet, database
    finally:
        database.close()


def log_change(fleet: Fleet, address: str | None, change: FolderChange) -> None:
    """Write what was changed in the fleet's folder into the audit log, now or when that is there.

    The change is made, and some machines that release have no database: it is noted beside it.
    """
    from edgekit.cli.render import say
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.folder_changes import note_change
    from edgekit.fleet.store.database import open_fleet_database
    from edgekit_runtime.errors import EdgekitError

    note_change(fleet, change, actor=local_actor())
    try:
        open_fleet_database(fleet, address).close()
    except EdgekitError as error:
        say(
            f"not in the audit log yet: {error.what}. It is noted in the fleet's folder; the next "
            "command that opens the database takes it in"
        )


def broker_address(opened: Fleet, text: str | None) -> BrokerAddress:
    """The broker that is named, or the one published to last."""
    from edgekit.fleet.broker_address import parse_broker
    from edgekit_runtime.errors import UsageError

    if text is None:
        if opened.broker is None:
            raise UsageError(
                "nothing was published yet, so the broker is not known",
                where=str(opened.path),
                fix="give --broker HOST:PORT, or mqtts://HOST:PORT",
            )
        return opened.broker
    return parse_broker(text, fleet=opened.path)


def broker_if_known(opened: Fleet, text: str | None) -> BrokerAddress | None:
    """The broker that is named, or the one published to last; None before anything was."""
    return broker_address(opened, text) if text or opened.broker else None


def what_begins(database: Database, query: str) -> str:
    """What comes next for something that `fleet serve` tells the devices of a query."""
    from edgekit.fleet.devices.inventory import Inventory
    from edgekit.fleet.service.single import who_works

    found = len(Inventory(database, actor="cli").find(query))
    matching = plural(found, "device matches", "devices match")
    working = who_works(database)
    next_step = f"{working} tells them" if working else "Next: edgekit fleet serve"
    return f"{matching} now. {next_step}"


def require_version(text: str) -> str:
    """The text, if it is a semantic version.

    Raises:
        UsageError: If it is none.
    """
    from edgekit_runtime.versions import Version

    Version.parse(text)
    return text


def parse_labels(texts: tuple[str, ...]) -> dict[str, str]:
    """Labels that were written as NAME=VALUE.

    Raises:
        UsageError: If some are not; all of them are named.
    """
    from edgekit_runtime.errors import UsageError

    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise UsageError(f"no label: {', '.join(wrong)}", fix="write labels as NAME=VALUE")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}
