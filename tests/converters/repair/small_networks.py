"""Small networks with depthwise layers, trained here on scikit-learn's digits in seconds."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgekit_converters.graph import read_graph
from edgekit_converters.normalise import normalise
from edgekit_converters.repair.chains import find_chains

torch = pytest.importorskip("torch", reason="trains the networks: pip install 'edgekit[torch]'")
datasets = pytest.importorskip("sklearn.datasets", reason="needs pip install 'edgekit[sklearn]'")
nn = torch.nn

LEARNT = 900
CALIBRATING = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A normalised model, and data of its input `x`."""

    model: Any
    calibration: Sequence[dict[str, NDArray[Any]]]
    evaluation: Sequence[dict[str, NDArray[Any]]]
    labels: NDArray[Any]


@functools.cache
def trained(*, spread: float, relu6: bool = False) -> Trained:
    """A network whose depthwise layers read channels with ranges exp(2 * spread) apart.

    The factors of its batch normalisations are set before training and stay; the depthwise layer
    behind each has a normalisation of its own, so that float does not care.
    """
    images, labels = _digits()
    state = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    try:
        network = _network(spread, nn.ReLU6 if relu6 else nn.ReLU)
        _train(network, images[:LEARNT], labels[:LEARNT])
        model = _exported(network)
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(state)
    return Trained(
        model=model,
        calibration=_batches(images[:CALIBRATING], 32),
        evaluation=_batches(images[LEARNT:], 300),
        labels=labels[LEARNT:],
    )


@functools.cache
def broken(
    *, apart: float = 1000.0, outlier: float = 60.0
) -> tuple[Trained, tuple[tuple[str, str], ...]]:
    """A network that int8 breaks, and the names of the layers around what was broken.

    The channels in front of two depthwise layers are scaled up to `apart` times apart, and back
    in these layers, which changes nothing in float; and one pixel of a few calibration images is
    an outlier.
    """
    whole = trained(spread=0.0)
    model = type(whole.model)()
    model.CopyFrom(whole.model)
    graph = read_graph(model)
    arrays = {name: array.copy() for name, array in graph.constants.items()}
    chains = [c for c in find_chains(graph) if c.second.integer("group", 1) > 1][1:]
    for chain in chains:
        exponents = np.random.default_rng(3).permutation(np.linspace(-1, 0, chain.channels))
        factors = (apart**exponents).astype(np.float32)
        for name in chain.first.inputs[1:3]:
            arrays[name] *= factors.reshape(-1, *[1] * (arrays[name].ndim - 1))
        arrays[chain.second.inputs[1]] /= factors.reshape(-1, 1, 1, 1)
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    calibration = [{"x": batch["x"].copy()} for batch in whole.calibration]
    for batch in calibration[:2]:
        batch["x"][0, 0, 0, 0] = outlier
    return (
        Trained(
            model=model,
            calibration=calibration,
            evaluation=whole.evaluation,
            labels=whole.labels,
        ),
        tuple((chain.first.name, chain.second.name) for chain in chains),
    )


def _digits() -> tuple[NDArray[Any], NDArray[Any]]:
    data = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.images / 16).astype(np.float32)[:, None][order], data.target[order]


def _batches(images: NDArray[Any], size: int) -> list[dict[str, NDArray[Any]]]:
    return [{"x": images[start : start + size]} for start in range(0, len(images), size)]


def _network(spread: float, act: type[nn.Module]) -> nn.Module:
    def scaled(channels: int) -> nn.Module:
        norm = nn.BatchNorm2d(channels)
        factors = torch.exp(torch.linspace(-spread, spread, channels))
        factors = factors * (0.2 if act is nn.ReLU6 else 1.0)
        with torch.no_grad():
            norm.weight.copy_(factors)
            norm.bias.copy_(factors)
        norm.weight.requires_grad_(False)
        return norm

    def depthwise(channels: int, stride: int = 1) -> list[nn.Module]:
        layer = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        return [layer, nn.BatchNorm2d(channels), act()]

    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 1, 1, bias=False), scaled(16), act()),
        *depthwise(16),
        *(nn.Conv2d(16, 24, 1, bias=False), scaled(24), act()),
        *depthwise(24, 2),
        *(nn.Conv2d(24, 32, 1, bias=False), scaled(32), act()),
        *depthwise(32),
        *(nn.Conv2d(32, 32, 1), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


def _train(network: nn.Module, images: NDArray[Any], labels: NDArray[Any]) -> None:
    given, wanted = torch.tensor(images), torch.tensor(labels)
    epochs, batch = 8, 60
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learnt, 1e-2)
    steps = epochs * len(images) // batch
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=steps)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(given[part]), wanted[part]).backward()
            optimizer.step()
            rate.step()
    network.eval()


def _exported(network: nn.Module) -> Any:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 1, 8, 8),),
            buffer,
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )
    return normalise(onnx.load_from_string(buffer.getvalue()), where="network")
