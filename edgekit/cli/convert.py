"""`edgekit convert`: any supported model in, checked artifacts out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.amounts import MILLISECONDS, NUMBER, SECONDS
from edgekit.cli.render import emit_json, say

if TYPE_CHECKING:
    from edgekit_converters.quantize.plan import Io


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A file where one artifact is made, else a folder.  [default: SOURCE's name + -converted]",
)
@click.option(
    "--to",
    "targets",
    metavar="FORMATS",
    help="Formats to make, with commas between: onnx, tflite.  [default: what --output's name "
    "says, else both]",
)
@click.option(
    "--quantize",
    default="none",
    show_default=True,
    metavar="SCHEMES",
    help="With commas between: fp16, int8, int8-dynamic, int8-weights, int16x8, int4-weights, "
    "mixed. int8, int16x8 and mixed need --calibration.",
)
@click.option(
    "--with-float", is_flag=True, help="With --quantize: make the float artifacts as well."
)
@click.option(
    "--keep-float",
    multiple=True,
    metavar="NAME|TYPE",
    help="With --quantize: an operator that stays float, by its name or what it computes, or all "
    "of a type (Softmax); repeat it.",
)
@click.option(
    "--io",
    type=click.Choice(["float", "int8"]),
    default="float",
    show_default=True,
    help="Inputs and outputs of int8, int16x8 and mixed artifacts.",
)
@click.option(
    "--range-method",
    type=click.Choice(["min-max", "moving-average", "percentile", "entropy", "mse"]),
    default="mse",
    show_default=True,
    help="How the ranges of activations are chosen from the calibration data.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="Typical inputs: .npz (an array an input), .npy, .csv, .parquet, a folder of images or "
    "WAV files, or package.module:function.",
)
@click.option(
    "--eval",
    "evaluation",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="The same kinds of data, with labels: accuracy before and after is reported.",
)
@click.option(
    "--preprocessing",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Run this bundle's preprocessing on folders of images or sound.  [default: the folder's "
    "preprocessing.json]",
)
@click.option(
    "--metric",
    metavar="NAME",
    help="top1, top5, auc, mae, mse, agreement, or module:function.  [default: top1 with class "
    "numbers, agreement with the float model without labels]",
)
@click.option(
    "--max-accuracy-drop",
    metavar="SHARE",
    help="The most that quantization may cost, 0.5% say; over it, int8 and mixed are repaired.",
)
@click.option(
    "--search-seconds",
    type=SECONDS,
    default=600.0,
    show_default=True,
    help="With --max-accuracy-drop: the longest search for repairs.",
)
@click.option(
    "--profile",
    metavar="NAME",
    help="Predict latency on this board; repairs are chosen by it.",
)
@click.option(
    "--max-latency-ms",
    type=MILLISECONDS,
    help="With --profile and --max-accuracy-drop: find the best trade below this latency.",
)
@click.option(
    "--keep-best",
    is_flag=True,
    help="Publish the best artifacts found although they miss the goal; exit code 1 all the same.",
)
@click.option(
    "--input-shape",
    "shapes",
    multiple=True,
    metavar="NAME:SIZES",
    help="PyTorch code and TorchScript: an input of forward(), with the batch first, such as "
    "image:1,3,224,224 or tokens:1,128:int64; once for each input.",
)
@click.option(
    "--example",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Instead: typical inputs, .npz with an array for each; the result is compared on them.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="For package.module:factory: the state dict that torch.save wrote.",
)
@click.option(
    "--layout",
    type=click.Choice(["keep", "nhwc"]),
    default="keep",
    show_default=True,
    help="LiteRT inputs and outputs with four axes: as the source has them, or channels last.",
)
@click.option(
    "--trust-pickle",
    is_flag=True,
    help="Load a file that can run code (.pkl, .joblib, ...): only if you trust who made it.",
)
@click.option(
    "--max-error",
    type=NUMBER,
    default=1e-4,
    show_default=True,
    help="Largest relative error of a float artifact against its source.",
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write an HTML page with pictures: the layers that plain int8 breaks, and the search.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def convert(
    source: Path,
    output: Path | None,
    targets: str | None,
    quantize: str,
    with_float: bool,
    keep_float: tuple[str, ...],
    io: Io,
    range_method: str,
    calibration: Path | None,
    evaluation: Path | None,
    preprocessing: Path | None,
    metric: str | None,
    max_accuracy_drop: str | None,
    search_seconds: float,
    profile: str | None,
    max_latency_ms: float | None,
    keep_best: bool,
    shapes: tuple[str, ...],
    example: Path | None,
    weights: Path | None,
    layout: str,
    trust_pickle: bool,
    max_error: float,
    page: Path | None,
    as_json: bool,
) -> None:
    """Convert SOURCE to ONNX and LiteRT (.tflite), quantize it, and prove that it still computes
    the same.

    SOURCE is told by its content: ONNX, TFLite, PyTorch (.pt2 of torch.export, TorchScript, or
    package.module:factory in the current folder), Keras (.keras, .h5), the folder of a TensorFlow
    SavedModel, scikit-learn (.skops, .joblib, .pkl), XGBoost (.json, .ubj), LightGBM (.txt).

    What is made is compared with the source's own answers (torch's forward, predict of Keras and
    scikit-learn, ...) on random inputs, edge cases and your own data; over the tolerance nothing is
    published and the first node that differs is named. Operators that cannot be expressed are named
    all at once, before anything is written. A JSON report is written beside the artifacts.

    \b
    edgekit convert model.onnx -o model.tflite
    edgekit convert model.onnx --quantize int8 --calibration train.npz --eval test.npz
    edgekit convert model.onnx --quantize int8 --calibration photos/ --max-accuracy-drop 0.5%
    edgekit convert model.pt2 --to tflite --layout nhwc
    edgekit convert scripted.pt --input-shape image:1,3,224,224
    edgekit convert shop.models:make_net --weights net.pt --example inputs.npz
    edgekit convert classifier.skops --to onnx -o classifier.onnx
    edgekit convert model.tflite --to onnx
    """
    from edgekit_runtime.extras import require

    # The converter's modules need it when they are imported.
    require("onnx", extra="convert")
    from edgekit.cli.convert_text import show, write_diagnosis
    from edgekit.device import profiled_device
    from edgekit_converters.accuracy import AccuracyBudget
    from edgekit_converters.convert import ConversionRequest, Precision, convert_model
    from edgekit_converters.goal import AccuracyGoal
    from edgekit_converters.litert.layout import BorderLayout
    from edgekit_converters.ranges import RangeMethod
    from edgekit_converters.request import default_output, format_named_by, parse_schemes
    from edgekit_converters.sources.options import SourceOptions, parse_input_shape
    from edgekit_runtime.errors import GateFailedError
    from edgekit_runtime.formats import ModelFormat, parse_formats

    if targets is not None:
        formats = parse_formats(targets)
    else:
        named = format_named_by(output) if output else None
        formats = (named,) if named else tuple(ModelFormat)
    reduced = parse_schemes(quantize)
    precisions = (Precision.FLOAT32, *reduced) if with_float or not reduced else reduced
    report = convert_model(
        ConversionRequest(
            source=source,
            output=output or default_output(source),
            targets=formats,
            precisions=precisions,
            calibration=calibration,
            evaluation=evaluation,
            preprocessing=preprocessing,
            max_error=max_error,
            options=SourceOptions(
                shapes=tuple(parse_input_shape(text) for text in shapes),
                example=example,
                weights=weights,
                trust_pickle=trust_pickle,
            ),
            layout=BorderLayout(layout),
            keep_float=keep_float,
            io=io,
            range_method=RangeMethod(range_method),
            goal=AccuracyGoal(
                metric=metric,
                budget=AccuracyBudget.parse(max_accuracy_drop) if max_accuracy_drop else None,
                search_seconds=search_seconds,
                max_latency_ms=max_latency_ms,
                keep_best=keep_best,
            ),
            device=profiled_device(profile) if profile else None,
            diagnose=page is not None,
        ),
        progress=say,
    )
    if page is not None:
        write_diagnosis(page, report)
        say(f"wrote {page}")
    if as_json:
        emit_json(report.to_json())
    else:
        show(report)
    if report.shortfall and as_json:
        # The report says it; an error's own JSON behind it would make two documents.
        raise click.exceptions.Exit(GateFailedError.exit_code)
    if report.shortfall:
        raise GateFailedError(
            report.shortfall,
            where=str(source),
            fix="the best is published"
            if report.published
            else "nothing was published; "
            "--keep-best publishes the best found, and the report says which layers lose the most",
        )
