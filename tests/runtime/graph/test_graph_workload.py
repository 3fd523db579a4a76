"""Counting agrees with arithmetic done by hand and with published counts of known networks."""

from __future__ import annotations

import csv
import importlib
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit_runtime.graph.read import read_graph
from edgekit_runtime.graph.workload import Workload, count_workload
from runtime.graph.tflite_files import conv_model, pack

FLOAT = TensorProto.FLOAT


@dataclass
class Net:
    """A sequential ONNX network whose weights are made by the engine, so that files stay small."""

    height: int
    channels: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)
    last: str = "x"

    def weights(self, *shape: int) -> str:
        name = f"w{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}_shape"))
        self.nodes.append(helper.make_node("ConstantOfShape", [f"{name}_shape"], [name]))
        return name

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        made = helper.make_node(kind, [self.last, *inputs], [name], **attributes)
        self.nodes.append(made)
        self.last = name
        return name

    def conv(
        self, out: int, kernel: int, stride: int = 1, *, group: int = 1, relu: bool = True
    ) -> None:
        self.channels_in = self.channels
        weights = self.weights(out, self.channels // group, kernel, kernel)
        self.add("Conv", weights, strides=[stride] * 2, auto_pad="SAME_UPPER", group=group)
        self.channels, self.height = out, math.ceil(self.height / stride)
        if relu:
            self.add("Clip")

    def save(self, path: Path, side: int, channels: int) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", FLOAT, [1, channels, side, side])],
            [helper.make_tensor_value_info(self.last, FLOAT, None)],
            self.stored,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(path))
        return path


def mobilenet_v1(path: Path, side: int, width: float) -> Path:
    net = Net(side, 3)
    net.conv(int(32 * width), 3, 2)
    wanted = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    for out, stride in [*wanted, (1024, 2), (1024, 1)]:
        net.conv(net.channels, 3, stride, group=net.channels)
        net.conv(int(out * width), 1)
    net.add("GlobalAveragePool")
    net.conv(1001, 1, relu=False)
    net.add("Flatten")
    return net.save(path, side, 3)


def mobilenet_v2(path: Path, side: int) -> Path:
    net = Net(side, 3)
    net.conv(32, 3, 2)
    for expand, out, count, first in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
        (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ]:  # fmt: skip
        for index in range(count):
            before, channels, stride = net.last, net.channels, first if index == 0 else 1
            if expand > 1:
                net.conv(channels * expand, 1)
            net.conv(net.channels, 3, stride, group=net.channels)
            net.conv(out, 1, relu=False)
            if stride == 1 and channels == out:
                net.add("Add", before)
    net.conv(1280, 1)
    net.add("GlobalAveragePool")
    net.conv(1001, 1, relu=False)
    return net.save(path, side, 3)


