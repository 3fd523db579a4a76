"""Check attributes and constant operands against the shapes of what they are applied to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS
from edgekit_converters.onnx_source.attributes import attribute_value
from edgekit_converters.onnx_source.bounds import MAX_TENSOR_BYTES
from edgekit_converters.onnx_source.known import Known, known_scopes
from edgekit_converters.onnx_source.walk import bodies, label


class NodeFacts:
    """One node with its attributes and what is known about its inputs."""

    def __init__(self, node: Any, known: Known) -> None:
        self.op: str = node.op_type
        self.bodies = dict(bodies(node))
        self.known = known
        self.inputs: tuple[str, ...] = tuple(node.input)
        self._attributes = {a.name: attribute_value(a) for a in node.attribute}

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        value = self._attributes.get(name)
        return default if value is None else value

    def input(self, position: int) -> str:
        """The name of an input, "" where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def rank(self, position: int) -> int | None:
        """The rank of an input, None where it is unknown or left out."""
        return self.known.rank(self.input(position))

    def size(self, position: int, axis: int) -> int | None:
        """The size of one axis of an input, None where it is unknown."""
        shape = self.known.shapes.get(self.input(position))
        return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None

    def integers(self, position: int) -> list[int] | None:
        """A constant input of whole numbers, None where it is computed or left out."""
        return self.known.integers(self.input(position))

    def whole(self, name: str, position: int) -> list[int] | None:
        """Whole numbers that are an attribute in older opsets and an input in newer ones."""
        value = self.attribute(name)
        if value is None:
            return self.integers(position) if position >= 0 else None
        return value if isinstance(value, list) else [value]


# Sizes are 32-bit in the kernels.
_MAX_SCALE: Final = 2.0**31
# Ten microseconds each; a minute of speech has six thousand frames.
_MAX_TRIPS: Final = 100_000

Check = Callable[[NodeFacts], Iterator[str]]


def operand_faults(model: Any) -> list[str]:
    """Every attribute and constant operand that does not fit the shapes around it.

    Args:
        model: A skeleton with inferred shapes, its attributes within their own ranges.
    """
    return [
        scope.at(f"{label(node)}: {fault}")
        for scope, known in known_scopes(model)
        for node in scope.body.node
        if node.domain in STANDARD_DOMAINS and node.op_type in _CHECKS
        for fault in _CHECKS[node.op_type](NodeFacts(node, known))
    ]


def _axis(facts: NodeFacts) -> Iterator[str]:
    """An axis must be one of the first input's."""
    axis, rank = facts.attribute("axis"), facts.rank(0)
    if isinstance(axis, int) and rank is not None:
        # A Flatten may cut behind the last axis, and OneHot adds an axis.
        most = rank + (facts.op in {"Flatten", "OneHot"})
        if facts.op in {"QuantizeLinear", "DequantizeLinear"} and not facts.rank(1):
            return  # One scale for all: the axis says nothing.
        least = -rank - (facts.op == "OneHot")
        # The softmax family was defined behind the last axis, too, before opset 13.
        most += facts.op in {"Softmax", "LogSoftmax", "Hardmax"}
        if not least <= axis < max(most, 1):
            yield f"axis is {axis}, its input has {rank} axes"


def _axes(facts: NodeFacts) -> Iterator[str]:
    """Axes must be the first input's, each once; Unsqueeze counts those that it adds."""
    rank = facts.rank(0)
    axes = facts.whole("axes", {"Slice": 3, "Pad": 3, "Resize": -1}.get(facts.op, 1))
    if axes is None or rank is None:
        return
    if facts.op == "Unsqueeze":
        rank += len(axes)
    # A scalar may be reduced along the axis that it does not have.
    if any(not -max(rank, 1) <= axis < max(rank, 1) for axis in axes):
        yield f"axes is {axes}, there are {rank} axes"
    elif len({axis % max(rank, 1) for axis in axes}) != len(axes):
        yield f"axes is {axes}: an axis is there twice"


def _transpose(facts: NodeFacts) -> Iterator[str]:
    """One entry in `perm` for each axis."""
    perm, rank = facts.attribute("perm"), facts.rank(0)
    if perm is not None and rank is not None and len(perm) != rank:
        yield f"perm is {perm}, its input has {rank} axes"


def _window(facts: NodeFacts) -> Iterator[str]:
    """Kernel, strides, dilations and pads need one entry (pads: two) for each spatial axis."""
    rank = facts.rank(0)
    kernel = facts.attribute("kernel_shape")
    if rank is None:
        return
    spatial = rank - 2
    if spatial < 1:
        yield f"its input has {rank} axes; batch, channels and one more are the least"
        return
    lengths = {
        "kernel_shape": spatial,
        "strides": spatial,
        "dilations": spatial,
        "output_padding": spatial,
        "pads": 2 * spatial,
    }
    for name, wanted in lengths.items():
        value = facts.attribute(name)
        if value is not None and len(value) != wanted:
            yield f"{name} is {value}, {spatial} spatial axes need {wanted} entries"
    pads = facts.attribute("pads")
    if facts.op in {"AveragePool", "MaxPool", "LpPool"} and kernel and pads:
        dilations = facts.attribute("dilations") or [1] * len(kernel)
        reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=False)]
        if len(pads) == 2 * len(reach) and any(
            pad >= size for pad, size in zip(pads, [*reach, *reach], strict=True)
        ):
            yield f"pads is {pads}, not smaller than its window {kernel}"


