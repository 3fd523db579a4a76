"""What LiteRT cannot express is refused by its name, with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F = np.float32


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("Bernoulli", {}), ("RandomNormalLike", {}), ("RandomUniformLike", {}),
     ("Multinomial", {"sample_size": 3}), ("RandomNormal", {"shape": [2, 3]}),
     ("RandomUniform", {"shape": [2, 3]})],
)  # fmt: skip
def test_random_numbers(operator: str, attributes: Any, evaluate: Any) -> None:
    inputs = [] if "shape" in attributes else ["x"]
    nodes = [
        node(operator, inputs, ["y"], name="culprit", **attributes),
        node("Relu", ["x"], ["z"]),
    ]
    with pytest.raises(UnsupportedModelError, match=f"culprit \\({operator}\\): it draws random"):
        evaluate(nodes, {"x": F([[0.5, 0.5]])}, ["y", "z"], opset=22)


def test_files_of_images(evaluate: Any) -> None:
    decode = node("ImageDecoder", ["x"], ["y"], name="culprit")
    with pytest.raises(UnsupportedModelError, match="culprit \\(ImageDecoder\\): it decodes"):
        evaluate(decode, {"x": np.zeros(9, np.uint8)}, opset=20)


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [("StringConcat", 2), ("StringNormalizer", 1), ("StringSplit", 1), ("RegexFullMatch", 1)],
)
def test_strings(operator: str, inputs: int, evaluate: Any) -> None:
    words = np.array(["a", "b"], dtype=object)
    attributes = {"pattern": "a"} if operator == "RegexFullMatch" else {}
    outputs = ["y", "n"] if operator == "StringSplit" else ["y"]
    culprit = node(operator, ["x", "x"][:inputs], outputs, name="culprit", **attributes)
    with pytest.raises(UnsupportedModelError, match="string") as caught:
        evaluate(culprit, {"x": words}, outputs, opset=20)
    assert f"culprit ({operator})" in caught.value.what
