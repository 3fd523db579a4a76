"""`edgekit profiles`: the boards that latencies can be predicted for."""

from __future__ import annotations

import click

from edgekit.cli.render import emit_json, table


@click.group()
def profiles() -> None:
    """Show the boards that latencies can be predicted for, and what is known of each.

    Calibrating a profile with measurements of your own is not there yet.
    """


@profiles.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def list_(as_json: bool) -> None:
    """List all profiles."""
    from edgekit_benchmarks.profile import list_profiles

    found = list_profiles()
    if as_json:
        emit_json([{"name": p.name, "family": p.family, "title": p.title} for p in found])
        return
    rows = [
        [
            p.name,
            p.family,
            p.title,
            p.hardware.core,
            str(sum(c.measurements for c in p.calibrations)),
        ]
        for p in found
    ]
    click.echo(table(rows, head=["profile", "family", "board", "core", "measurements"]))


@profiles.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def show(name: str, as_json: bool) -> None:
    """Show a profile, or each of a family: hardware, calibrations, errors, sources."""
    from dataclasses import asdict

    from edgekit_benchmarks.profile import load_profiles

    found = load_profiles(name)
    if as_json:
        emit_json([asdict(profile) for profile in found])
        return
    for profile in found:
        hardware = profile.hardware
        click.echo(
            f"{profile.title} ({profile.name}): {hardware.soc}, {hardware.cores} x {hardware.core} "
            f"at {hardware.clock_ghz:g} GHz, RAM {'/'.join(map(str, hardware.ram_mb))} MB"
        )
        rows = [
            [
                f"{c.runtime} {c.runtime_version}",
                c.dtype,
                str(c.threads),
                str(c.measurements),
                f"{c.lofo_mape:.0%}",
                f"/ {c.band:.2f} to x {c.band:.2f}",
            ]
            for c in profile.calibrations
        ]
        head = ["measured with", "dtype", "threads", "latencies", "error left out", "90 % band"]
        click.echo(table(rows, head=head))
        sources = dict.fromkeys(
            source for c in profile.calibrations for source in c.sources
        ) | dict.fromkeys(hardware.sources)
        click.echo("Sources: " + ", ".join(sources) + "\n")
    click.echo("Error left out: the mean relative error on a family of models left out of the fit.")
