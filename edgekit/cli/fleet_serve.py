"""`edgekit fleet serve`: the control plane, its API and its page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.fleet_options import (
    broker_address,
    broker_if_known,
    broker_option,
    database_option,
    fleet_option,
    opened_database,
)

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8470,
    show_default=True,
    help="0 takes any free one.",
)
@click.option(
    "--tls-certificate", type=click.Path(path_type=Path, dir_okay=False), help="PEM, for HTTPS."
)
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), help="PEM.")
@click.option("--page-only", is_flag=True, help="Hear no devices and drive no rollouts.")
@click.option(
    "--share",
    is_flag=True,
    help="Share measurements and events with other replicas, each hears a part ($share of MQTT 5). "
    "Give it to all of them, or to none.",
)
@fleet_option
@database_option
@broker_option
def serve(
    host: str,
    port: int,
    tls_certificate: Path | None,
    tls_key: Path | None,
    page_only: bool,
    share: bool,
    folder: Path,
    database: str | None,
    broker: str | None,
) -> None:
    """Run the control plane until Ctrl-C: hear devices, drive rollouts, show the page.

    Several may run for one fleet, with one PostgreSQL and one folder: each answers, and one at a
    time drives rollouts, also those of `edgekit fleet rollout`. The API is under /api/v1, its
    description at /api/v1/openapi.json, figures for Prometheus at /metrics.
    """
    import contextlib
    import signal
    import threading

    from edgekit.fleet.api.control_plane import ControlPlane
    from edgekit.fleet.api.serving import PageServer
    from edgekit.fleet.service.leading import FleetService, ServiceSettings
    from edgekit.fleet.service.sharing import SharedHearing
    from edgekit_runtime.errors import UsageError

    if page_only and share:
        raise UsageError("--page-only hears no devices: it has nothing to share")

    with opened_database(folder, database) as (fleet, opened):
        work: list[Callable[[Callable[[], bool]], None]] = []
        if not page_only:
            address = broker_address(fleet, broker)
            settings = ServiceSettings(shares=share)
            work.append(FleetService(fleet, opened, address, settings=settings).run)
            if share:
                work.append(SharedHearing(fleet, opened, address).run)
        server = PageServer(
            ControlPlane(fleet=fleet, database=opened, broker=broker_if_known(fleet, broker)),
            host=host,
            port=port,
            certificate=tls_certificate,
            key=tls_key,
        )
        stopping = threading.Event()
        failures: list[BaseException] = []

        def work_until_stopped(run: Callable[[Callable[[], bool]], None]) -> None:
            try:
                run(lambda: not stopping.is_set())
            except BaseException as error:  # noqa: BLE001 - raised below, once all has ended
                # A page of a fleet for which nobody works would look as if all were well.
                failures.append(error)
                server.stop()

        threads = [
            threading.Thread(target=work_until_stopped, args=[run], name="service") for run in work
        ]
        for thread in threads:
            thread.start()
        try:
            scheme = "https" if tls_certificate else "http"
            click.echo(f"{scheme}://{server.address}; Ctrl-C ends it")
            _offer_token(opened)
            # uvicorn ends in good order, and then raises the signal again that made it end.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with contextlib.suppress(KeyboardInterrupt):
                server.run()
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
    if failures:
        raise failures[0]
    click.echo("Stopped.", err=True)


def _offer_token(database: Database) -> None:
    """Make the first admin's token where nobody could sign in, for the person at the terminal."""
    import sys

    from edgekit.fleet.access import Role, create_token, has_admin, local_actor

    if has_admin(database):
        return
    if not sys.stdout.isatty():
        # A journal or a container's log keeps what is printed, and others read it.
        click.echo("No admin has a token. Make one: edgekit fleet token create NAME admin")
    else:
        _, text = create_token(
            database, name=local_actor(), role=Role.ADMIN, days=90, actor=local_actor()
        )
        click.echo(f"No admin has a token. Yours, shown once: {text}")