def _convolution(facts: NodeFacts) -> Iterator[str]:
    """Weights must fit the input's channels, the groups and the stated kernel."""
    yield from _window(facts)
    position = 3 if facts.op == "QLinearConv" else 1
    shape = facts.known.shapes.get(facts.input(position))
    rank = facts.rank(0)
    if shape is None or rank is None:
        return
    if len(shape) != rank or rank < 3:  # noqa: PLR2004 - batch, channels, a spatial axis
        yield f"its weights have {len(shape)} axes and its input {rank}"
        return
    group, channels = facts.attribute("group", 1), facts.size(0, 1)
    kernel = facts.attribute("kernel_shape")
    if kernel is not None and None not in shape[2:] and list(shape[2:]) != kernel:
        yield f"kernel_shape is {kernel} and its weights are {list(shape)}"
    transposed = facts.op == "ConvTranspose"
    if channels is not None and shape[1] is not None and shape[0] is not None:
        wanted = shape[0] if transposed else shape[1] * group
        if wanted != channels:
            yield f"its weights {list(shape)} with group {group} do not fit {channels} channels"
        elif shape[0] % group:
            yield f"group is {group}, which does not divide {shape[0]} channels"
    outputs = shape[1] * group if transposed and shape[1] is not None else shape[0]
    bias = facts.known.shapes.get(facts.input(8 if facts.op == "QLinearConv" else 2))
    if facts.op == "ConvInteger" or bias is None or None in bias or outputs is None:
        return
    if math.prod(size or 0 for size in bias) != outputs:
        yield f"its bias has shape {list(bias)} and there are {outputs} output channels"


def _recurrent(facts: NodeFacts) -> Iterator[str]:
    """Gates, hidden size and directions must be those of the weights."""
    if 0 in facts.known.shapes.get(facts.input(0), ()):
        # onnxruntime 1.32 ends the process on it.
        yield "its input is empty"
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[facts.op]
    directions = 2 if facts.attribute("direction") == "bidirectional" else 1
    hidden = facts.attribute("hidden_size", facts.size(2, 2))
    wanted = {
        "W": (1, (directions, None if hidden is None else gates * hidden, facts.size(0, 2))),
        "R": (2, (directions, None if hidden is None else gates * hidden, hidden)),
        "B": (3, (directions, None if hidden is None else 2 * gates * hidden)),
    }
    for name, (position, sizes) in wanted.items():
        shape = facts.known.shapes.get(facts.input(position))
        if shape is None:
            continue
        fits = len(shape) == len(sizes) and all(
            have is None or want is None or have == want
            for have, want in zip(shape, sizes, strict=True)
        )
        if not fits:
            shown = ["?" if size is None else size for size in sizes]
            yield f"its weights {name} have shape {list(shape)}, not {shown}"
    activations = facts.attribute("activations")
    count = directions * {"RNN": 1, "GRU": 2, "LSTM": 3}[facts.op]
    if activations is not None and len(activations) != count:
        yield f"activations names {len(activations)} functions, it needs {count}"


def _reshape(facts: NodeFacts) -> Iterator[str]:
    """At most one size may be left open, and none be negative otherwise."""
    sizes = facts.whole("shape", 1)
    if sizes is not None and (sizes.count(-1) > 1 or any(size < -1 for size in sizes)):
        yield f"its target shape is {sizes}"


def _sizes(position: int) -> Check:
    def check(facts: NodeFacts) -> Iterator[str]:
        sizes = facts.integers(position)
        if sizes is None:
            return
        count = math.prod(sizes)
        if facts.op == "Tile":
            # They are counts of repetitions there.
            count *= math.prod(size or 1 for size in facts.known.shapes.get(facts.input(0), ()))
        if any(size < 0 for size in sizes):
            yield f"it is told the sizes {sizes}"
        elif count > MAX_TENSOR_BYTES:
            yield f"it is told the sizes {sizes}: {count} elements, the limit is {MAX_TENSOR_BYTES}"

    return check


def _pad(facts: NodeFacts) -> Iterator[str]:
    """Two entries for each axis."""
    pads, rank = facts.whole("pads", 1), facts.rank(0)
    axes = facts.integers(3)
    yield from _axes(facts)
    wanted = 2 * (rank if axes is None and rank is not None else len(axes or []))
    if pads is not None and rank is not None and len(pads) != wanted:
        yield f"pads is {pads}, it needs {wanted} entries"


