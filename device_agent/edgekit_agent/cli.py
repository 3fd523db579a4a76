"""The `edgekit-agent` command: make, check, run and ask an agent."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from edgekit_agent.cli_batch import batch
from edgekit_agent.cli_identity import enrol
from edgekit_agent.cli_install import install, uninstall
from edgekit_agent.cli_options import http_port_option, json_option, new_folder_option
from edgekit_agent.cli_storage import storage_key
from edgekit_runtime.console import run_command
from edgekit_runtime.errors import GateFailedError

_MEGABYTE: Final = 1 << 20

_config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("agent.toml"),
    show_default=True,
    help="The agent's configuration.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="edgekit", prog_name="edgekit-agent")
def cli(*, debug: bool) -> None:
    """Run models on this device, and keep them up to date safely.

    \b
    An agent lives in a folder of its own:
      1. edgekit-agent init --device cam-7 --fleet plant --broker 10.0.0.5:1883 \\
           --image-root image-root.json --director-root director-root.json --folder agent
      2. edgekit-agent check --config agent/agent.toml
      3. edgekit-agent run --config agent/agent.toml
      4. edgekit-agent status --config agent/agent.toml

    Nothing is installed that is not signed by the keys behind the two roots, and nothing goes
    live that does not compute on this device what was tested.
    """


@cli.command()
@click.option("--device", required=True, help="This device's id within its fleet.")
@click.option("--fleet", required=True, help="The fleet's id.")
@click.option("--broker", required=True, metavar="HOST:PORT", help="The MQTT broker.")
@click.option(
    "--image-root",
    required=True,
    type=click.Path(path_type=Path),
    help="The image repository's root.json.",
)
@click.option(
    "--director-root",
    required=True,
    type=click.Path(path_type=Path),
    help="The director's root.json.",
)
@new_folder_option
@http_port_option
@json_option
def init(
    *,
    device: str,
    fleet: str,
    broker: str,
    image_root: Path,
    director_root: Path,
    folder: Path,
    http_port: int,
    as_json: bool,
) -> None:
    """Make an agent's folder: its agent.toml, and copies of its roots of trust."""
    from edgekit_agent.provision import create_agent, split_address

    host, port = split_address(broker)
    path = create_agent(
        folder,
        device=device,
        fleet=fleet,
        broker_host=host,
        broker_port=port,
        image_root=image_root,
        director_root=director_root,
        http_port=http_port,
    )
    if as_json:
        click.echo(json.dumps({"config": str(path)}))
    else:
        click.echo(f"wrote {path}\nnext: edgekit-agent run --config {path}")


@cli.command()
@_config_option
def run(*, config_path: Path) -> None:
    """Run the agent until it is told to stop (Ctrl-C or SIGTERM).

    It logs to standard error, one JSON object a line.
    """
    from edgekit_agent.config import load_config
    from edgekit_agent.supervise import become_supervisor
    from edgekit_runtime.extras import require

    load_config(config_path)
    require("paho.mqtt.client", extra="agent")
    become_supervisor(config_path, debug="--debug" in sys.argv)


@cli.command()
@_config_option
@json_option
def status(*, config_path: Path, as_json: bool) -> None:
    """Say what the agent runs, as it last wrote it down; asks neither network nor agent."""
    from edgekit_agent.config import load_config
    from edgekit_agent.status import read_status

    document = read_status(load_config(config_path).status_file)
    click.echo(json.dumps(document, indent=1) if as_json else _render_status(document))


@cli.command()
@_config_option
@json_option
def check(*, config_path: Path, as_json: bool) -> int:
    """Check what the agent needs: configuration, roots, folder, port, runtimes.

    It looks at the packages of the runtimes and does not run them, and it does not ask the broker.
    Exit code 1 if something is missing.
    """
    from dataclasses import asdict

    from edgekit_agent.provision import check_agent

    findings = check_agent(config_path)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name}: {finding.detail}")
            if finding.fix:
                click.echo(f"     fix: {finding.fix}")
    return 0 if all(finding.ok for finding in findings) else GateFailedError.exit_code


cli.add_command(batch)
cli.add_command(enrol)
cli.add_command(install)
cli.add_command(storage_key)
cli.add_command(uninstall)


def main() -> NoReturn:
    """Run the command line and exit."""
    run_command(cli, name="edgekit-agent")


def _render_status(document: dict[str, Any]) -> str:
    state = document["state"]
    lines = [
        f"{state['device']}: {'running' if document['running'] else 'not running'}, "
        f"{'connected' if document['connected'] else 'not connected ' + document['connection']}",
        f"  models   http://{document['host']}:{document['port']}/v2"
        f"{'' if document['ready'] else ' (not ready)'}",
        f"  order    version {state['order_version']}",
        f"  memory   supervisor {document['supervisor_rss_bytes'] / _MEGABYTE:.1f} MB, "
        f"server {document['server_rss_bytes'] / _MEGABYTE:.1f} MB "
        "(resident, as the agent last measured it)",
    ]
    for name, bundle in state["bundles"].items():
        serves = f"{bundle['active']} ({bundle['variant']})" if bundle["active"] else "nothing"
        lines.append(f"  {name}: {bundle['phase']}, serves {serves}")
        lines += [
            f"    {label:9} {bundle[label]}"
            for label in ("candidate", "previous", "reason")
            if bundle[label]
        ]
        if shadow := bundle.get("shadow"):
            because = f" ({shadow['reason']})" if shadow["reason"] else ""
            lines.append(
                f"    {'beside':9} {shadow['version']}: {shadow['phase']}{because}, "
                f"run {shadow['run']}"
            )
    if document["journal"]:
        lines.append(f"  journal  {document['journal']}")
    if document.get("storage"):
        lines.append(f"  storage  {document['storage']}")
    telemetry = document["telemetry"]
    lines.append(
        f"  reports  {telemetry['waiting']} windows wait, {telemetry['dropped']} were dropped"
        + (f"; {telemetry['trouble']}" if telemetry["trouble"] else "")
    )
    lines += [
        f"  drift    {bundle} {feature}: PSI {drift['psi']:.2f}, "
        f"KS {drift['kolmogorov_smirnov']:.2f}"
        for bundle, features in telemetry["drift"].items()
        for feature, drift in features.items()
        if drift["drifted"]
    ]
    for event in document["events"][-5:]:
        when = dt.datetime.fromtimestamp(event["time"], dt.UTC)
        subject = " ".join(part for part in (event["bundle"], event["version"]) if part)
        lines.append(f"  {when:%Y-%m-%d %H:%M:%S} {event['kind']} {subject} {event['detail']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
