"""`edgekit profiles`: the boards that latencies can be predicted for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.render import emit_json, say, table
from edgekit.wording import plural

if TYPE_CHECKING:
    from edgekit_benchmarks.profile import Profile


@click.group()
def profiles() -> None:
    """Show the boards that latencies can be predicted for, and learn from a device of your own.

    \b
    edgekit profiles show raspberrypi4
    edgekit profiles check
    edgekit profiles calibrate --from results.json
    """


@profiles.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def list_(as_json: bool) -> None:
    """List all profiles."""
    from edgekit_benchmarks.profile import list_private_profiles, list_profiles

    shipped, private = list_profiles(), list_private_profiles()
    if as_json:
        emit_json(
            [
                {
                    "name": p.name,
                    "family": p.family,
                    "title": p.title,
                    "private": p in private,
                    "estimate_only": bool(p.taken_from),
                }
                for p in (*shipped, *private)
            ]
        )
        return
    rows = [
        [
            p.name,
            p.family,
            p.title,
            p.hardware.core,
            str(sum(c.measurements for c in p.calibrations if not c.taken_from)),
            _standing(p, private=p in private),
        ]
        for p in (*shipped, *private)
    ]
    click.echo(table(rows, head=["profile", "family", "board", "core", "measurements", ""]))


def _standing(profile: Profile, *, private: bool) -> str:
    if private:
        return "private"
    if profile.taken_from:
        return "estimate only"
    return "weak" if all(c.weak for c in profile.calibrations) else ""


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
            f"{profile.title} ({profile.name}): {hardware.soc}, {hardware.cores} cores, "
            f"{hardware.core} at {hardware.clock_ghz:g} GHz, RAM "
            f"{'/'.join(f'{amount:g}' for amount in hardware.ram_mb)} MB"
        )
        rows = [
            [
                f"{c.runtime} {c.runtime_version}",
                c.dtype,
                str(c.threads),
                str(c.measurements),
                "-" if c.anchored else f"{c.lofo_mape:.1%}",
                f"/ {c.band:.2f} to x {c.band:.2f}",
                "your device"
                if c.anchored
                else "estimate only"
                if c.taken_from
                else "weak"
                if c.weak
                else "",
            ]
            for c in profile.calibrations
        ]
        head = ["measured with", "dtype", "threads", "latencies", "error left out", "90 % band", ""]
        click.echo(table(rows, head=head))
        if profile.taken_from:
            click.echo(
                f"Estimate only: no measurement of this board is known. The rows are the "
                f"{profile.taken_from}'s, which has the same core; bands of predictions are wider."
            )
        for weak in dict.fromkeys(c.weak for c in profile.calibrations if c.weak):
            click.echo(f"Weak: {weak}.")
        sources = dict.fromkeys(
            source for c in profile.calibrations for source in c.sources
        ) | dict.fromkeys(hardware.sources)
        click.echo("Sources: " + ", ".join(sources) + "\n")
    click.echo("Error left out: the mean relative error on a family of models left out of the fit.")


@profiles.command()
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def check(names: tuple[str, ...], as_json: bool) -> None:
    """Compute the leave-one-family-out table again, for all boards or those of NAMES.

    Every latency is predicted without any measurement of its family of models, on any board.
    """
    from edgekit_benchmarks.fit import as_rows, validate
    from edgekit_benchmarks.profile import load_profiles
    from edgekit_benchmarks.published import read_measurements

    wanted = {profile.name for name in names for profile in load_profiles(name)}
    say("predicting every published latency without its family")
    found = [
        entry
        for entry in validate(read_measurements())
        if not wanted or entry.combination.board in wanted
    ]
    if as_json:
        emit_json(as_rows(found))
        return
    rows = [
        [
            entry.combination.board,
            f"{entry.combination.runtime} {entry.combination.runtime_version}",
            entry.combination.dtype,
            str(entry.combination.threads),
            f"{entry.models} of {entry.families}",
            f"{entry.mape:.1%}",
            f"{entry.median:.1%}",
            f"{entry.p90:.1%}",
            f"{entry.coverage:.0%}",
            f"x {entry.band:.2f}",
        ]
        for entry in found
    ]
    head = [
        "board", "measured with", "dtype", "threads", "models of families", "mean error", "median",
        "p90", "in the band", "band",
    ]  # fmt: skip
    click.echo(table(rows, head=head))
    click.echo(
        "\nMean error: of predictions for a family of models that no board's prices had seen; the "
        "band is the one for nine in ten. Where a combination has one family, a model was left out."
    )


@profiles.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where to write the profiles.  [default: the package's own folder]",
)
@click.option("--check", "only_check", is_flag=True, help="Write nothing; exit 1 if they differ.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def fit(out: Path | None, only_check: bool, as_json: bool) -> None:
    """Make every shipped profile anew from the measurements that the package carries."""
    from edgekit_benchmarks.fit import fit_profiles
    from edgekit_benchmarks.profile import list_profiles, shipped_folder
    from edgekit_benchmarks.profile_text import differences, write_profiles
    from edgekit_runtime.errors import GateFailedError

    say("fitting prices, and predicting every family without itself")
    made = fit_profiles()
    if only_check:
        shipped = {profile.name: profile for profile in list_profiles()}
        found = differences(shipped, made)
        if found:
            raise GateFailedError(
                f"the shipped profiles are not what the measurements make: {'; '.join(found)}",
                fix="run `edgekit profiles fit`",
            )
    folder = out or shipped_folder()
    if not only_check:
        folder.mkdir(parents=True, exist_ok=True)
        write_profiles(made, folder)
    if as_json:
        names = sorted(made)
        emit_json({"profiles": names, "folder": None if only_check else str(folder)})
    elif only_check:
        click.echo(f"{plural(len(made), 'profile is', 'profiles are')} what the measurements make.")
    else:
        click.echo(f"Wrote {plural(len(made), 'profile')} to {folder}.")


@profiles.command()
@click.option(
    "--from",
    "results",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="What `edgekit bench MODEL --json` wrote on the device.",
)
@click.option(
    "--profile",
    "base",
    metavar="NAME",
    help="The board that the device is, or is most like.  [default: what the device calls itself]",
)
@click.option("--name", help="The new profile's name.  [default: the board's, and -mine]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it.  [default: your private profiles]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def calibrate(
    results: Path, base: str | None, name: str | None, out: Path | None, as_json: bool
) -> None:
    """Turn one to three real runs into a private profile of your own device.

    \b
    On the device:  edgekit bench model.tflite --threads 4 --json > results.json
    Here:           edgekit profiles calibrate --from results.json
                    edgekit bench other.tflite --profile raspberrypi4-mine --threads 4
    """
    from dataclasses import asdict

    from edgekit_benchmarks.anchor import calibrate_profile

    path, profile, anchors = calibrate_profile(results, base=base, name=name, out=out)
    if as_json:
        emit_json(
            {
                "profile": profile.name,
                "path": str(path),
                "anchors": [asdict(anchor) for anchor in anchors],
            }
        )
        return
    rows = [
        [
            f"{anchor.runtime} {anchor.runtime_version}",
            anchor.dtype,
            str(anchor.threads),
            str(anchor.models),
            f"x {anchor.factor:.2f}",
            f"/ {anchor.band:.2f} to x {anchor.band:.2f}",
        ]
        for anchor in anchors
    ]
    head = ["ran with", "dtype", "threads", "models", "measured / predicted", "90 % band now"]
    click.echo(table(rows, head=head))
    click.echo(f"\nWrote {path}: use it with `edgekit bench MODEL --profile {profile.name}`.")
