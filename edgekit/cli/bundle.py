"""`edgekit bundle`: make, look at and prove bundles."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from edgekit.cli.render import emit_json, percent, say, size, table
from edgekit.wording import plural


@click.group()
def bundle() -> None:
    """Make, look at and prove bundles: one model version for a whole fleet, in one .ekb file."""


@bundle.command()
@click.argument("name")
@click.option("--version", required=True, help="A semantic version: 1.4.0.")
@click.option(
    "--variant",
    "variants",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    metavar="FILE",
    help="A model file; repeat it, the best first. A device takes the first that fits it.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="What applications give, for golden samples and statistics: an .npz (with `labels` the "
    "accuracy is measured), or a folder of pictures or WAV files, a subfolder for each class.",
)
@click.option(
    "--pipeline",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Pre- and postprocessing, TOML or JSON.  [default: preprocessing.json in a data folder]",
)
@click.option("--image", default="", metavar="COLOUR[,FIT]", help="Take pictures: rgb, bgr,crop.")
@click.option("--sound", metavar="HZ", type=click.IntRange(1), help="Take sound of that rate.")
@click.option(
    "--scale", default="", metavar="A[,B,…]", help="Multiply inputs: a number, or one a channel."
)
@click.option("--offset", default="", metavar="A[,B,…]", help="Add to inputs, after --scale.")
@click.option(
    "--then",
    multiple=True,
    type=click.Choice(["softmax", "sigmoid", "argmax"]),
    help="A step after the model; repeat it.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: NAME-VERSION.ekb]")
@click.option("--golden-samples", default=16, show_default=True, type=click.IntRange(1, 1000))
@click.option("--task", default="classification", show_default=True, help="What the model does.")
@click.option("--labels", default="", metavar="A,B,…", help="Class names, in order.")
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The model that the variants were made from; its hash goes into the lineage.",
)
@click.option("--licence", "licences", multiple=True, help="SPDX expression; repeat it.")
@click.option("--description", default="", help="For people.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def create(
    name: str,
    version: str,
    variants: tuple[Path, ...],
    data: Path,
    pipeline: Path | None,
    image: str,
    sound: int | None,
    scale: str,
    offset: str,
    then: tuple[str, ...],
    output: Path | None,
    golden_samples: int,
    task: str,
    labels: str,
    source: Path | None,
    licences: tuple[str, ...],
    description: str,
    as_json: bool,
) -> None:
    """Make the bundle NAME.

    Every variant runs here on golden samples from --data, through the same pre- and postprocessing
    as on a device; a device must reproduce their outputs before the bundle goes live on it.
    """
    import json

    from edgekit.bundling.create import BundleRequest, create_bundle
    from edgekit.bundling.pipeline import pipeline_of_options, read_pipeline
    from edgekit_runtime.errors import UsageError

    chosen = pipeline_of_options(
        image=image,
        sound_hz=sound or 0,
        scale=_numbers("--scale", scale),
        offset=_numbers("--offset", offset),
        then=then,
    )
    if pipeline is not None:
        if chosen is not None:
            raise UsageError(
                "a pipeline file and options for steps are given", fix="write the steps into it"
            )
        chosen = read_pipeline(pipeline)

    output = output or Path(f"{name}-{version}.ekb")
    manifest = create_bundle(
        BundleRequest(
            name=name,
            version=version,
            models=variants,
            data=data,
            output=output,
            golden_samples=golden_samples,
            task=task,
            labels=tuple(label.strip() for label in labels.split(",") if label.strip()),
            source=source,
            licences=licences,
            description=description,
            pipeline=chosen,
        ),
        progress=say,
    )
    if as_json:
        emit_json(json.loads(manifest.to_json()))
    else:
        click.echo(f"{output}: {name} {version}, {size(output.stat().st_size)}")


@bundle.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def show(file: Path, as_json: bool) -> None:
    """Show what is in a bundle; every file is checked against the manifest's hashes."""
    import json

    from edgekit_runtime.bundle.archive import BundleArchive

    with BundleArchive(file) as archive:
        manifest = archive.manifest
        for path in manifest.files:
            archive.read(path)
    if as_json:
        emit_json(json.loads(manifest.to_json()))
        return
    click.echo(f"{manifest.name} {manifest.version}: {manifest.task}, made {manifest.created}")
    rows = [
        [
            variant.id,
            variant.precision,
            size(manifest.files[variant.file].size_bytes),
            f"{percent(variant.accuracy.value)} on {variant.accuracy.samples}"
            if variant.accuracy
            else "not measured",
            "; ".join(variant.proven_on),
        ]
        for variant in manifest.variants
    ]
    click.echo(table(rows, head=["variant", "precision", "size", "accuracy", "proven on"]))
    click.echo(
        f"{plural(manifest.golden_samples, 'golden sample')}, "
        f"{plural(len(manifest.files), 'file')}, all intact"
    )


@bundle.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(file: Path, as_json: bool) -> None:
    """Run the golden samples of every variant on this machine; exit code 1 if one differs."""
    from dataclasses import asdict

    from edgekit.bundling.create import prove_bundle

    with tempfile.TemporaryDirectory() as folder:
        proven = prove_bundle(file, Path(folder))
    if as_json:
        emit_json([asdict(variant) for variant in proven])
        return
    for variant in proven:
        for result in variant.results:
            click.echo(
                f"{variant.id}: "
                f"{plural(result.samples, 'golden sample matches', 'golden samples match')} on "
                f"{variant.runtime}; "
                f"largest difference {result.max_abs_error:.3g}, allowed {result.allowed}"
            )


def _numbers(option: str, text: str) -> tuple[float, ...]:
    from edgekit_runtime.errors import UsageError

    try:
        numbers = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r} holds no numbers", fix="write 0.0039, or one a channel: 1,2,3"
        ) from error
    if not all(abs(number) < float("inf") for number in numbers):
        raise UsageError(f"{option} {text!r} must be finite")
    return numbers
