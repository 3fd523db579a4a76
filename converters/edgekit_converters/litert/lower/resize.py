"""Resize: LiteRT's own operators where they read the same cells, gathers and weights elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.layout import (
    NodeLayout,
    Permutation,
    channels_last,
    follow,
    identity,
)
from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.folding_steps import FoldingSteps
from edgekit_converters.litert.lower.interpolation import (
    ResizedAxis,
    Sampling,
    nearest_cells,
    outside,
    places_of,
    sampling_of,
    taps_of,
    whole_length,
)
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.resize_kernels import resize_by_kernel

if TYPE_CHECKING:
    from edgekit_converters.graph import Graph, Node
    from edgekit_converters.litert.program import Tensor

_ROI, _SCALES, _SIZES = 1, 2, 3
_LEAST_IMAGE_RANK = 3
# What GATHER copies; other types are carried by one of these.
_TYPES: Final = frozenset({"bool", "float32", "int8", "int16", "int32", "int64", "uint8"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One axis to be resized, as the lowering sees it.

    Attributes:
        position: The axis in the order that the node works in.
        after: The size of the output, None where only the running model knows it.
        axis: What the formulas need.
        places: Where each cell of the output lies in the input.
    """

    position: int
    after: int | None
    axis: ResizedAxis
    places: Tensor


def _rule(node: Node, graph: Graph, stored: Mapping[str, Permutation]) -> NodeLayout:
    """Channels last where batch and channels keep their sizes; else as it comes."""
    before = graph.shape(node.input(0)) or ()
    if len(before) < _LEAST_IMAGE_RANK:
        return follow(node, graph, stored)
    moved = _moved_axes(node, graph)
    if not moved & {0, 1}:
        return channels_last(node, graph, stored)
    if not moved & {0, len(before) - 1}:
        order = identity(len(before))
        return NodeLayout(work=order, stored=order)
    return follow(node, graph, stored)


@lowers("Resize", layout=_rule, dtypes={"T1": _TYPES})
def lower_resize(build: Builder, node: Node) -> None:
    """One axis after the other, which is what all modes of a Resize come to."""
    sampling = sampling_of(node)
    steps = FoldingSteps(build, node)
    value = steps.input()
    if sampling.mode != "nearest":
        if value.dtype != "float32":
            raise RefusedNodeError(f"it interpolates {value.dtype}, which tools round differently")
        if len(value.shape) > 5:  # noqa: PLR2004
            raise RefusedNodeError(f"its input has rank {len(value.shape)}, supported: up to 5")
    tasks = [
        _Task(
            position=build.layout.work.index(at),
            after=build.shape(node.outputs[0])[at],
            axis=axis,
            places=places_of(steps, _cells(steps, axis), axis, sampling),
        )
        for at, axis in _axes_to_resize(build, node, steps, value).items()
    ]
    for task in tasks:
        _refuse_what_tools_disagree_on(task.axis, sampling)
    places = {task.position: task.places.data for task in tasks}
    value, done = resize_by_kernel(
        steps,
        value,
        {at: place for at, place in places.items() if place is not None},
        nearest=_constant_cells(steps, tasks, sampling) if sampling.mode == "nearest" else None,
        linear=sampling.mode == "linear" and not sampling.antialias,
    )
    for task in tasks:
        if task.position in done:
            continue
        if sampling.mode == "nearest":
            cells = nearest_cells(steps, task.places, task.axis, sampling)
            value = steps.gather(value, steps.cast(cells, "int32"), task.position)
        else:
            value = _interpolate(steps, value, task, sampling)
    if sampling.coordinates == "tf_crop_and_resize":
        fill = node.number("extrapolation_value", 0.0)
        for task in tasks:
            value = _extrapolate(steps, value, task, fill)
    steps.finish(value)


def _refuse_what_tools_disagree_on(axis: ResizedAxis, sampling: Sampling) -> None:
    """Refuse what ONNX's reference and onnxruntime compute differently, where it is known."""
    sizes = (axis.before.data, axis.after.data, axis.scale.data, axis.length.data)
    if any(size is None for size in sizes):
        return
    before, after, scale, length = (float(np.asarray(size)) for size in sizes)
    between = sampling.coordinates in {"align_corners", "tf_crop_and_resize"}
    if between and not length.is_integer():
        raise RefusedNodeError(f"it aligns {length:g} cells, no whole number: tools disagree")
    if sampling.antialias and before == after and scale != 1.0:
        raise RefusedNodeError(f"it scales by {scale:g} and keeps its size: tools disagree")


