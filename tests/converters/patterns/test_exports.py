"""What PyTorch's two exporters write out of common layers, with a free batch."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import onnx
import pytest

from edgekit_converters.normalise import normalise
from tests.converters.patterns.conftest import operators, simplified

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn, functional = torch.nn, torch.nn.functional


class Function(nn.Module):
    """A function of one value, and the layers that it uses."""

    def __init__(self, function: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def trained(module: Any) -> Any:
    """Normalizations whose scale and statistics are not those of an untrained one."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
        if getattr(layer, "weight", None) is not None and "Norm" in type(layer).__name__:
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias)
    return module.eval()


def attend(self: Any, x: Any) -> Any:
    q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in self.layer(x).split(8, dim=2))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def softmax(_: Any, x: Any) -> Any:
    power = torch.exp(x - x.amax(-1, keepdim=True))
    return power / power.sum(-1, keepdim=True)


IMAGE, STEPS = (8, 6, 6), (5, 8)
MODULES: dict[str, tuple[Callable[[], Any], tuple[int, ...], dict[str, int]]] = {
    "gelu": (nn.GELU, IMAGE, {"Gelu": 1}),
    "gelu by tanh": (lambda: nn.GELU(approximate="tanh"), IMAGE, {"Gelu": 1}),
    "hard swish": (lambda: Function(lambda _, x: x * functional.relu6(x + 3) / 6), IMAGE,
                   {"HardSwish": 1}),
    "hard sigmoid": (lambda: Function(lambda _, x: functional.relu6(x + 3) / 6), IMAGE,
                     {"HardSigmoid": 1}),
    "swish": (nn.SiLU, IMAGE, {"Sigmoid": 1, "Mul": 1}),
    "softplus": (nn.Softplus, IMAGE, {"Softplus": 1}),
    "softplus by hand": (lambda: Function(lambda _, x: torch.log1p(torch.exp(x))), IMAGE,
                         {"Softplus": 1}),
    "softmax by hand": (lambda: Function(softmax), STEPS, {"Softmax": 1}),
    "log softmax by hand": (
        lambda: Function(lambda _, x: x - torch.logsumexp(x, -1, keepdim=True)), STEPS,
        {"LogSoftmax": 1}),
    "layer norm": (lambda: nn.LayerNorm(8), STEPS, {"LayerNormalization": 1}),
    "group norm": (lambda: nn.GroupNorm(4, 8), IMAGE,
                   {"Reshape": 2, "InstanceNormalization": 1, "Mul": 1, "Add": 1}),
    "unit length": (lambda: Function(lambda _, x: functional.normalize(x, dim=1)), IMAGE,
                    {"ReduceL2": 1, "Clip": 1, "Div": 1}),
    "pixel unshuffle": (lambda: nn.PixelUnshuffle(2), IMAGE, {"SpaceToDepth": 1, "Gather": 1}),
    "pixel shuffle by hand": (
        lambda: Function(lambda _, x: x.reshape(x.shape[0], 2, 2, 2, 6, 6)
                         .permute(0, 1, 4, 2, 5, 3).reshape(x.shape[0], 2, 12, 12)), IMAGE,
        {"DepthToSpace": 1}),
    "channel shuffle": (
        lambda: Function(lambda _, x: x.view(x.shape[0], 2, 4, 6, 6).transpose(1, 2)
                         .reshape(x.shape[0], 8, 6, 6)), IMAGE, {"Gather": 1}),
    "padded conv": (lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(8, 4, 3)), IMAGE,
                    {"Conv": 1}),
    "norm before conv": (lambda: nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)), IMAGE,
                         {"Conv": 1}),
    "norm behind transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(8, 4, 3), nn.BatchNorm2d(4)), IMAGE,
        {"ConvTranspose": 1}),
    "prepared image": (
        lambda: Function(lambda self, x: self.conv((x / 255 - 0.45) / 0.22),
                         conv=nn.Conv2d(8, 4, 3)), IMAGE, {"Conv": 1}),
    "resize": (lambda: Function(lambda _, x: functional.interpolate(
        x, size=(x.shape[2] * 2, x.shape[3] * 2))), IMAGE, {"Resize": 1}),
    "expanded parameter": (
        lambda: Function(lambda self, x: x + self.p.expand(x.shape[0], -1, -1),
                         p=nn.Parameter(torch.ones(1, 5, 8))), STEPS, {"Add": 1}),
    "flat view": (lambda: Function(lambda _, x: x.view(x.size(0), -1)), IMAGE, {"Reshape": 1}),
    "attention": (
        lambda: Function(lambda self, x: self.layer(x, x, x, need_weights=False)[0],
                         layer=nn.MultiheadAttention(8, 2, batch_first=True)), STEPS,
        {"MatMul": 6, "Reshape": 4, "Transpose": 4, "Softmax": 1}),
    "attention by function": (lambda: Function(attend, layer=nn.Linear(8, 24)), STEPS,
                              {"MatMul": 3, "Add": 1, "Split": 1, "Reshape": 4, "Transpose": 4,
                               "Mul": 2, "Softmax": 1}),
    "lstm": (lambda: Function(lambda self, x: self.layer(x)[0],
                              layer=nn.LSTM(8, 6, batch_first=True)), STEPS,
             {"Transpose": 2, "LSTM": 1, "Squeeze": 1}),
    "gru": (lambda: Function(lambda self, x: self.layer(x)[0],
                             layer=nn.GRU(8, 6, bidirectional=True, batch_first=True)), STEPS,
            {"Transpose": 2, "GRU": 1, "Reshape": 1}),
}  # fmt: skip


def exported(module: Any, shape: tuple[int, ...], *, dynamo: bool) -> Any:
    content, example = io.BytesIO(), torch.randn(2, *shape)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        if dynamo:
            batch = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(
                module, (example,), content, dynamo=True, opset_version=18,
                input_names=["x"], output_names=["y"], dynamic_shapes=batch,
            )  # fmt: skip
        else:
            torch.onnx.export(
                module, (example,), content, dynamo=False, opset_version=16,
                input_names=["x"], output_names=["y"],
                dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
            )  # fmt: skip
    return onnx.load_from_string(content.getvalue())


def left_of(module: Any, shape: tuple[int, ...], *, dynamo: bool) -> dict[str, int]:
    source = exported(trained(module), shape, dynamo=dynamo)
    return dict(operators(simplified(normalise(source, where="test"), tolerance=1e-5)))


def alike(name: str) -> str:
    """Squeeze and Flatten are what an exporter may write for a Reshape."""
    return "Reshape" if name in {"Squeeze", "Flatten"} else name


@pytest.mark.parametrize("name", MODULES)
def test_torchscript(name: str) -> None:
    torch.manual_seed(4)
    build, shape, expected = MODULES[name]
    assert left_of(build(), shape, dynamo=False) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_dynamo(name: str) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    torch.manual_seed(4)
    build, shape, expected = MODULES[name]
    found = left_of(build(), shape, dynamo=True)
    assert sorted(map(alike, found)) == sorted(map(alike, expected))
    assert sum(found.values()) == sum(expected.values())
