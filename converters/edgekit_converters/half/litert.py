"""LiteRT models with their weights in float16: the file is half as large, it computes as before."""

from __future__ import annotations

from pathlib import Path

from edgekit_runtime.files import require_file


def write_half_litert(source: Path, output: Path, *, where: str) -> tuple[str, ...]:
    """Write a float model with its weights in float16; it computes in float32 as before.

    Each weight stands behind a DEQUANTIZE, which LiteRT runs once, when it loads the file. Inputs,
    outputs and names stay as they are.

    Args:
        source: A float `.tflite` file; one from before 2021 is brought up to date first.
        output: Where to write; its folder exists.
        where: The path that the user gave, for errors.

    Returns:
        Sentences on the weights that stayed in float32 and why.

    Raises:
        UsageError: If the file is missing, a folder, empty or unreadable.
        UnsupportedModelError: If the file is damaged, its weights are float16 or integers
            already, or nothing would change.
        EnvironmentLackError: If the extra `convert` is not installed.
    """
    from edgekit_converters.quantize.litert import write_litert_file
    from edgekit_converters.quantize.plan import QuantizationPlan
    from edgekit_converters.quantize.scheme import Scheme

    require_file(source, kind="a .tflite model")
    return write_litert_file(source, QuantizationPlan(scheme=Scheme.FP16), output, where=where)