def _moved_axes(node: Node, graph: Graph) -> set[int]:
    """The axes that may change their size, as far as constants and shapes tell."""
    before = graph.shape(node.input(0)) or ()
    after = graph.shape(node.outputs[0]) or ()
    chosen = _chosen_axes(node, len(before))
    crops = node.text("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    scales = graph.constants.get(node.input(_SCALES))
    if scales is not None and scales.size != len(chosen):
        scales = None
    moved = set()
    for place, axis in enumerate(chosen):
        same = before[axis] is not None and before[axis] == after[axis]
        if scales is not None:
            same = bool(scales.reshape(-1)[place] == 1.0)
        single = before[axis] == after[axis] == 1
        cropped = crops and node.input(_ROI) not in graph.constants
        if not single and (cropped or not same):
            moved.add(axis)
    return moved


def _chosen_axes(node: Node, rank: int) -> list[int]:
    axes = node.integers("axes")
    return list(range(rank)) if not axes else [axis % rank for axis in axes]


def _axes_to_resize(
    build: Builder, node: Node, steps: FoldingSteps, value: Tensor
) -> dict[int, ResizedAxis]:
    """What is to be done along each axis, by ONNX's number of it; axes that stay are left out."""
    before = build.shape(node.input(0))
    chosen = _chosen_axes(node, len(before))
    sizes = {
        axis: _known_or_measured(steps, before[axis], value, build.layout.work.index(axis))
        for axis in chosen
    }
    scales = _elements(build, node, steps, _SCALES, len(chosen))
    targets = _elements(build, node, steps, _SIZES, len(chosen))
    if not scales and not targets:
        raise RefusedNodeError("it has neither scales nor sizes")
    if len(scales or targets) != len(chosen):
        given = len(scales or targets)
        raise RefusedNodeError(f"it has {given} scales or sizes for {len(chosen)} axes")
    windows = _windows(build, node, steps, len(chosen))
    after = build.shape(node.outputs[0])
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    shared: Tensor | None = None
    if not scales:
        for place, axis in enumerate(chosen):
            known = after[axis]
            # The model promises this size, whatever it computes the request from.
            if known is not None and policy == "stretch":
                targets[place] = steps.number(float(known))
        ratios = [steps.div(targets[place], sizes[axis]) for place, axis in enumerate(chosen)]
        if policy != "stretch":
            shared = ratios[0]
            for ratio in ratios[1:]:
                choose = steps.minimum if policy == "not_larger" else steps.maximum
                shared = choose(shared, ratio)
    found = {}
    for place, axis in enumerate(chosen):
        size, known = sizes[axis], after[axis]
        if scales or shared is not None:
            scale = scales[place] if shared is None else shared
            length = whole_length(steps, size, scale)
            rounding = 0.0 if shared is None else 0.5
            target = steps.floor(steps.add(steps.mul(size, scale), rounding))
            if known is not None:
                target = steps.number(float(known))
        else:
            scale = ratios[place]
            length = target = targets[place]
        begin, end = windows[place]
        stays = _is(scale, 1.0) and _same(size, target) and _is(begin, 0.0) and _is(end, 1.0)
        single = before[axis] == 1 and known == 1
        if not stays and not single:
            found[axis] = ResizedAxis(
                before=size, after=target, scale=scale, length=length, begin=begin, end=end
            )
    return found


def _known_or_measured(
    steps: FoldingSteps, size: int | None, value: Tensor, position: int
) -> Tensor:
    if size is not None:
        return steps.number(float(size))
    measured = steps.slice(steps.shape_of(value), [position], [1])
    return steps.cast(steps.reshape(measured, ()), "float32")


def _elements(
    build: Builder, node: Node, steps: FoldingSteps, position: int, count: int
) -> list[Tensor]:
    """An input of one number an axis as float32 scalars, none where it is left out."""
    values = build.known(node, position)
    if not node.input(position) or (values is not None and not values.size):
        return []
    if values is not None:
        return [steps.number(float(number)) for number in values.reshape(-1)]
    shape = build.shape(node.input(position))
    if shape == (0,):
        return []
    vector = steps.cast(build.input(node, position, order=(0,)), "float32")
    return [
        steps.reshape(steps.slice(vector, [place], [1]), ()) for place in range(shape[0] or count)
    ]


def _windows(
    build: Builder, node: Node, steps: FoldingSteps, count: int
) -> list[tuple[Tensor, Tensor]]:
    corners = []
    if node.text("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        corners = _elements(build, node, steps, _ROI, 2 * count)
        if len(corners) != 2 * count:
            raise RefusedNodeError("the region that it crops is missing")
    if not corners:
        corners = [steps.number(0.0)] * count + [steps.number(1.0)] * count
    return list(zip(corners[:count], corners[count:], strict=True))


def _cells(steps: FoldingSteps, axis: ResizedAxis) -> Tensor:
    """0, 1, 2, ... up to the size of the output."""
    if axis.after.data is not None:
        return steps.constant(np.arange(int(axis.after.data), dtype=np.float32), "cells")
    bounds = [steps.number(0.0), axis.after, steps.number(1.0)]
    return steps.step("RANGE", bounds, (None,), "float32")


def _constant_cells(
    steps: FoldingSteps, tasks: Sequence[_Task], sampling: Sampling
) -> dict[int, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    found = {}
    for task in tasks:
        if task.places.data is not None:
            cells = nearest_cells(steps, task.places, task.axis, sampling).data
            if cells is not None:
                found[task.position] = cells
    return found


def _interpolate(steps: FoldingSteps, value: Tensor, task: _Task, sampling: Sampling) -> Tensor:
    before = value.shape[task.position]
    shrinkage = 1.0
    if sampling.antialias:
        if task.axis.scale.data is not None:
            shrinkage = 1.0 / float(task.axis.scale.data)
        elif before is None or task.after is None:
            raise RefusedNodeError("it antialiases sizes that are free")
        else:
            shrinkage = before / task.after
    cells, weights = taps_of(steps, task.places, task.axis, sampling, shrinkage)
    taken = steps.gather(value, steps.cast(cells, "int32"), task.position)
    trailing = len(value.shape) - task.position - 1
    weights = steps.reshape(weights, (*weights.shape, *(1,) * trailing))
    return steps.sum(steps.mul(taken, weights), task.position + 1)


def _extrapolate(steps: FoldingSteps, value: Tensor, task: _Task, fill: float) -> Tensor:
    beyond = outside(steps, task.places, task.axis)
    if beyond.data is not None and not beyond.data.any():
        return value
    trailing = len(value.shape) - task.position - 1
    return steps.select(steps.reshape(beyond, (*beyond.shape, *(1,) * trailing)), fill, value)


def _is(tensor: Tensor, number: float) -> bool:
    return tensor.data is not None and float(tensor.data) == number


def _same(first: Tensor, second: Tensor) -> bool:
    if first.data is None or second.data is None:
        # A free size that is scaled by one.
        return first.data is None and second.data is None
    return float(first.data) == float(second.data)
