"""Losses, which ONNX defines by other operators, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

F = np.float32


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("ignored", [None, 1, -1, 10])
@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2), (3, 5, 2, 4)])
@pytest.mark.parametrize("operator", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
def test_loss(
    operator: str, shape: Any, ignored: int | None, weighted: bool, reduction: str, agree: Any
) -> None:
    rng = np.random.default_rng(1)
    sets = []
    for batch in (shape[0], 5):
        values = rng.normal(size=(batch, *shape[1:])).astype(F)
        if operator == "NegativeLogLikelihoodLoss":
            values -= np.log(np.exp(values).sum(1, keepdims=True))
        targets = rng.integers(0, shape[1], (batch, *shape[2:]))
        if ignored is not None:
            targets.reshape(-1)[:2] = ignored
        arrays = {"x": values, "t": targets}
        if weighted:
            arrays["w"] = np.linspace(0.5, 1.5, shape[1]).astype(F)
        sets.append(arrays)
    outputs = ["y", "log"] if operator == "SoftmaxCrossEntropyLoss" else ["y"]
    attributes = {} if ignored is None else {"ignore_index": ignored}
    loss = helper.make_node(operator, [*sets[0]], outputs, reduction=reduction, **attributes)
    free = {"x": [0], "t": [0]}
    agree(loss, sets, outputs, opset=13, free=free, tolerance=1e-5, reference=False)
