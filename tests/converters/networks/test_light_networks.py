"""The nine architectures of the `onnx` package against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.converters.networks.agreement import assert_agrees, convert
from tests.converters.networks.light import NAMES, build

# The others take seconds to compute once.
QUICK = {"shufflenet", "squeezenet"}
CONVOLUTION = {"CONV_2D", "DEPTHWISE_CONV_2D", "PAD"}
POOLING = {"MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN"}
HEAD = {"RESHAPE", "FULLY_CONNECTED", "SOFTMAX"}
EXPECTED = {
    "bvlc_alexnet": {*CONVOLUTION, *POOLING, *HEAD, "LOCAL_RESPONSE_NORMALIZATION"},
    "densenet121": {*CONVOLUTION, *POOLING, *HEAD, "CONCATENATION", "MUL", "ADD"},
    # Its average counts padding, which LiteRT's does not: a factor for each place.
    "inception_v1": {
        *CONVOLUTION, *POOLING, *HEAD, "CONCATENATION", "LOCAL_RESPONSE_NORMALIZATION", "MUL",
    },
    "inception_v2": {*CONVOLUTION, *POOLING, *HEAD, "CONCATENATION", "MUL"},
    "resnet50": {*CONVOLUTION, *POOLING, *HEAD, "ADD"},
    "shufflenet": {*CONVOLUTION, *POOLING, *HEAD, "CONCATENATION", "ADD", "MUL", "RELU", "GATHER"},
    "squeezenet": {*CONVOLUTION, *POOLING, *HEAD, "CONCATENATION"},
    "vgg19": {*CONVOLUTION, *POOLING, *HEAD},
    "zfnet512": {*CONVOLUTION, *POOLING, *HEAD, "LOCAL_RESPONSE_NORMALIZATION"},
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow], id=name)
        for name in NAMES
    ],
)
def test_light_networks_agree_with_onnxruntime(name: str, tmp_path: Path) -> None:
    source = tmp_path / f"{name}.onnx"
    onnx.save_model(build(name), str(source))
    target, operators = convert(source)
    assert_agrees(source, target)
    # The image comes with its channels first, and nothing else has to move.
    assert operators.pop("TRANSPOSE") == 1
    assert set(operators) <= EXPECTED[name]
