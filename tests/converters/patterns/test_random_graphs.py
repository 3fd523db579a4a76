"""Random graphs compute what they did, simplified, and as LiteRT; for every size of the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_runtime.session import open_session
from tests.converters.patterns.conftest import random_inputs, run
from tests.converters.patterns.random_graphs import RandomGraph

NODES = 16
QUICK, MANY = range(120), range(120, 1500)


def assert_close(seed: int, expected: Any, computed: Any) -> None:
    assert computed.shape == expected.shape, seed
    # Powers of powers leave float32; what engines make of that is their own affair.
    if np.isfinite(expected).all():
        scale = max(np.abs(expected).max(initial=0), 1e-3)
        np.testing.assert_allclose(computed, expected, rtol=0, atol=2e-4 * scale, err_msg=str(seed))


def check(seed: int, folder: Path) -> None:
    source = RandomGraph(seed, nodes=NODES).model()
    plain = normalise(source, where=str(seed))
    onnx.checker.check_model(plain)
    path = folder / "model.tflite"
    path.write_bytes(compile_to_litert(plain, where=str(seed)).content)
    session = open_session(path)
    for batch in (1, 3):
        inputs = random_inputs(source, batch, low=-3, high=3)
        expected = run(source, inputs)
        converted = session.run(inputs)
        for value, before, after in zip(
            source.graph.output, expected, run(plain, inputs), strict=True
        ):
            assert_close(seed, before, after)
            assert_close(seed, before, converted[value.name])


@pytest.mark.parametrize("share", range(4))
def test_random_graphs(share: int, tmp_path: Path) -> None:
    for seed in QUICK[share::4]:
        check(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(4))
def test_many_random_graphs(share: int, tmp_path: Path) -> None:
    for seed in MANY[share::4]:
        check(seed, tmp_path)