def _slice(facts: NodeFacts) -> Iterator[str]:
    """As many ends as starts, no step of zero."""
    yield from _axes(facts)
    starts, ends, steps = facts.whole("starts", 1), facts.whole("ends", 2), facts.integers(4)
    if starts is not None and ends is not None and len(starts) != len(ends):
        yield f"starts is {starts} and ends is {ends}"
    if steps is not None and 0 in steps:
        yield f"steps is {steps}"


def _split(facts: NodeFacts) -> Iterator[str]:
    """The parts must add up."""
    yield from _axis(facts)
    parts = facts.whole("split", 1)
    size = facts.size(0, facts.attribute("axis", 0))
    if parts is None:
        return
    if any(part < 0 for part in parts):
        yield f"split is {parts}"
    elif size is not None and sum(parts) != size:
        yield f"split is {parts}, which is {sum(parts)} together and not {size}"


def _gather(facts: NodeFacts) -> Iterator[str]:
    """Constant indices must exist."""
    yield from _axis(facts)
    indices, size = facts.integers(1), facts.size(0, facts.attribute("axis", 0))
    if indices is not None and size is not None:
        wrong = [index for index in indices if not -size <= index < size]
        if wrong:
            yield f"its index {wrong[0]} is outside an axis of {size}"


def _top_k(facts: NodeFacts) -> Iterator[str]:
    """No more than there are."""
    yield from _axis(facts)
    counts, size = facts.whole("k", 1), facts.size(0, facts.attribute("axis", -1))
    if counts and (counts[0] < 0 or (size is not None and counts[0] > size)):
        yield f"k is {counts[0]}, the axis has {size if size is not None else '?'}"


def _resize(facts: NodeFacts) -> Iterator[str]:
    """Scales above zero, one for each axis that is resized."""
    scales_at, sizes_at = (1, -1) if len(facts.inputs) < 3 else (2, 3)  # noqa: PLR2004
    scales = facts.known.constants.get(facts.input(scales_at))
    factors = [] if scales is None else scales.reshape(-1).tolist()
    if not all(isinstance(factor, float) and 0 < factor < _MAX_SCALE for factor in factors):
        yield f"its scales are {factors}"
    sizes = facts.integers(sizes_at) if sizes_at > 0 else None
    if sizes is not None and any(size < 1 for size in sizes):
        yield f"its sizes are {sizes}"


def _depth(facts: NodeFacts) -> Iterator[str]:
    """A block must divide what it is taken from."""
    block = facts.attribute("blocksize", 1)
    if facts.op == "DepthToSpace":
        channels = facts.size(0, 1)
        if channels is not None and channels % (block * block):
            yield f"blocksize is {block}, which does not divide {channels} channels"
        return
    for axis in (2, 3):
        size = facts.size(0, axis)
        if size is not None and size % block:
            yield f"blocksize is {block}, which does not divide axis {axis} of {size}"


def _dropout(facts: NodeFacts) -> Iterator[str]:
    """Ratio and mode are one number each."""
    for position, name in ((1, "ratio"), (2, "training_mode")):
        array = facts.known.constants.get(facts.input(position))
        if array is not None and array.size != 1:
            yield f"its {name} has {array.size} elements"


def _loop(facts: NodeFacts) -> Iterator[str]:
    """It must come to an end: by a count that is in reach, or by a condition that is computed."""
    trips = facts.integers(0)
    if (trips and trips[0] <= _MAX_TRIPS) or (facts.input(0) and trips is None):
        return
    body = facts.bodies.get("body")
    if body is None or len(body.input) < 2 or not body.output:  # noqa: PLR2004 - count, condition
        return
    makers = {name: node for node in body.node for name in node.output}
    condition = body.output[0].name
    while condition in makers and makers[condition].op_type == "Identity":
        condition = makers[condition].input[0]
    fixed = condition not in makers or makers[condition].op_type == "Constant"
    if fixed:
        often = f"{trips[0]} times" if trips else "without a limit"
        yield f"it runs {often} and nothing in its body ends it; the limit is {_MAX_TRIPS}"


_CHECKS: Final[Mapping[str, Check]] = {
    **dict.fromkeys(
        ("ArgMax", "ArgMin", "Compress", "Concat", "Flatten", "Hardmax", "LayerNormalization",
         "LogSoftmax", "LpNormalization", "OneHot", "RMSNormalization", "ScatterElements",
         "Scatter", "Softmax", "Unique", "QuantizeLinear", "DequantizeLinear"),
        _axis,
    ),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
         "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Squeeze", "Unsqueeze",
         "MeanVarianceNormalization"),
        _axes,
    ),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _window),
    **dict.fromkeys(("Conv", "ConvInteger", "ConvTranspose", "QLinearConv"), _convolution),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
    **dict.fromkeys(("ConstantOfShape",), _sizes(0)),
    **dict.fromkeys(("Expand", "Tile"), _sizes(1)),
    **dict.fromkeys(("Gather", "GatherElements"), _gather),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _depth),
    "Dropout": _dropout,
    "Loop": _loop,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "TopK": _top_k,
    "Transpose": _transpose,
}  # fmt: skip
