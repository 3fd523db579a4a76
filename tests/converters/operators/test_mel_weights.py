from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_runtime.session import open_session

NAMES = ("bins", "length", "rate", "low", "high")


@pytest.mark.parametrize(
    ("bins", "length", "rate", "low", "high"),
    [(8, 16, 8192, 0.0, 4096.0), (20, 256, 16000, 20.0, 7600.0), (40, 64, 16000, 0.0, 8000.0)],
)
def test_weights_of_numbers_that_the_running_model_knows(
    tmp_path: Any, bins: int, length: int, rate: int, low: float, high: float
) -> None:
    graph = helper.make_graph(
        [helper.make_node("MelWeightMatrix", NAMES, ["y"])],
        "test",
        [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT if name in {"low", "high"} else TensorProto.INT64, []
            )
            for name in NAMES
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [length // 2 + 1, bins])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    given = dict(zip(NAMES, (bins, length, rate, low, high), strict=True))
    arrays = {
        name: np.array(number, dtype=np.float32 if name in {"low", "high"} else np.int64)
        for name, number in given.items()
    }
    (wanted,) = ReferenceEvaluator(model).run(None, arrays)
    path = tmp_path / "mel.tflite"
    path.write_bytes(compile_to_litert(normalise(model, where="test"), where="test").content)
    np.testing.assert_allclose(open_session(path).run(arrays)["y"], wanted, atol=1e-6)
