"""`edgekit registry`: bundle versions, where they came from, how they did, where they ran."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.amounts import FINITE
from edgekit.cli.fleet_options import (
    broker_if_known,
    broker_option,
    database_option,
    fleet_option,
    json_option,
    opened_database,
    passphrase_option,
)
from edgekit.cli.render import emit_json, say, size, table
from edgekit.wording import plural

if TYPE_CHECKING:
    from edgekit.fleet.registry.catalogue import Registry
    from edgekit.fleet.registry.comparison import Difference
    from edgekit.fleet.registry.entries import BundleVersion

# What `Stage` has, without loading it; "retired" has a command of its own.
_STAGES = ["development", "staging", "production", "archived"]


@click.group()
def registry() -> None:
    """Keep bundle versions with lineage, metrics, tags and stages; versions are NAME@VERSION.

    Here people agree on what is good; what devices may install is signed by `edgekit release`.
    """


@registry.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--tag", "tags", multiple=True, metavar="NAME[=VALUE]", help="May be repeated.")
@click.option("--note", default="", help="For people.")
@fleet_option
@database_option
@json_option
def add(
    bundle: Path,
    tags: tuple[str, ...],
    note: str,
    folder: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Register BUNDLE (.ekb) with all that it says of itself, and keep a copy.

    The same version with other content is refused; the same content again changes nothing.
    """
    with _opened(folder, database) as opened:
        entry = opened.add(bundle, tags=_tags(tags), note=note)
    _show(entry, as_json=as_json)


@registry.command("list")
@click.argument("words", nargs=-1)
@click.option("--where", "query", default="", help='Like: "stage=production and top1>=0.97".')
@fleet_option
@database_option
@json_option
def list_(
    words: tuple[str, ...], query: str, folder: Path, database: str | None, as_json: bool
) -> None:
    """List versions that hold all WORDS in name, note, tags or description, newest first.

    --where asks for tags and metrics, and for bundle, version, stage, task, size, variants.
    """
    from edgekit.fleet.registry.search import search_versions

    with _opened(folder, database) as opened:
        found = search_versions(opened.all(), words=" ".join(words), query=query)
    if as_json:
        emit_json([entry.summary() for entry in found])
        return
    if not found:
        click.echo("no version matches" if words or query else "no version is registered yet")
        return
    rows = [
        [
            entry.bundle,
            entry.version,
            entry.stage.value,
            _day(entry.registered),
            size(entry.size_bytes),
            ", ".join(f"{m.name} {m.value:.4g}" for m in entry.metrics[:2]) or "-",
            ", ".join(_tag_text(*tag) for tag in entry.tags.items()) or "-",
        ]
        for entry in found
    ]
    head = ["bundle", "version", "stage", "registered", "size", "metrics", "tags"]
    click.echo(table(rows, head=head))


@registry.command()
@click.argument("name")
@fleet_option
@database_option
@json_option
def show(name: str, folder: Path, database: str | None, as_json: bool) -> None:
    """Show a version: variants, figures and what they rest on, lineage, golden samples."""
    from edgekit.fleet.registry.entries import parse_name

    with _opened(folder, database) as opened:
        entry = opened.get(*parse_name(name))
    _show(entry, as_json=as_json)


@registry.command()
@click.argument("before")
@click.argument("after")
@fleet_option
@database_option
@json_option
def compare(before: str, after: str, folder: Path, database: str | None, as_json: bool) -> None:
    """Set two versions side by side: contract, figures, sizes, lineage."""
    from edgekit.fleet.registry.comparison import compare_versions
    from edgekit.fleet.registry.entries import parse_name

    with _opened(folder, database) as opened:
        done = compare_versions(opened.get(*parse_name(before)), opened.get(*parse_name(after)))
    if as_json:
        emit_json(done.to_json())
        return
    _differences("inputs and outputs", done.contract, done.before, done.after)
    click.echo("pre- and postprocessing: " + ("differ" if done.processing else "the same"))
    click.echo("golden inputs: " + ("the same" if done.golden else "differ"))
    _differences("metrics", done.metrics, done.before, done.after)
    _differences("bytes of each variant", done.variants, done.before, done.after)
    _differences("lineage", done.lineage, done.before, done.after)
    _differences("tags", done.tags, done.before, done.after)


@registry.command()
@click.argument("name")
@click.argument("stage", type=click.Choice(_STAGES), metavar="STAGE")
@fleet_option
@database_option
@json_option
def promote(name: str, stage: str, folder: Path, database: str | None, as_json: bool) -> None:
    """Move a version to STAGE: development, staging, production or archived.

    What was in production before is archived.
    """
    from edgekit.fleet.registry.entries import Stage, parse_name

    with _opened(folder, database) as opened:
        entry = opened.promote(*parse_name(name), Stage(stage))
    if as_json:
        emit_json(entry.summary())
        return
    click.echo(f"{entry.name}: {entry.stage.value}")


