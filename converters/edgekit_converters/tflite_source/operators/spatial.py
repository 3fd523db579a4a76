"""Resizing, and moving places between space, depth and batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError, channels_first

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder

_IMAGE = channels_first(4)


@imports("RESIZE_BILINEAR", inputs=(2, 2), options="ResizeBilinearOptions")
def import_resize_bilinear(build: Builder) -> None:
    """Between the four neighbours."""
    _resize(build, mode="linear", nearest=None)


@imports("RESIZE_NEAREST_NEIGHBOR", inputs=(2, 2), options="ResizeNearestNeighborOptions")
def import_resize_nearest(build: Builder) -> None:
    """The nearest neighbour; which that is at half-way follows from the coordinates."""
    plain = not (
        build.option("alignCorners", default=False)
        or build.option("halfPixelCenters", default=False)
    )
    _resize(build, mode="nearest", nearest="floor" if plain else "round_prefer_ceil")


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
    source = build.tensor(0)
    blocks, rest = _blocks(build)
    pads = build.constant(2).reshape(len(blocks), 2).tolist()
    around = [[0, 0], *pads, *([[0, 0]] * rest)]
    padded = build.sizes([before for before, _ in around] + [after for _, after in around], "pads")
    value = build.node("Pad", [build.input(0), padded])
    places = [
        _known(size) + before + after
        for size, (before, after) in zip(source.shape[1 : 1 + len(blocks)], pads, strict=True)
    ]
    if any(size % block for size, block in zip(places, blocks, strict=True)):
        raise RefusedOperatorError(f"{places} cannot be split into blocks of {blocks}")
    halves = [
        part for size, block in zip(places, blocks, strict=True) for part in (size // block, block)
    ]
    inner = [_known(size) for size in source.shape[1 + len(blocks) :]]
    value = build.node("Reshape", [value, build.sizes([-1, *halves, *inner], "blocks")])
    count = len(blocks)
    perm = [2 + 2 * i for i in range(count)] + [0] + [1 + 2 * i for i in range(count)]
    perm += list(range(1 + 2 * count, 1 + 2 * count + rest))
    value = build.node("Transpose", [value], perm=perm)
    shape = [-1, *halves[::2], *inner]
    build.emit("Reshape", [value, build.sizes(shape, "shape")])


@imports("BATCH_TO_SPACE_ND", inputs=(3, 3))
def import_batch_to_space(build: Builder) -> None:
    """The way back, before cutting off what was padded."""
    source = build.tensor(0)
    blocks, rest = _blocks(build)
    crops = build.constant(2).reshape(len(blocks), 2).tolist()
    count = len(blocks)
    places = [_known(size) for size in source.shape[1 : 1 + count]]
    inner = [_known(size) for size in source.shape[1 + count :]]
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


def _resize(build: Builder, *, mode: str, nearest: str | None) -> None:
    height, width = build.whole_numbers(1)
    align = build.option("alignCorners", default=False)
    half = build.option("halfPixelCenters", default=False)
    value = build.input(0, _IMAGE)
    # All four sizes: with `axes`, onnxruntime's transpose optimizer mixes them up (1.32).
    front = build.tensor(0)
    if front.shape[0] is None:
        kept = build.node("Shape", [value], start=0, end=2)
        sizes = build.node("Concat", [kept, build.sizes([height, width], "places")], axis=0)
    else:
        sizes = build.sizes([front.shape[0], _known(front.shape[3]), height, width], "sizes")
    build.emit(
        "Resize",
        [value, "", "", sizes],
        _IMAGE,
        mode=mode,
        nearest_mode=nearest,
        coordinate_transformation_mode="align_corners"
        if align
        else "half_pixel"
        if half
        else "asymmetric",
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
