"""`edgekit quantize-report`: where a quantized model loses its accuracy, why, and what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edgekit.cli.render import emit_json, percent, say, table

if TYPE_CHECKING:
    from edgekit_converters.diagnosis import QuantizationDiagnosis

_WEAKEST: Final = 8
_LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_LONGEST: Final = 44


@click.command("quantize-report")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("quantized", type=click.Path(path_type=Path))
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DATA",
    help="Typical inputs of MODEL, as for `edgekit convert`.",
)
@click.option(
    "--preprocessing",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Run this bundle's preprocessing on a folder of images or sound.  [default: the folder's "
    "preprocessing.json]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write an HTML page with pictures.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="How many inputs to compare on, at most.",
)
@click.option(
    "--search",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The report that `edgekit convert` wrote: its search is drawn too.  [default: the one "
    "beside QUANTIZED]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON.")
def quantize_report(
    model: Path,
    quantized: Path,
    calibration: Path,
    preprocessing: Path | None,
    output: Path | None,
    samples: int,
    search: Path | None,
    as_json: bool,
) -> None:
    """Say where QUANTIZED parts from the float MODEL, why, and which option mends it.

    Both may be ONNX or TFLite, and QUANTIZED may come from any tool. Each layer is compared with
    its float form: in the whole model, and by itself on what the float model computes.

    \b
    edgekit quantize-report model.onnx model-int8.tflite --calibration data.npz
    edgekit quantize-report model.onnx model-int8.onnx --calibration data.npz -o report.html
    """
    from edgekit_runtime.extras import require

    # The converter's modules need it when they are imported.
    require("onnx", extra="convert")
    from edgekit.pages.quantization import write_page
    from edgekit_converters.diagnosis.files import diagnose_files
    from edgekit_converters.diagnosis.past_search import find_search

    past = find_search(quantized, search)
    found = diagnose_files(
        model,
        quantized,
        calibration,
        preprocessing=preprocessing,
        samples=samples,
        progress=say,
    )
    if output:
        write_page(output, found, model=model.name, quantized=quantized.name, search=past)
        say(f"wrote {output}")
    if as_json:
        emit_json(found.to_json())
    else:
        show(found)


def show(found: QuantizationDiagnosis) -> None:
    """Print a diagnosis for people: the weakest layers first, and what to do."""
    from edgekit_converters.diagnosis.diagnose import PARTED_DB

    weakest = sorted(
        (
            layer
            for layer in found.layers
            if layer.noise.own_sqnr_db is not None or layer.findings or layer.noise.op in _LAYERS
        ),
        key=lambda layer: (layer not in found.culprits, _own(layer.noise.own_sqnr_db)),
    )
    rows = [
        [
            _ending(layer.noise.node),
            layer.noise.op,
            _decibels(layer.noise.own_sqnr_db),
            _decibels(layer.noise.sqnr_db),
            layer.findings[0].cause.value if layer.findings else "",
        ]
        for layer in weakest[:_WEAKEST]
    ]
    click.echo(table(rows, head=["weakest layers", "operator", "by itself", "in the model", "why"]))
    click.echo()
    if found.agreement is not None:
        click.echo(
            f"The two name the same class for {percent(found.agreement)} of {found.samples} "
            "samples."
        )
    if found.first_parting:
        click.echo(
            f"They part at {found.first_parting.noise.node}, the first below {PARTED_DB:.0f} dB."
        )
    else:
        click.echo(f"No layer parts from its float form: all are above {PARTED_DB:.0f} dB.")
    for layer in found.culprits:
        finding = layer.findings[0]
        click.echo(f"\n{layer.noise.node}: {finding.text}.")
        click.echo(f"  try {' or '.join(finding.fixes)}")
    click.echo(f"\nDecibels: signal to quantization noise, {found.judged}.")


def _ending(name: str) -> str:
    """The end of a long name: that is where paths of modules differ."""
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _own(ratio: float | None) -> float:
    return float("inf") if ratio is None else ratio


def _decibels(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f} dB"