@registry.command()
@click.argument("name")
@click.argument("tags", nargs=-1, required=True, metavar="TAG[=VALUE]...")
@click.option("--remove", is_flag=True, help="Take these tags away.")
@fleet_option
@database_option
@json_option
def tag(
    name: str,
    tags: tuple[str, ...],
    remove: bool,
    folder: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Set tags of a version, or take them away."""
    from edgekit.fleet.registry.entries import parse_name

    changes: dict[str, str | None] = dict(_tags(tags))
    if remove:
        changes = dict.fromkeys(changes)
    with _opened(folder, database) as opened:
        entry = opened.tag(*parse_name(name), changes)
    if as_json:
        emit_json(entry.summary())
        return
    click.echo(f"{entry.name}: " + (", ".join(_tag_text(*t) for t in entry.tags.items()) or "-"))


@registry.command()
@click.argument("name")
@click.argument("metrics", nargs=-1, metavar="METRIC=NUMBER...")
@click.option("--variant", default="", help="The figures are of one variant.")
@click.option(
    "--bench",
    "results",
    type=click.Path(path_type=Path),
    help="A file of `edgekit bench --json` of the version's own model files.",
)
@fleet_option
@database_option
@json_option
def measure(
    name: str,
    metrics: tuple[str, ...],
    variant: str,
    results: Path | None,
    folder: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Add figures to a version; those that were measured when it was made stay as they are."""
    from edgekit.fleet.registry.entries import parse_name

    bundle, version = parse_name(name)
    with _opened(folder, database) as opened:
        for metric, value in _numbers(metrics):
            opened.add_metric(bundle, version, metric, value, variant=variant)
        if results is not None:
            opened.add_benchmark(bundle, version, results)
        entry = opened.get(bundle, version)
    _show(entry, as_json=as_json)


@registry.command()
@click.argument("name")
@click.option(
    "--newest", type=click.IntRange(1), default=50, show_default=True, help="How many at most."
)
@fleet_option
@database_option
@json_option
def history(name: str, newest: int, folder: Path, database: str | None, as_json: bool) -> None:
    """Show on which devices a version went live, was rejected or rolled back, and why."""
    from dataclasses import asdict

    from edgekit.fleet.registry.entries import parse_name

    with _opened(folder, database) as opened:
        entry = opened.get(*parse_name(name))
        found = opened.deployments(entry.bundle, entry.version, newest=newest)
    if as_json:
        emit_json([asdict(item) for item in found])
        return
    if not found:
        click.echo(f"{name} went live nowhere yet")
        return
    rows = [[_moment(d.at), d.device, d.outcome, d.reason or "-"] for d in found]
    click.echo(table(rows, head=["heard at", "device", "outcome", "reason"]))


@registry.command()
@click.argument("name")
@fleet_option
@database_option
@passphrase_option
@broker_option
@json_option
def retire(
    name: str,
    folder: Path,
    database: str | None,
    passphrase: str | None,
    broker: str | None,
    as_json: bool,
) -> None:
    """Retire a version: nothing may install it, and chunks that only it needs leave the broker.

    Refused while a device is ordered to run it. Its file stays here, as evidence.
    """
    from dataclasses import asdict

    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.registry.entries import parse_name
    from edgekit.fleet.registry.retirement import retire as retire_version

    fleet = Fleet.open(folder)
    address = broker_if_known(fleet, broker)
    with _opened(folder, database) as opened:
        done = retire_version(
            opened, fleet, *parse_name(name), passphrase=passphrase, broker=address
        )
    if as_json:
        emit_json(asdict(done))
        return
    where = f" from {done.broker}" if done.broker else "; nothing was published yet"
    gone = f"{plural(done.chunks, 'chunk')} ({size(done.chunk_bytes)}) gone"
    click.echo(f"{name}: retired; {gone}{where}")


@registry.command()
@click.argument("name")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: NAME-VERSION.ekb]")
@fleet_option
@database_option
@json_option
def get(name: str, output: Path | None, folder: Path, database: str | None, as_json: bool) -> None:
    """Copy a version's file out of the registry, checked."""
    import shutil

    from edgekit.fleet.registry.entries import parse_name
    from edgekit_runtime.durable import replacing

    with _opened(folder, database) as opened:
        entry = opened.get(*parse_name(name))
        target = output or Path(f"{entry.bundle}-{entry.version}.ekb")
        with (
            opened.opened(entry) as source,
            source.open("rb") as content,
            replacing(target) as file,
        ):
            shutil.copyfileobj(content, file)
    if as_json:
        emit_json({"bundle": entry.bundle, "version": entry.version, "path": str(target)})
        return
    click.echo(str(target))


