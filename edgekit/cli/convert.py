"""`edgekit convert`: any supported model in, checked artifacts out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.render import emit_json, percent, say, size, table

if TYPE_CHECKING:
    from edgekit_converters.report import ConversionReport


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A file where one artifact is made, else a folder.  [default: MODEL's name + -converted]",
)
@click.option(
    "--to",
    "targets",
    default="onnx,tflite",
    show_default=True,
    metavar="FORMATS",
    help="Formats to make, with commas between: onnx, tflite.",
)
@click.option(
    "--quantize",
    type=click.Choice(["none", "int8"]),
    default="none",
    show_default=True,
    help="int8: static 8-bit weights and activations; needs --calibration.",
)
@click.option(
    "--keep-float", is_flag=True, help="With --quantize: make the float artifacts as well."
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Typical inputs, .npz (an array an input) or .npy; samples along the first axis.",
)
@click.option(
    "--eval",
    "evaluation",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Labelled inputs (.npz with `labels`): accuracy before and after is reported.",
)
@click.option(
    "--max-error",
    default=1e-4,
    show_default=True,
    help="Largest relative error of a float artifact against its source.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def convert(
    model: Path,
    output: Path | None,
    targets: str,
    quantize: str,
    keep_float: bool,
    calibration: Path | None,
    evaluation: Path | None,
    max_error: float,
    as_json: bool,
) -> None:
    """Convert MODEL to ONNX and LiteRT (.tflite), quantize it, and prove that it still computes
    the same.

    Float artifacts are compared with the source on random inputs, edge cases and your own data;
    over the tolerance nothing is published and the first node that differs is named. Operators
    that cannot be expressed are named all at once, before anything is written. A JSON report is
    written beside the artifacts.

    Sources today: ONNX (to ONNX and LiteRT), and float .tflite (to int8). From PyTorch, Keras or
    scikit-learn, export to ONNX first.

    \b
    edgekit convert model.onnx --to tflite -o model.tflite
    edgekit convert model.onnx --quantize int8 --calibration train.npz --eval test.npz
    """
    from edgekit_converters.convert import ConversionRequest, Precision, convert_model
    from edgekit_runtime.formats import parse_formats

    precisions = {
        "none": (Precision.FLOAT32,),
        "int8": (Precision.FLOAT32, Precision.INT8) if keep_float else (Precision.INT8,),
    }[quantize]
    report = convert_model(
        ConversionRequest(
            source=model,
            output=output or model.with_name(f"{model.stem}-converted"),
            targets=parse_formats(targets),
            precisions=precisions,
            calibration=calibration,
            evaluation=evaluation,
            max_error=max_error,
        ),
        progress=say,
    )
    if as_json:
        emit_json(report.to_json())
    else:
        show(report)


def show(report: ConversionReport) -> None:
    """Print a conversion's artifacts as a table, and its warnings."""
    rows = []
    for artifact in report.artifacts:
        worst = max((output.max_relative_error for output in artifact.parity), default=0.0)
        rows.append(
            [
                artifact.path,
                artifact.precision.value,
                size(artifact.size_bytes),
                f"{worst:.2g}",
                percent(artifact.accuracy.value) if artifact.accuracy else "-",
                percent(artifact.agreement) if artifact.agreement is not None else "-",
            ]
        )
    click.echo(
        table(
            rows,
            head=[
                "artifact",
                "precision",
                "size",
                "error",
                "accuracy",
                "same answer as the source",
            ],
        )
    )
    first = report.artifacts[0]
    if first.source_accuracy and first.accuracy:
        click.echo(
            f"\nSource: {size(report.source_size_bytes)}, accuracy "
            f"{percent(first.source_accuracy.value)} on the same {first.accuracy.samples} samples."
        )
    click.echo(
        "Measured here. Error: the largest difference from the source, relative to its largest "
        "output."
    )
    for warning in report.warnings:
        click.echo(click.style("Warning: ", fg="yellow", bold=True) + warning, err=True)
