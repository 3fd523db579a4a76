"""Resizing, and moving places between space, depth and batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError, channels_first

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.tflite_source.builder import Builder

_IMAGE = channels_first(4)


@imports("RESIZE_BILINEAR", inputs=(2, 2), options="ResizeBilinearOptions")
def import_resize_bilinear(build: Builder) -> None:
    """Between the four neighbours."""
    _resize(build, mode="linear", nearest=None)


@imports("RESIZE_NEAREST_NEIGHBOR", inputs=(2, 2), options="ResizeNearestNeighborOptions")
def import_resize_nearest(build: Builder) -> None:
    """The nearest neighbour, or its index where rounding would lead the two apart."""
    coordinates = _coordinates(build)
    (rows, rows_agree), (columns, columns_agree) = (
        nearest_places(_known(size), target, coordinates)
        for size, target in zip(build.shape(0)[1:3], build.whole_numbers(1), strict=True)
    )
    if rows_agree and columns_agree:
        plain = coordinates == "asymmetric"
        _resize(build, mode="nearest", nearest="floor" if plain else "round_prefer_ceil")
        return
    value = build.node("Gather", [build.input(0, _IMAGE), build.sizes(rows, "rows")], axis=2)
    build.emit("Gather", [value, build.sizes(columns, "columns")], _IMAGE, axis=3)


@imports("SPACE_TO_DEPTH", inputs=(1, 1), options="SpaceToDepthOptions")
def import_space_to_depth(build: Builder) -> None:
    """Blocks of places into channels."""
    value = build.input(0, _IMAGE)
    build.emit("SpaceToDepth", [value], _IMAGE, blocksize=int(build.option("blockSize")))


@imports("DEPTH_TO_SPACE", inputs=(1, 1), options="DepthToSpaceOptions")
def import_depth_to_space(build: Builder) -> None:
    """Channels into blocks of places."""
    value = build.input(0, _IMAGE)
    size = int(build.option("blockSize"))
    build.emit("DepthToSpace", [value], _IMAGE, blocksize=size, mode="DCR")


@imports("SPACE_TO_BATCH_ND", inputs=(3, 3))
def import_space_to_batch(build: Builder) -> None:
    """Every so many-th place into a picture of its own, after padding with zeros."""
    shape = build.shape(0)
    blocks, rest = _blocks(build)
    pads = build.constant(2).reshape(len(blocks), 2).tolist()
    around = [[0, 0], *pads, *([[0, 0]] * rest)]
    padded = build.sizes([before for before, _ in around] + [after for _, after in around], "pads")
    value = build.node("Pad", [build.input(0), padded])
    places = [
        _known(size) + before + after
        for size, (before, after) in zip(shape[1 : 1 + len(blocks)], pads, strict=True)
    ]
    if any(size % block for size, block in zip(places, blocks, strict=True)):
        raise RefusedOperatorError(f"{places} cannot be split into blocks of {blocks}")
    halves = [
        part for size, block in zip(places, blocks, strict=True) for part in (size // block, block)
    ]
    inner = [_known(size) for size in shape[1 + len(blocks) :]]
    value = build.node("Reshape", [value, build.sizes([-1, *halves, *inner], "blocks")])
    count = len(blocks)
    perm = [2 + 2 * i for i in range(count)] + [0] + [1 + 2 * i for i in range(count)]
    perm += list(range(1 + 2 * count, 1 + 2 * count + rest))
    value = build.node("Transpose", [value], perm=perm)
    build.emit("Reshape", [value, build.sizes([-1, *halves[::2], *inner], "shape")])


@imports("BATCH_TO_SPACE_ND", inputs=(3, 3))
def import_batch_to_space(build: Builder) -> None:
    """The way back, before cutting off what was padded."""
    shape = build.shape(0)
    blocks, rest = _blocks(build)
    crops = build.constant(2).reshape(len(blocks), 2).tolist()
    count = len(blocks)
    places = [_known(size) for size in shape[1 : 1 + count]]
    inner = [_known(size) for size in shape[1 + count :]]
    value = build.node(
        "Reshape", [build.input(0), build.sizes([*blocks, -1, *places, *inner], "blocks")]
    )
    perm = [count] + [axis for i in range(count) for axis in (count + 1 + i, i)]
    perm += list(range(1 + 2 * count, 1 + 2 * count + rest))
    value = build.node("Transpose", [value], perm=perm)
    whole = [size * block for size, block in zip(places, blocks, strict=True)]
    value = build.node("Reshape", [value, build.sizes([-1, *whole, *inner], "whole")])
    ends = [size - after for size, (_, after) in zip(whole, crops, strict=True)]
    bounds = [
        build.sizes([before for before, _ in crops], "starts"),
        build.sizes(ends, "ends"),
        build.sizes(list(range(1, 1 + count)), "axes"),
    ]
    build.emit("Slice", [value, *bounds])


def nearest_places(size: int, target: int, coordinates: str) -> tuple[list[int], bool]:
    """Which of `size` places each of `target` places takes in TFLite, and whether in ONNX, too.

    Both compute in single precision and in another order (TFLite: `GetNearestNeighbor`; ONNX:
    Resize, as onnxruntime does it), so that they differ at some sizes. They surely agree where
    the exact quotient leads to the same place as either.
    """
    steps = range(target)
    index, length, wanted = (
        np.arange(target, dtype=np.float32),
        np.float32(size),
        np.float32(target),
    )
    if coordinates == "align_corners":
        last = max(target - 1, 1)
        scale = (length - 1) / np.float32(last) if target > 1 else length / wanted
        litert = _rounded(index * scale)
        onnx = _rounded(index * (length - 1) / np.float32(last))
        exact = [(2 * step * (size - 1) + last) // (2 * last) for step in steps]
    elif coordinates == "half_pixel":
        middle = index + np.float32(0.5)
        litert = np.floor(middle * (length / wanted))
        onnx = _rounded(middle / (wanted / length) - np.float32(0.5))
        exact = [(2 * step + 1) * size // (2 * target) for step in steps]
    else:
        litert, onnx = np.floor(index * (length / wanted)), np.floor(index / (wanted / length))
        exact = [step * size // target for step in steps]
    places = _clipped(litert, size)
    return places, places == _clipped(onnx, size) == exact


def _rounded(coordinates: NDArray[np.float32]) -> NDArray[np.float64]:
    """As `round` of C, for numbers from -0.5 up; in double precision adding a half is exact."""
    return np.floor(coordinates.astype(np.float64) + 0.5)


def _clipped(places: NDArray[Any], size: int) -> list[int]:
    return [int(place) for place in np.clip(places, 0, size - 1)]


def _coordinates(build: Builder) -> str:
    if build.option("alignCorners", default=False):
        return "align_corners"
    return "half_pixel" if build.option("halfPixelCenters", default=False) else "asymmetric"


def _resize(build: Builder, *, mode: str, nearest: str | None) -> None:
    height, width = build.whole_numbers(1)
    value = build.input(0, _IMAGE)
    # All four sizes: with `axes`, onnxruntime's transpose optimizer mixes them up (1.32).
    batch, channels = build.shape(0)[0], build.tensor(0).shape[3]
    if batch is None or channels is None:
        kept = build.node("Shape", [value], start=0, end=2)
        sizes = build.node("Concat", [kept, build.sizes([height, width], "places")], axis=0)
    else:
        sizes = build.sizes([batch, channels, height, width], "sizes")
    build.emit(
        "Resize",
        [value, "", "", sizes],
        _IMAGE,
        mode=mode,
        nearest_mode=nearest,
        coordinate_transformation_mode=_coordinates(build),
    )


def _blocks(build: Builder) -> tuple[list[int], int]:
    """The block sizes, and how many axes lie behind those that they are for."""
    blocks = build.whole_numbers(1)
    rest = build.tensor(0).rank - 1 - len(blocks)
    if not blocks or min(blocks) < 1 or rest < 0:
        raise RefusedOperatorError(f"its blocks are {blocks}")
    return blocks, rest


def _known(size: int | None) -> int:
    if size is None:
        raise RefusedOperatorError("its sizes are not known in advance")
    return size
