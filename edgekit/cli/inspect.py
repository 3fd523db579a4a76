"""`edgekit inspect`: what a model file holds."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.render import emit_json


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def inspect(model: Path, as_json: bool) -> None:
    """Show what MODEL (.onnx or .tflite) holds: tensors, operators, work, memory, quantization.

    Peak activation memory is planned from the graph, not measured; `edgekit bench` measures.
    """
    from edgekit.cli.summary import render_summary
    from edgekit_runtime.graph.summary import summarise

    summary = summarise(model)
    if as_json:
        emit_json(summary.to_json())
    else:
        click.echo(render_summary(summary))
