"""A model that both writers are tried on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.converters.quantize.examples import F, w

node = helper.make_node


@pytest.fixture
def encoder(make_model: Any) -> Any:
    """One head of attention with its projections and norm; the tokens come from a table."""
    nodes = [
        node("Gather", ["table", "ids"], ["x"], name="embed"),
        *(node("MatMul", ["x", f"w{k}"], [k], name=k) for k in "qkv"),
        node("Add", ["q", "bq"], ["qb"]),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["qb", "kt"], ["scores"], name="scores"),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v"], ["mixed"], name="mix"),
        node("Add", ["mixed", "x"], ["sum"], name="skip"),
        node("LayerNormalization", ["sum", "gain"], ["normal"], name="norm"),
        node("MatMul", ["normal", "wo"], ["y"], name="out"),
    ]
    constants = {
        "table": w(50, 16, scale=1), "wq": w(16, 16, seed=2), "wk": w(16, 16, seed=3),
        "wv": w(16, 16, seed=4), "bq": w(16, seed=5), "wo": w(16, 64, seed=6),
        "gain": np.ones(16, F),
    }  # fmt: skip
    return make_model(nodes, {"ids": ["n", 12]}, ["y"], constants, dtype=TensorProto.INT64)
