"""`edgekit inspect`: what a model file holds, and how two of them differ."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.render import emit_json


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the summary, or both, as JSON.")
def inspect(model: Path, other: Path | None, as_json: bool) -> None:
    """Show what MODEL (.onnx or .tflite) holds: tensors, operators, work, memory, quantization.

    With OTHER, of either format, show both side by side and what differs.

    Peak activation memory is planned from the graph, not measured; `edgekit bench` measures.

    \b
    Examples:  edgekit inspect model.onnx
               edgekit inspect model.onnx model-int8.tflite
    """
    if other is None:
        from edgekit.cli.summary import render_summary
        from edgekit_runtime.graph.summary import summarise

        summary = summarise(model)
        if as_json:
            emit_json(summary.to_json())
        else:
            click.echo(render_summary(summary))
        return
    from edgekit.cli.summary import render_comparison
    from edgekit_runtime.graph.compare import compare_models

    comparison = compare_models(model, other)
    if as_json:
        emit_json(comparison.to_json())
    else:
        click.echo(render_comparison(comparison))