def published(shared_data: Path, model: str) -> dict[str, int]:
    with (shared_data / "model_features.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["model"] == model)
    return {name: int(value) for name, value in row.items() if name != "model"}


def counted(path: Path) -> Workload:
    workload = count_workload(read_graph(path))
    assert not workload.unknown
    return workload


def test_the_tiny_tflite_model_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "conv.tflite"
    path.write_bytes(pack(conv_model()))
    workload = counted(path)
    assert workload == Workload(
        conv3x3_stride1_macs=4 * 4 * 3 * 9 * 2,
        weight_elements=54,
        conv_activation_elements=32 + 48,
        elementwise_elements=48,
        traffic_elements=48 + 3,
        op_count=2,
        layer_count=2,
        parameters=54 + 3,
    )
    assert workload.macs == 864


@pytest.mark.parametrize(("side", "width"), [(128, 0.25), (224, 1.0)])
def test_mobilenet_v1_counts_as_published(
    tmp_path: Path, shared_data: Path, side: int, width: float
) -> None:
    found = counted(mobilenet_v1(tmp_path / "v1.onnx", side, width)).to_json()
    wanted = published(shared_data, f"mobilenet_v1_{width}_{side}")
    # The published activations count the picture itself a second time.
    wanted["conv_activation_elements"] -= side * side * 3
    assert {name: found[name] for name in wanted} == wanted


def test_mobilenet_v2_counts_as_published(tmp_path: Path, shared_data: Path) -> None:
    found = counted(mobilenet_v2(tmp_path / "v2.onnx", 224)).to_json()
    wanted = published(shared_data, "mobilenet_v2_1.0_224")
    wanted["conv_activation_elements"] -= 224 * 224 * 3
    assert {name: found[name] for name in wanted} == wanted


def test_resnet50_layers_count_as_published(shared_data: Path) -> None:
    light = Path(importlib.import_module("onnx.backend.test").__file__ or "").parent
    workload = counted(light / "data" / "light" / "light_resnet50.onnx")
    layers = published(shared_data, "ncnn:resnet50")
    assert workload.traffic_elements == layers["elementwise_elements"]
    assert workload.layer_count == layers["op_count"]
    assert workload.weight_elements == layers["weight_elements"]
    products = published(shared_data, "resnet50_v1.5")
    for column in ("conv3x3_stride1_macs", "conv_other_macs", "pointwise_macs"):
        assert workload.to_json()[column] == products[column]
    assert workload.op_count == products["op_count"] + 1  # the published count leaves softmax out


@given(
    side=st.integers(3, 12),
    channels=st.integers(2, 6),
    out=st.integers(1, 6),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
)
def test_a_convolution_counts_as_its_loops(
    tmp_path_factory: pytest.TempPathFactory,
    side: int, channels: int, out: int, kernel: int, stride: int,
) -> None:  # fmt: skip
    net = Net(side, channels)
    net.conv(out, kernel, stride, relu=False)
    path = net.save(tmp_path_factory.mktemp("net") / "one.onnx", side, channels)
    workload = counted(path)
    places = math.ceil(side / stride) ** 2
    assert workload.macs == places * out * channels * kernel * kernel
    column = {(1, 1): "pointwise_macs", (1, 2): "pointwise_macs", (3, 1): "conv3x3_stride1_macs"}
    assert getattr(workload, column.get((kernel, stride), "conv_other_macs")) == workload.macs
    assert workload.conv_activation_elements == side * side * channels + places * out


@pytest.mark.parametrize(
    ("kind", "left", "right", "attributes", "macs"),
    [
        ("MatMul", [4, 8], [8, 3], {}, 96),
        ("Gemm", [4, 8], [3, 8], {"transB": 1}, 96),
        ("Gemm", [8, 4], [8, 3], {"transA": 1}, 96),
        ("MatMul", [2, 5, 4, 8], [8, 3], {}, 960),
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_products_count_as_their_loops(
    tmp_path: Path, kind: str, left: list[int], right: list[int],
    attributes: dict[str, int], macs: int, *, stored: bool,
) -> None:  # fmt: skip
    weights = numpy_helper.from_array(np.ones(right, np.float32), "b")
    inputs = [helper.make_tensor_value_info("a", FLOAT, left)]
    if not stored:
        inputs.append(helper.make_tensor_value_info("b", FLOAT, right))
    graph = helper.make_graph(
        [helper.make_node(kind, ["a", "b"], ["y"], **attributes)],
        "product",
        inputs,
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [weights] if stored else [],
    )
    path = tmp_path / "product.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    workload = counted(path)
    assert (workload.fc_macs if stored else workload.matmul_macs) == workload.macs == macs
    assert workload.fc_weight_elements == (24 if stored else 0)


def test_an_lstm_counts_every_step(shared_data: Path) -> None:
    workload = counted(shared_data / "mnist" / "trained_lstm.tflite")
    # 28 steps, 28 features, 20 cells, 4 gates; then 560 x 10.
    assert workload.recurrent_macs == 28 * 4 * 20 * (28 + 20)
    assert workload.fc_macs == 5600


def test_float_and_integer_twins_count_alike(shared_data: Path) -> None:
    folder = shared_data / "sine"
    assert counted(folder / "hello_world_float.tflite") == counted(
        folder / "hello_world_int8.tflite"
    )


def test_unknown_shapes_are_named_not_guessed(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Magic", ["x"], ["y"], domain="example.org", name="spell")],
        "odd",
        [helper.make_tensor_value_info("x", FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
    )
    path = tmp_path / "odd.onnx"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("example.org", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    workload = count_workload(read_graph(path))
    assert workload.macs == 0
    assert workload.unknown == ("Magic 'spell': shapes not known",)
