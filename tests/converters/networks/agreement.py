"""Convert an ONNX file to LiteRT, and hold both against each other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_converters.parity import relative_error
from edgekit_runtime.session import open_session

BATCHES = (1, 3)
TOLERANCE = 1e-4


def convert(source: Path) -> tuple[Path, Counter[str]]:
    """The converted file beside the source, and how many operators of each kind it has."""
    model = onnx.load(str(source))
    compiled = compile_to_litert(normalise(model, where=source.name), where=source.name)
    target = source.with_suffix(".tflite")
    target.write_bytes(compiled.content)
    return target, Counter(operator.code for operator in compiled.program.operators)


def assert_agrees(source: Path, target: Path, *, tolerance: float = TOLERANCE) -> None:
    """Names, shapes and values of both agree, for more than one batch where it is free."""
    reference, candidate = open_session(source), open_session(target)
    assert [spec.name for spec in candidate.inputs] == [spec.name for spec in reference.inputs]
    assert [spec.name for spec in candidate.outputs] == [spec.name for spec in reference.outputs]
    assert [spec.shape for spec in candidate.inputs] == [spec.shape for spec in reference.inputs]
    free = any(None in spec.shape for spec in reference.inputs)
    for batch in BATCHES if free else BATCHES[:1]:
        rng = np.random.default_rng(batch)
        arrays = {
            spec.name: rng.normal(
                size=[batch if size is None else size for size in spec.shape]
            ).astype(spec.dtype)
            for spec in reference.inputs
        }
        computed = candidate.run(arrays)
        for name, expected in reference.run(arrays).items():
            assert np.isfinite(expected).all(), name
            assert np.ptp(expected) > 0, name
            assert computed[name].shape == expected.shape, name
            assert relative_error(expected, computed[name]) <= tolerance, name
