"""Layers of image classifiers as ONNX, as exporters write them: weights random, sizes real."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 17
CLASSES = 1000
# Heights and widths of the images, in pixels.
IMAGE = 224


class Layers:
    """Nodes and weights, layer by layer; values are known by their names."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._rng = np.random.default_rng(3)

    def convolve(
        self, source: str, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1,
        groups: int = 1,
    ) -> str:  # fmt: skip
        """Convolution and batch normalization."""
        name = f"conv{len(self._nodes)}"
        fan = inputs // groups * kernel**2
        shape = (outputs, inputs // groups, kernel, kernel)
        self._add(f"{name}.weight", self._rng.normal(scale=np.sqrt(2 / fan), size=shape))
        self._nodes.append(
            helper.make_node(
                "Conv",
                [source, f"{name}.weight"],
                [name],
                name=name,
                group=groups,
                kernel_shape=[kernel] * 2,
                pads=[kernel // 2] * 4,
                strides=[stride] * 2,
            )
        )
        statistics = [f"{name}.{role}" for role in ("scale", "shift", "mean", "variance")]
        for statistic, low in zip(statistics, (0.6, -0.2, -0.2, 0.6), strict=True):
            self._add(statistic, self._rng.uniform(low, low + 0.4, outputs))
        return self._node("BatchNormalization", [name, *statistics], f"{name}.norm")

    def relu(self, source: str) -> str:
        """The positive part."""
        return self._node("Relu", [source], f"{source}.relu")

    def relu6(self, source: str) -> str:
        """The positive part, up to six."""
        if "six" not in {tensor.name for tensor in self._weights}:
            self._add("zero", np.array(0))
            self._add("six", np.array(6))
        return self._node("Clip", [source, "zero", "six"], f"{source}.relu6")

    def pool(self, source: str) -> str:
        """The largest of three by three, every second."""
        return self._node(
            "MaxPool", [source], f"{source}.pool",
            kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4,
        )  # fmt: skip

    def add(self, first: str, second: str) -> str:
        """The sum of two values."""
        return self._node("Add", [first, second], f"{second}.sum")

    def classifier(self, name: str, source: str, channels: int) -> Any:
        """The whole network from `image` to `scores`, for a free batch."""
        self._add("classifier.weight", self._rng.normal(scale=0.03, size=(CLASSES, channels)))
        self._add("classifier.bias", np.zeros(CLASSES))
        pooled = self._node("GlobalAveragePool", [source], "pooled")
        flat = self._node("Flatten", [pooled], "flat")
        self._node("Gemm", [flat, "classifier.weight", "classifier.bias"], "scores", transB=1)
        borders = [
            helper.make_tensor_value_info(border, onnx.TensorProto.FLOAT, ["batch", *shape])
            for border, shape in (("image", (3, IMAGE, IMAGE)), ("scores", (CLASSES,)))
        ]
        graph = helper.make_graph(self._nodes, name, borders[:1], borders[1:], self._weights)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _add(self, name: str, array: Any) -> None:
        self._weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
