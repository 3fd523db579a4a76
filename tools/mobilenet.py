"""A MobileNetV2 of full width as ONNX, as exporters write it: 3.5 million weights, 14 MB.

Sandler et al. 2018 (arXiv 1801.04381). Its weights are random; what it costs to convert is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Expansion, channels, repeats, stride.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
          (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
OPSET = 17


class _Network:
    """Nodes and weights, layer by layer."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._rng = np.random.default_rng(3)

    def convolve(
        self, source: str, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1,
        groups: int = 1, active: bool = True,
    ) -> str:  # fmt: skip
        """Convolution, batch normalization, and Relu6 where it is asked for."""
        name = f"conv{len(self.nodes)}"
        pad = kernel // 2
        fan = inputs // groups * kernel**2
        shape = (outputs, inputs // groups, kernel, kernel)
        self._add(f"{name}.weight", self._rng.normal(scale=np.sqrt(2 / fan), size=shape))
        self.nodes.append(
            helper.make_node(
                "Conv",
                [source, f"{name}.weight"],
                [name],
                name=name,
                group=groups,
                kernel_shape=[kernel] * 2,
                pads=[pad] * 4,
                strides=[stride] * 2,
            )
        )
        statistics = [f"{name}.{role}" for role in ("scale", "shift", "mean", "variance")]
        for statistic, low in zip(statistics, (0.6, -0.2, -0.2, 0.6), strict=True):
            self._add(statistic, self._rng.uniform(low, low + 0.4, outputs))
        self.nodes.append(
            helper.make_node("BatchNormalization", [name, *statistics], [f"{name}.norm"])
        )
        if not active:
            return f"{name}.norm"
        self.nodes.append(
            helper.make_node("Clip", [f"{name}.norm", "zero", "six"], [f"{name}.relu6"])
        )
        return f"{name}.relu6"

    def model(self) -> Any:
        """The whole network, for images of 224 pixels and a free batch."""
        self._add("zero", np.array(0))
        self._add("six", np.array(6))
        value, channels = self.convolve("image", 3, 32, kernel=3, stride=2), 32
        for expansion, wide, repeats, stride in STAGES:
            for repeat in range(repeats):
                value, channels = (
                    self._block(value, channels, wide, expansion, 1 if repeat else stride),
                    wide,
                )
        value = self.convolve(value, channels, 1280)
        self._add("classifier.weight", self._rng.normal(scale=0.03, size=(1000, 1280)))
        self._add("classifier.bias", np.zeros(1000))
        self.nodes += [
            helper.make_node("GlobalAveragePool", [value], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node(
                "Gemm", ["flat", "classifier.weight", "classifier.bias"], ["scores"], transB=1
            ),
        ]
        borders = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])
            for name, shape in (("image", (3, 224, 224)), ("scores", (1000,)))
        ]
        graph = helper.make_graph(
            self.nodes, "mobilenet_v2", borders[:1], borders[1:], self.weights
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )

    def _block(self, source: str, inputs: int, outputs: int, expansion: int, stride: int) -> str:
        hidden = inputs * expansion
        value = self.convolve(source, inputs, hidden) if expansion > 1 else source
        value = self.convolve(value, hidden, hidden, kernel=3, stride=stride, groups=hidden)
        value = self.convolve(value, hidden, outputs, active=False)
        if stride > 1 or inputs != outputs:
            return value
        self.nodes.append(helper.make_node("Add", [source, value], [f"{value}.sum"]))
        return f"{value}.sum"

    def _add(self, name: str, array: Any) -> None:
        self.weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))


def write_mobilenet(path: Path) -> None:
    """Write the network into a file."""
    onnx.save_model(_Network().model(), str(path))
