"""Train both versions of the digit classifier and export them to ONNX.

    python examples/digits/train.py --output DIR

Each version learns from the train split alone. The calibration split is what is watched, and
what a recipe may be chosen by; the test split only measures the exported files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import platform
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from networks import LargerNetwork, SmallNetwork, for_inference
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

ASSETS = Path(__file__).resolve().parent / "assets"
SPLITS = ("train", "calibration", "test")
OPSET = 18
SEED = 20261104


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one version is trained.

    Attributes:
        name: The stem of the file that it becomes.
        network: The class of the network, in `networks.py`.
        epochs: How often every training sample is seen.
        batch_size: Samples per step.
        learning_rate: The highest of the one-cycle schedule.
        weight_decay: AdamW's; keeps the weights small, and so good to quantize.
        shift_pixels: The furthest that an image is moved at random, in each direction.
        label_smoothing: How much of each target is spread over all classes.
    """

    name: str
    network: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    shift_pixels: float
    label_smoothing: float


RECIPES = (
    Recipe(
        name="digits_v1",
        network="SmallNetwork",
        epochs=6,
        batch_size=32,
        learning_rate=0.01,
        weight_decay=0.01,
        shift_pixels=0.0,
        label_smoothing=0.0,
    ),
    Recipe(
        name="digits_v2",
        network="LargerNetwork",
        epochs=60,
        batch_size=32,
        learning_rate=0.006,
        weight_decay=0.05,
        shift_pixels=0.8,
        label_smoothing=0.05,
    ),
)
NETWORKS: dict[str, type[nn.Module]] = {
    "SmallNetwork": SmallNetwork,
    "LargerNetwork": LargerNetwork,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Images (float32 [N, 1, 8, 8], 0..1) and their classes (int64 [N])."""

    image: NDArray[np.float32]
    labels: NDArray[np.int64]


def load_split(folder: Path, name: str) -> Split:
    """Read one split that `make_data.py` wrote."""
    with np.load(folder / f"{name}.npz") as arrays:
        return Split(image=arrays["image"], labels=arrays["labels"])


def shift(image: torch.Tensor, pixels: float) -> torch.Tensor:
    """Move each image by its own random part of a pixel or more, filling with white."""
    # grid_sample measures an image as 2 wide, from -1 to 1.
    move = (torch.rand(len(image), 2) * 2 - 1) * (2 * pixels / image.shape[-1])
    affine = torch.eye(2, 3).repeat(len(image), 1, 1)
    affine[:, :, 2] = move
    grid = functional.affine_grid(affine, list(image.shape), align_corners=False)
    return functional.grid_sample(image, grid, padding_mode="zeros", align_corners=False)


def accuracy_of(network: nn.Module, split: Split) -> float:
    """Return the share of a split that a network in evaluation mode gets right."""
    with torch.no_grad():
        predicted = network(torch.from_numpy(split.image)).argmax(dim=1).numpy()
    return float((predicted == split.labels).mean())


def train(recipe: Recipe, *, seed: int, data: Split, watched: Split) -> nn.Module:
    """Train one version, telling the accuracy on the watched split after each epoch."""
    torch.manual_seed(seed)
    network = NETWORKS[recipe.network]()
    image, labels = torch.from_numpy(data.image), torch.from_numpy(data.labels)
    steps_per_epoch = -(-len(image) // recipe.batch_size)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=recipe.learning_rate,
        total_steps=steps_per_epoch * recipe.epochs,
    )
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        losses = []
        for chosen in torch.randperm(len(image)).split(recipe.batch_size):
            batch = image[chosen]
            if recipe.shift_pixels:
                batch = shift(batch, recipe.shift_pixels)
            loss = functional.cross_entropy(
                network(batch), labels[chosen], label_smoothing=recipe.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        network.eval()
        print(
            f"{recipe.name} epoch {epoch:3d}/{recipe.epochs}: loss {np.mean(losses):.4f}, "
            f"calibration accuracy {accuracy_of(network, watched):.4f}",
            flush=True,
        )
    return network


def name_nodes(model: onnx.ModelProto) -> None:
    """Name each node after the layer whose weights it uses, or after its operator.

    The exporter's own names say where in its internals a node came from, and its metadata
    holds the paths of the machine that exported.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    renamed: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        used = [name for name in node.input if name in constants]
        layers = [name.rpartition(".")[0] for name in used if "." in name]
        if layers:
            node.name = layers[0]
        else:
            stem = node.op_type.lower()
            seen[stem] += 1
            node.name = f"{stem}{seen[stem]}"
            # The only constant that is not a layer's weight is the shape of a Reshape.
            for name in used:
                renamed[name] = constants[name].name = f"{node.name}.shape"
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        for i, name in enumerate(node.output):
            if name not in outputs:
                renamed[name] = f"{node.name}_out"
                node.output[i] = renamed[name]
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
    # Shapes of intermediate values are inferred again by whoever needs them.
    model.graph.ClearField("value_info")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")


def export(network: nn.Module, path: Path) -> None:
    """Write a trained network as one ONNX file with a dynamic batch."""
    # It would mention that torchvision, which this network does not use, is missing.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Comes from within torch itself.
        warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
        program = torch.onnx.export(
            for_inference(network),
            (torch.zeros(2, 1, 8, 8),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no model")
    model = program.model_proto
    model.graph.name = path.stem
    name_nodes(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def exported_accuracy(path: Path, split: Split) -> float:
    """Return the share of a split that the exported file gets right, run by onnxruntime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": split.image})
    return round(float((logits.argmax(axis=1) == split.labels).mean()), 6)


def sha256_of(path: Path) -> str:
    """Return the hash of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Train, export, measure what was exported, and write it all down in `training.json`."""
    parser = argparse.ArgumentParser(description="Train and export the digit classifiers.")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write into")
    parser.add_argument("--data", type=Path, default=ASSETS, help="the folder of the splits")
    parser.add_argument("--seed", type=int, default=SEED, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="train each version for so many epochs instead")
    options = parser.parse_args()
    if options.epochs is not None and options.epochs < 1:
        parser.error("--epochs must be 1 or more")

    # With several threads the order of additions, and so the result, would vary.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    splits = {name: load_split(options.data, name) for name in SPLITS}
    options.output.mkdir(parents=True, exist_ok=True)
    models = {}
    for given in RECIPES:
        recipe = given if options.epochs is None else replace(given, epochs=options.epochs)
        network = train(
            recipe, seed=options.seed, data=splits["train"], watched=splits["calibration"]
        )
        path = options.output / f"{recipe.name}.onnx"
        export(network, path)
        accuracy = {name: exported_accuracy(path, split) for name, split in splits.items()}
        models[recipe.name] = {
            "recipe": asdict(recipe),
            "parameters": sum(p.numel() for p in for_inference(network).parameters()),
            "file": path.name,
            "size_bytes": path.stat().st_size,
            "sha256": sha256_of(path),
            "accuracy": accuracy,
        }
        print(f"{path}: {path.stat().st_size / 1e3:.1f} kB, accuracy {accuracy}")
    record = {
        "seed": options.seed,
        "opset": OPSET,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "onnx", "onnxruntime", "onnxscript")},
            "numpy": version("numpy"),
        },
        "machine": platform.machine(),
        "data": {
            name: {
                "samples": len(split.labels),
                "sha256": sha256_of(options.data / f"{name}.npz"),
            }
            for name, split in splits.items()
        },
        "models": models,
    }
    path = options.output / "training.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{path}: how they were made")


if __name__ == "__main__":
    main()
