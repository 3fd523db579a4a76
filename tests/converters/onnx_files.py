"""ONNX models as a stranger may write them: nothing is checked on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]


def model_of(
    nodes: Sequence[Any],
    *,
    inputs: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] = ("y",),
    constants: Mapping[str, NDArray[Any]] | None = None,
    dtype: int = TensorProto.FLOAT,
    opset: int = 17,
    ir_version: int = 8,
    domains: Sequence[str] = (),
    functions: Sequence[Any] = (),
) -> Any:
    """A model of these nodes; the outputs' shapes are left open."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [
            helper.make_tensor_value_info(name, dtype, list(shape))
            for name, shape in ({"x": [2, 3, 8, 8]} if inputs is None else inputs).items()
        ],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=ir_version, functions=list(functions)
    )


def write(model: Any, path: Path) -> Path:
    """Write a model as a file."""
    path.write_bytes(model.SerializeToString())
    return path
