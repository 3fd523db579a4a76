"""Non-maximum suppression: of boxes that overlap, the one with the highest score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.size_steps import Extent
from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_BOXES, _SCORES, _COUNT, _OVERLAP, _LEAST_SCORE = range(5)
# Every sample and class is a run of its own, of ten operators.
_MAX_RUNS: Final = 1024


@lowers("NonMaxSuppression", dtypes={})
def lower_non_max_suppression(build: Builder, node: Node) -> None:
    """One run of NON_MAX_SUPPRESSION_V4 for each sample and class."""
    steps = Steps(build, node)
    boxes, scores = steps.in_onnx_order(_BOXES), steps.in_onnx_order(_SCORES)
    samples = scores.shape[0] if scores.shape[0] is not None else boxes.shape[0]
    classes = scores.shape[1]
    if samples is None or classes is None or samples * classes > _MAX_RUNS:
        raise RefusedNodeError(
            f"it is of a free number of samples or classes, or of more than {_MAX_RUNS} together"
        )
    if node.integer("center_point_box", 0):
        boxes = _corners(steps, boxes)
    limit = _limit(steps, scores)
    overlap = _overlap(steps)
    rows, counts = [], []
    for sample in range(samples):
        own = steps.squeeze(steps.slice_axis(boxes, 0, sample, 1), 0)
        for index in range(classes):
            line = steps.slice_axis(steps.slice_axis(scores, 0, sample, 1), 1, index, 1)
            chosen, count = _suppress(steps, own, steps.squeeze(line, 0, 1), limit, overlap)
            rows.append(chosen)
            counts.append(count)
    steps.finish(_triples(steps, rows, counts, classes))


def _corners(steps: Steps, boxes: Tensor) -> Tensor:
    """Centres and sizes (x, y, width, height) as corners (y, x, y, x)."""
    x, y, width, height = (steps.slice_axis(boxes, -1, at, 1) for at in range(4))
    wide, high = steps.mul(width, 0.5), steps.mul(height, 0.5)
    return steps.concat(
        [steps.sub(y, high), steps.sub(x, wide), steps.add(y, high), steps.add(x, wide)], -1
    )


def _limit(steps: Steps, scores: Tensor) -> Extent:
    """How many boxes a class may keep."""
    known = steps.build.known(steps.node, _COUNT)
    available = steps.extent(scores, -1)
    if known is not None or not steps.node.input(_COUNT):
        wanted = 0 if known is None else max(int(known.reshape(-1)[0]), 0)
        if wanted == 0:
            raise RefusedNodeError("it keeps no boxes at all")
        if isinstance(available, int):
            return min(wanted, available)
        return steps.minimum(available, wanted)
    given = steps.reshape(steps.bounded(steps.in_onnx_order(_COUNT)), ())
    return steps.minimum(steps.maximum(given, 0), steps.scalar(available))


def _overlap(steps: Steps) -> Tensor:
    """The threshold of the kernel, which also suppresses what overlaps by just as much."""
    known = steps.build.known(steps.node, _OVERLAP)
    if known is not None or not steps.node.input(_OVERLAP):
        value = np.float32(0 if known is None else known.reshape(-1)[0])
        return steps.constant(np.array(np.nextafter(value, np.float32(np.inf))), "overlap")
    given = steps.reshape(steps.in_onnx_order(_OVERLAP), ())
    # Of numbers that are not negative, the next one is that of the next higher bits.
    return steps.bits(steps.add(steps.bits(given, "int32"), 1), "float32")


def _suppress(
    steps: Steps, boxes: Tensor, scores: Tensor, limit: Extent, overlap: Tensor
) -> tuple[Tensor, Tensor]:
    """The indices that are kept in one row, filled up with zeros, and how many they are.

    The kernel takes equal scores in any order, ONNX by their index: so the kernel gets the places
    in that order instead of the scores.
    """
    count = steps.extent(scores, 0)
    size = count if isinstance(count, int) else None
    values, order = steps.top_k(scores, steps.scalar(count), size)
    sorted_boxes = steps.gather(boxes, order, 0)
    if isinstance(count, int):
        ranks = steps.constant(np.arange(count, 0, -1, dtype=np.float32), "ranks")
    else:
        ranks = steps.cast(steps.sub(count, steps.iota(count)), "float32")
    if steps.node.input(_LEAST_SCORE):
        least = steps.reshape(steps.in_onnx_order(_LEAST_SCORE), ())
        ranks = steps.select(steps.greater(values, least), ranks, -1.0)
    chosen, number = steps.steps(
        "NON_MAX_SUPPRESSION_V4",
        [sorted_boxes, ranks, steps.scalar(limit), overlap, steps.number(0.0)],
        [((limit if isinstance(limit, int) else None,), "int32"), ((), "int32")],
    )
    return steps.gather(order, chosen, 0), number


def _triples(steps: Steps, rows: list[Tensor], counts: list[Tensor], classes: int) -> Tensor:
    """Sample, class and box of all that is kept."""
    table, lengths = steps.stack(rows, 0), steps.stack(counts, 0)
    columns = steps.coordinates(steps.extent(table, 1), 1, 2)
    kept = steps.less(columns, steps.expand_dims(lengths, 1))
    places = steps.cast(steps.where(kept), "int32")
    boxes = steps.gather_nd(table, places)
    runs = steps.squeeze(steps.slice_axis(places, 1, 0, 1), 1)
    samples = steps.floor_div(runs, classes)
    return steps.stack([samples, steps.floor_mod(runs, classes), boxes], 1)
