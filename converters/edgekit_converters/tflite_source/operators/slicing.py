"""Parts of a tensor: slices, with or without steps, and the other way round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.tflite_source.registry import imports
from edgekit_converters.tflite_source.values import RefusedOperatorError

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.builder import Builder

# Beyond any size, in both directions: ONNX cuts it to what is there.
_FAR: Final = (1 << 31) - 1


@imports("SLICE", inputs=(3, 3), moves=True)
def import_slice(build: Builder) -> None:
    """From a start, so many; -1 is all the rest."""
    rank = build.tensor(0).rank
    axes = build.sizes(list(range(rank)), "axes")
    if build.is_constant(1) and build.is_constant(2):
        starts, counts = build.whole_numbers(1), build.whole_numbers(2)
        ends = [
            _FAR if count == -1 else start + count
            for start, count in zip(starts, counts, strict=True)
        ]
        bounds = [build.sizes(starts, "starts"), build.sizes(ends, "ends")]
    elif build.is_constant(2) and -1 in build.whole_numbers(2):
        raise RefusedOperatorError("its start is computed and its size is open")
    else:
        start = build.index_value(1)
        bounds = [start, build.node("Add", [start, build.index_value(2)])]
    build.emit("Slice", [build.input(0), *bounds, axes])


@imports("STRIDED_SLICE", inputs=(4, 4), options="StridedSliceOptions", moves=True)
def import_strided_slice(build: Builder) -> None:
    """As numpy's indexing does it: bounds, steps, new axes, and axes that go away."""
    if not (build.is_constant(1) and build.is_constant(2)):
        _import_computed_slice(build)
        return
    plan = _Indexing()
    plan.read(build)
    value = build.input(0)
    bounds = [plan.starts, plan.ends, plan.axes, plan.steps]
    if plan.axes:
        names = ("starts", "ends", "axes", "steps")
        stored = [build.sizes(part, name) for part, name in zip(bounds, names, strict=True)]
        value = build.node("Slice", [value, *stored])
    if plan.removed:
        value = build.node("Squeeze", [value, build.sizes(plan.removed, "removed")])
    if plan.added:
        value = build.node("Unsqueeze", [value, build.sizes(plan.added, "added")])
    build.emit("Identity", [value])


@imports("REVERSE_V2", inputs=(2, 2), moves=True)
def import_reverse(build: Builder) -> None:
    """Backwards along some axes."""
    axes = build.axes(1, build.tensor(0).rank)
    parts = ([-1] * len(axes), [-_FAR] * len(axes), axes, [-1] * len(axes))
    names = ("starts", "ends", "axes", "steps")
    bounds = [build.sizes(part, name) for part, name in zip(parts, names, strict=True)]
    build.emit("Slice", [build.input(0), *bounds])


@imports("REVERSE_SEQUENCE", inputs=(2, 2), options="ReverseSequenceOptions")
def import_reverse_sequence(build: Builder) -> None:
    """The first so many of each row backwards."""
    time, batch = int(build.option("seqDim")), int(build.option("batchDim"))
    if {time, batch} != {0, 1}:
        raise RefusedOperatorError(f"it runs along axes {time} and {batch}, supported: 0 and 1")
    inputs = [build.input(0), build.index_value(1)]
    build.emit("ReverseSequence", inputs, time_axis=time, batch_axis=batch)


def _import_computed_slice(build: Builder) -> None:
    """Bounds that are computed, without new axes and dots; masked ones are put in place."""
    masks = {name: int(build.option(f"{name}Mask")) for name in ("begin", "end", "shrinkAxis")}
    if build.option("newAxisMask") or build.option("ellipsisMask"):
        raise RefusedOperatorError("its bounds are computed, and it adds axes or leaves some out")
    steps = build.whole_numbers(3)
    axes = list(range(len(steps)))
    shrunk = [axis for axis in axes if masks["shrinkAxis"] >> axis & 1]
    if min(steps, default=1) < 1 or any(steps[axis] != 1 for axis in shrunk):
        raise RefusedOperatorError("its bounds are computed, and it does not go step by step")
    starts, ends = build.index_value(1), build.index_value(2)
    if build.option("offset", default=False):
        ends = build.node("Add", [starts, ends])
    if masks["begin"]:
        starts = _replaced(build, starts, masks["begin"], axes, build.sizes([0], "zero"))
    far = build.sizes([_FAR], "far")
    if masks["end"]:
        ends = _replaced(build, ends, masks["end"], axes, far)
    if shrunk:
        # One index: the end is the next one, and behind the last there is none.
        after = build.node("Add", [starts, build.sizes([1], "one")])
        last = build.node("Equal", [starts, build.sizes([-1], "last")])
        after = build.node("Where", [last, far, after])
        ends = _replaced(build, ends, masks["shrinkAxis"], axes, after)
    bounds = [starts, ends, build.sizes(axes, "axes"), build.sizes(steps, "steps")]
    value = build.node("Slice", [build.input(0), *bounds])
    if shrunk:
        build.emit("Squeeze", [value, build.sizes(shrunk, "removed")])
    else:
        build.emit("Identity", [value])


def _replaced(build: Builder, bounds: str, mask: int, axes: list[int], other: str) -> str:
    chosen = np.array([bool(mask >> axis & 1) for axis in axes])
    return build.node("Where", [build.store(chosen, "mask"), other, bounds])


@dataclass(slots=True)
class _Indexing:
    """One `[...]` of numpy, an entry an axis, and which axes come and go."""

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    axes: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    added: list[int] = field(default_factory=list)

    def read(self, build: Builder) -> None:
        begins, ends, steps = (build.whole_numbers(position) for position in (1, 2, 3))
        if not len(begins) == len(ends) == len(steps):
            raise RefusedOperatorError("its bounds and steps are not of one length")
        if build.option("offset", default=False):
            ends = [begin + end for begin, end in zip(begins, ends, strict=True)]
        masks = {
            name: int(build.option(f"{name}Mask"))
            for name in ("begin", "end", "ellipsis", "newAxis", "shrinkAxis")
        }
        rank = build.tensor(0).rank
        count = len(begins)
        fresh = sum(
            bool(masks["newAxis"] >> i & 1) and not masks["ellipsis"] >> i & 1 for i in range(count)
        )
        dots = sum(masks["ellipsis"] >> i & 1 for i in range(count))
        if dots > 1 or count - fresh - dots > rank:
            raise RefusedOperatorError(f"it has {count} bounds for {rank} axes")
        axis = place = 0
        for i in range(count):
            flags = {name: bool(mask >> i & 1) for name, mask in masks.items()}
            if flags["ellipsis"]:
                skipped = rank - (count - fresh - 1)
                axis, place = axis + skipped, place + skipped
            elif flags["newAxis"]:
                self.added.append(place)
                place += 1
            else:
                self._entry(axis, begins[i], ends[i], steps[i], flags)
                place += 0 if flags["shrinkAxis"] else 1
                axis += 1

    def _entry(self, axis: int, begin: int, end: int, step: int, flags: dict[str, bool]) -> None:
        if step == 0:
            raise RefusedOperatorError("it has a step of zero")
        if flags["shrinkAxis"]:
            # One index: its bounds and its step mean nothing more.
            end, step = begin + 1 if begin != -1 else _FAR, 1
            self.removed.append(axis)
        else:
            forwards = step > 0
            begin = (0 if forwards else _FAR) if flags["begin"] else begin
            end = (_FAR if forwards else -_FAR) if flags["end"] else end
        if (begin, end, step) != (0, _FAR, 1):
            self.starts.append(begin)
            self.ends.append(end)
            self.axes.append(axis)
            self.steps.append(step)
