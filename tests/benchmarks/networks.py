"""Ten networks of the usual kinds, made layer by layer, with activations of several megabytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Network:
    """An ONNX graph that grows at its end; every method returns the name of its result."""

    def __init__(self, channels: int, side: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)
        self.channels = {"x": channels}
        self.input = [1, channels, side, side]

    def node(self, kind: str, *inputs: str, channels: int, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        self.channels[name] = channels
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        values = self.random.normal(0, 0.05, shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(
        self,
        x: str,
        out: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        act: bool = True,
    ) -> str:
        into = self.channels[x]
        weights = self.weight(out, into // groups, kernel, kernel)
        pads = [kernel // 2] * 4
        options = {"pads": pads, "strides": [stride] * 2, "group": groups}
        y = self.node("Conv", x, weights, self.weight(out), channels=out, **options)
        return self.node("Relu", y, channels=out) if act else y

    def depthwise(self, x: str, stride: int = 1) -> str:
        return self.conv(x, self.channels[x], 3, stride, groups=self.channels[x])

    def pool(self, x: str) -> str:
        options = {"kernel_shape": [2, 2], "strides": [2, 2]}
        return self.node("MaxPool", x, channels=self.channels[x], **options)

    def add(self, x: str, y: str) -> str:
        return self.node("Add", x, y, channels=self.channels[x])

    def concat(self, *parts: str) -> str:
        channels = sum(self.channels[part] for part in parts)
        return self.node("Concat", *parts, channels=channels, axis=1)

    def save(self, path: Path, x: str, *, classes: int = 10) -> Path:
        """Pool, classify, write; with no classes the last result is the output."""
        shape: list[int | str] | None = None
        if classes:
            channels = self.channels[x]
            x = self.node("GlobalAveragePool", x, channels=channels)
            x = self.node("Flatten", x, channels=channels)
            x = self.node("Gemm", x, self.weight(channels, classes), channels=classes)
            shape = [1, classes]
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.input)],
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
            self.weights,
        )
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.save(onnx.shape_inference.infer_shapes(model), str(path))
        return path


def mobilenet_v1(path: Path) -> Path:
    net = Network(3, 224)
    x = net.conv("x", 32, 3, 2)
    for out, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        x = net.conv(net.depthwise(x, stride), out, 1)
    return net.save(path, x)


def mobilenet_v2(path: Path) -> Path:
    net = Network(3, 224)
    x = net.conv("x", 32, 3, 2)
    x = net.conv(net.depthwise(x), 16, 1, act=False)
    for out, stride in ((24, 2), (24, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        y = net.depthwise(net.conv(x, net.channels[x] * 6, 1), stride)
        y = net.conv(y, out, 1, act=False)
        x = net.add(x, y) if stride == 1 else y
    return net.save(path, x)


def resnet(path: Path) -> Path:
    net = Network(3, 224)
    x = net.pool(net.conv("x", 64, 7, 2))
    for out, stride in ((64, 1), (128, 2), (256, 2)):
        short = net.conv(x, out, 1, stride, act=False)
        y = net.conv(net.conv(x, out, 3, stride), out, 3, act=False)
        x = net.node("Relu", net.add(short, y), channels=out)
    return net.save(path, x)


def vgg(path: Path) -> Path:
    net = Network(3, 96)
    x = "x"
    for out in (64, 128, 256):
        x = net.pool(net.conv(net.conv(x, out), out))
    return net.save(path, x)


def squeezenet(path: Path) -> Path:
    net = Network(3, 224)
    x = net.pool(net.conv("x", 64, 3, 2))
    for squeeze in (16, 32, 48):
        y = net.conv(x, squeeze, 1)
        x = net.concat(net.conv(y, squeeze * 4, 1), net.conv(y, squeeze * 4, 3))
    return net.save(path, x)


def unet(path: Path) -> Path:
    net = Network(3, 192)
    one = net.conv(net.conv("x", 16), 16)
    two = net.conv(net.conv(net.pool(one), 32), 32)
    three = net.conv(net.pool(two), 64)
    up = transposed(net, three, 32)
    x = net.conv(net.concat(up, two), 32)
    x = net.conv(net.concat(transposed(net, x, 16), one), 16)
    return net.save(path, net.conv(x, 2, 1, act=False), classes=0)


def transposed(net: Network, x: str, out: int) -> str:
    weights = net.weight(net.channels[x], out, 2, 2)
    return net.node("ConvTranspose", x, weights, channels=out, strides=[2, 2])


def densenet(path: Path) -> Path:
    net = Network(3, 224)
    x = net.pool(net.conv("x", 48, 3, 2))
    for _ in range(5):
        x = net.concat(x, net.conv(net.conv(x, 48, 1), 24, 3))
    return net.save(path, x)


def detector(path: Path) -> Path:
    net = Network(3, 256)
    x = net.conv("x", 16, 3, 2)
    heads = []
    for out in (32, 64, 128):
        x = net.conv(net.depthwise(net.conv(x, out, 1)), out, 3, 2)
        heads.append(net.node("Flatten", net.conv(x, 18, 1, act=False), channels=1))
    return net.save(path, net.node("Concat", *heads, channels=1, axis=1), classes=0)


def swish_net(path: Path) -> Path:
    net = Network(3, 224)
    x = net.conv("x", 32, 3, 2, act=False)
    for out, stride in ((32, 1), (64, 2), (96, 2)):
        gate = net.node("Sigmoid", x, channels=net.channels[x])
        x = net.node("Mul", x, gate, channels=net.channels[x])
        x = net.conv(x, out, 3, stride, act=False)
    return net.save(path, x)


def super_resolution(path: Path) -> Path:
    net = Network(1, 160)
    x = net.conv(net.conv("x", 64, 5), 32, 3)
    x = net.conv(x, 4, 3, act=False)
    x = net.node("DepthToSpace", x, channels=1, blocksize=2)
    return net.save(path, x, classes=0)


NETWORKS: dict[str, Callable[[Path], Path]] = {
    build.__name__: build
    for build in (
        mobilenet_v1,
        mobilenet_v2,
        resnet,
        vgg,
        squeezenet,
        unet,
        densenet,
        detector,
        swish_net,
        super_resolution,
    )
}