@registry.command("import")
@click.argument("source")
@click.option("--tag", "tags", multiple=True, metavar="NAME[=VALUE]", help="May be repeated.")
@click.option("--note", default="", help="For people.")
@fleet_option
@database_option
@json_option
def import_(
    source: str,
    tags: tuple[str, ...],
    note: str,
    folder: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Register a bundle from SOURCE, with what tells exactly which one it was.

    models:/NAME/VERSION or runs:/RUN/PATH of MLflow, whose server MLFLOW_TRACKING_URI names;
    dvc:REPOSITORY#PATH@REVISION; wandb:ENTITY/PROJECT/ARTIFACT:VERSION; or a URL that fsspec
    reads: s3://, gs://, az:// (each with its package), https://, file://. From MLflow and W&B the
    run's figures come too.
    """
    from edgekit.fleet.registry.sources import import_bundle

    with _opened(folder, database) as opened:
        entry = import_bundle(
            opened, source, tags=_tags(tags), note=note, progress=_download_progress()
        )
    _show(entry, as_json=as_json)


@registry.command()
@click.argument("name")
@click.argument("target")
@fleet_option
@database_option
@json_option
def export(name: str, target: str, folder: Path, database: str | None, as_json: bool) -> None:
    """Take a version to TARGET: mlflow:EXPERIMENT, or a URL; one that ends in / is a folder."""
    from edgekit.fleet.registry.entries import parse_name
    from edgekit.fleet.registry.sources import export_bundle

    with _opened(folder, database) as opened:
        bundle, version = parse_name(name)
        place = export_bundle(opened, bundle, version, target)
    if as_json:
        emit_json({"bundle": bundle, "version": version, "place": place})
        return
    click.echo(place)


@contextlib.contextmanager
def _opened(folder: Path, address: str | None) -> Iterator[Registry]:
    from edgekit.fleet.access import local_actor
    from edgekit.fleet.registry.catalogue import Registry
    from edgekit.fleet.storage.setting import open_bundles

    with opened_database(folder, address) as (fleet, database):
        yield Registry(database, open_bundles(fleet), actor=local_actor())


def _download_progress() -> Callable[[int, int], None]:
    """Tells how far a download is, once a second; of a quick one nothing."""
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= 1:
            told = time.monotonic()
            say(f"{size(done)} of {size(total)}" if total else size(done))

    return progress


def _show(entry: BundleVersion, *, as_json: bool) -> None:
    if as_json:
        emit_json(entry.to_json())
        return
    manifest = entry.manifest
    click.echo(f"{entry.name}: {manifest.task}, {entry.stage.value}, {size(entry.size_bytes)}")
    click.echo(f"registered {_moment(entry.registered)} by {entry.registered_by}: {entry.source}")
    for text in (entry.note, manifest.description):
        if text:
            click.echo(text)
    if entry.tags:
        click.echo("tags: " + ", ".join(_tag_text(*tag) for tag in entry.tags.items()))
    rows = [[m.variant or "(all)", m.name, f"{m.value:.6g}", m.origin] for m in entry.metrics] or [
        ["-", "-", "-", "no figures"]
    ]
    click.echo(table(rows, head=["variant", "metric", "value", "origin"]))
    tolerances = ", ".join(f"{v.id} ±{v.golden.atol:g}" for v in manifest.variants)
    click.echo(
        f"{plural(manifest.golden_samples, 'golden sample')}; devices may differ by: {tolerances}"
    )
    for side in ("preprocessing", "postprocessing"):
        steps = [f"{step.tensor} {step.op}" for step in getattr(manifest, side)]
        if steps:
            click.echo(f"{side}: " + ", ".join(steps))
    for name in ("source", "revision", "data", "pipeline"):
        if name in manifest.lineage:
            click.echo(f"{name}: {_lineage_text(manifest.lineage[name])}")


def _lineage_text(value: object) -> str:
    match value:
        case {"file": str(file), "sha256": str(digest)}:
            return f"{file}, SHA-256 {digest[:12]}…"
        case _:
            return str(value)


def _differences(title: str, rows: tuple[Difference, ...], before: str, after: str) -> None:
    if not rows:
        click.echo(f"{title}: the same")
        return
    cells = [
        [
            row.name,
            _figure(row.before),
            _figure(row.after),
            "-" if row.change is None else f"{row.change:+.4g}",
        ]
        for row in rows
    ]
    click.echo("\n" + table(cells, head=[title, before, after, "change"]))


def _figure(value: str | float | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.6g}"


def _tags(texts: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def _tag_text(name: str, value: str) -> str:
    return f"{name}={value}" if value else name


def _numbers(texts: tuple[str, ...]) -> list[tuple[str, float]]:
    from edgekit_runtime.errors import UsageError

    numbers = []
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            numbers.append((name, FINITE(value)))
        except click.BadParameter:
            equals = ""
        if not equals:
            raise UsageError(f"{text!r} is no metric", fix="write it as NAME=NUMBER")
    return numbers


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
