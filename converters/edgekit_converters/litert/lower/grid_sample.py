"""GridSample, which reads an image at given points, and AffineGrid, which makes such points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import channels_last, identity
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.point_sampling import Reading, read_points
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.spatial import known_sizes
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import FLOAT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

# Before opset 20, two modes were called after images.
_MODES: Final = {"bilinear": "linear", "bicubic": "cubic"}


@lowers("GridSample", layout=channels_last, dtypes={"T1": FLOAT, "T2": FLOAT})
def lower_grid_sample(build: Builder, node: Node) -> None:
    """Gathered cells and their weights."""
    steps = Steps(build, node)
    field = steps.input()
    mode = node.text("mode", "linear")
    reading = Reading(
        mode=_MODES.get(mode, mode),
        padding=node.text("padding_mode", "zeros"),
        corners=bool(node.integer("align_corners", 0)),
    )
    if reading.mode not in {"nearest", "linear", "cubic"}:
        raise RefusedNodeError(f"its mode is {mode!r}")
    if reading.padding not in {"zeros", "border", "reflection"}:
        raise RefusedNodeError(f"its padding is {reading.padding!r}")
    sizes = known_sizes(field.shape[1:-1], "input")
    grid = build.input(node, 1, order=identity(len(build.shape(node.input(1)))))
    points: list[Tensor] = []
    # The grid names the innermost axis first.
    for place, size in enumerate(reversed(sizes)):
        numbers = steps.squeeze(steps.slice_axis(grid, -1, place, 1), -1)
        points.insert(0, _in_cells(steps, numbers, size, reading))
    steps.finish(read_points(steps, field, points, reading))


@lowers("AffineGrid", dtypes={"T1": FLOAT})
def lower_affine_grid(build: Builder, node: Node) -> None:
    """A product of each matrix with the same points."""
    steps = Steps(build, node)
    matrices = steps.input()
    asked = build.known(node, 1)
    shape = build.shape(node.outputs[0])[1:-1] if asked is None else tuple(asked[2:].tolist())
    sizes = known_sizes(shape, "output")
    points = _regular_points(sizes, corners=bool(node.integer("align_corners", 0)))
    made = steps.matmul(steps.constant(points, "points"), matrices, turn_second=True)
    steps.finish(steps.reshape(made, (matrices.shape[0], *sizes, len(sizes))))


def _in_cells(steps: Steps, numbers: Tensor, size: int, reading: Reading) -> Tensor:
    """Numbers from -1 to 1 as places between cells."""
    if reading.corners:
        return steps.mul(steps.mul(steps.add(numbers, 1.0), 0.5), size - 1.0)
    scaled = steps.mul(steps.add(numbers, 1.0), float(size))
    return steps.mul(steps.sub(scaled, 1.0), 0.5)


def _regular_points(sizes: tuple[int, ...], *, corners: bool) -> NDArray[np.float32]:
    """The points of a grid in homogeneous coordinates, the innermost axis first: (1, points, n)."""
    axes = []
    for size in sizes:
        if corners:
            axes.append(np.linspace(-1.0, 1.0, size) if size > 1 else np.zeros(1))
        else:
            axes.append((2 * np.arange(size) + 1) / size - 1)
    grid = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
    flat = grid.reshape(-1, len(sizes))
    homogeneous = np.concatenate([flat, np.ones((len(flat), 1))], axis=1)
    return np.asarray(homogeneous[None], dtype=np.float32)
