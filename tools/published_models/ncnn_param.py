"""Read ncnn's `.param` files as layers.

Shapes are (channels, rows, columns), or fewer axes. A file that states shapes by itself (parameter
30, written by ncnn's tools) is checked against the computed ones.
Format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit_benchmarks.layers import Layer, LayerKind

Shape = tuple[int, ...]
SAME_PADDING = (-233, -234)
REST = -233
FREE = {"Split", "Input", "Flatten", "Dropout", "Noop", "MemoryData", "Reshape"}
MOVES = {"ShuffleChannel", "Slice", "Concat", "Permute", "Padding", "Crop", "Interp"}
EXPONENTIALS = {"Swish", "Sigmoid", "GELU", "Mish"}
ARRAY_KEYS_FROM = -23300
SHAPE_HINTS = 30


@dataclass(frozen=True)
class Line:
    """One line of a `.param` file."""

    type: str
    name: str
    sources: tuple[str, ...]
    results: tuple[str, ...]
    numbers: Mapping[int, int | float]
    arrays: Mapping[int, tuple[float, ...]]

    def whole(self, key: int, default: int = 0) -> int:
        """A parameter that is a whole number."""
        return int(self.numbers.get(key, default))


def input_shapes(bench_source: Path) -> dict[str, Shape]:
    """The input of each model of benchncnn, from its C++ source."""
    pattern = r'benchmark\("([^"]+)", ncnn::Mat\((\d+), (\d+), (\d+)\)'
    found = re.findall(pattern, bench_source.read_text(encoding="utf-8"))
    return {name: (int(c), int(h), int(w)) for name, w, h, c in found}


def read_layers(path: Path, shape: Shape) -> list[Layer]:
    """All layers that cost something.

    Raises:
        ValueError: If a layer is not understood, or its shape is not the one that the file states.
    """
    shapes: dict[str, Shape] = {}
    layers = []
    for text in path.read_text(encoding="utf-8").splitlines()[2:]:
        if not text.strip():
            continue
        line = _parse(text)
        inputs = [shapes[name] for name in line.sources]
        outputs = [shape] if line.type == "Input" else _outputs(line, inputs)
        _check_hints(line, outputs)
        shapes |= dict(zip(line.results, outputs, strict=True))
        if line.type not in FREE:
            layers.append(_layer(line, inputs, outputs))
    return layers


def _parse(text: str) -> Line:
    words = text.split()
    sources, results = int(words[2]), int(words[3])
    names = words[4 : 4 + sources + results]
    numbers: dict[int, int | float] = {}
    arrays: dict[int, tuple[float, ...]] = {}
    for pair in words[4 + sources + results :]:
        key, value = pair.split("=", 1)
        if int(key) <= ARRAY_KEYS_FROM:
            arrays[ARRAY_KEYS_FROM - int(key)] = tuple(float(v) for v in value.split(",")[1:])
        else:
            numbers[int(key)] = float(value) if "." in value or "e" in value else int(value)
    return Line(
        type=words[0],
        name=words[1],
        sources=tuple(names[:sources]),
        results=tuple(names[sources:]),
        numbers=numbers,
        arrays=arrays,
    )


def _check_hints(line: Line, outputs: list[Shape]) -> None:
    hints = [int(number) for number in line.arrays.get(SHAPE_HINTS, ())]
    for position, got in enumerate(outputs):
        rank, w, h, c = (hints[4 * position : 4 * position + 4] or [0] * 4)[:4]
        stated = {1: (w,), 2: (h, w), 3: (c, h, w)}.get(rank)
        # What boxes a detector finds depends on the values.
        if stated and stated != got and not line.type.startswith(("Prior", "Yolo", "Detection")):
            if line.type == "Concat" and len(got) == 2:  # noqa: PLR2004 - of prior boxes
                continue
            raise ValueError(f"{line.name}: computed {got}, the file says {stated}")


def _layer(line: Line, inputs: list[Shape], outputs: list[Shape]) -> Layer:
    read, written = sum(map(math.prod, inputs)), sum(map(math.prod, outputs))
    if "onvolution" in line.type:
        return _convolution_layer(line, inputs[0], outputs[0])
    if line.type == "InnerProduct":
        return Layer(
            kind=LayerKind.DENSE,
            name=line.name,
            type=line.type,
            macs=line.whole(2),
            weights=line.whole(2),
            inputs=read,
            outputs=written,
            in_channels=read,
            out_channels=written,
        )
    kind = LayerKind.OTHER
    if line.type in MOVES:
        kind = LayerKind.MOVE
    elif line.type in EXPONENTIALS:
        kind = LayerKind.EXPONENTIAL
    elif line.type == "LRN":
        kind = LayerKind.NORMALIZATION
    return Layer(kind=kind, name=line.name, type=line.type, inputs=read, outputs=written)


def _convolution_layer(line: Line, source: Shape, result: Shape) -> Layer:
    groups = line.whole(7, 1) if "DepthWise" in line.type else 1
    transposed = line.type.startswith("Deconv")
    places = math.prod((source if transposed else result)[1:])
    depthwise = groups > 1 and groups == source[0] == result[0]
    width, stride = line.whole(1), line.whole(3, 1)
    return Layer(
        kind=LayerKind.DEPTHWISE if depthwise else LayerKind.CONVOLUTION,
        name=line.name,
        type=line.type,
        macs=places * line.whole(6),
        weights=line.whole(6),
        inputs=math.prod(source),
        outputs=math.prod(result),
        kernel=(line.whole(11, width), width),
        strides=(line.whole(13, stride), stride),
        groups=groups,
        in_channels=source[0],
        out_channels=result[0],
        plane=() if transposed else result[1:],
    )


def _outputs(line: Line, inputs: list[Shape]) -> list[Shape]:
    if line.type in {"Split", "Noop"}:
        return [inputs[0]] * len(line.results)
    if line.type == "Slice":
        return _slices(line, inputs[0])
    compute: Callable[[Line, list[Shape]], Shape] = _SHAPES.get(line.type, _largest)
    return [compute(line, inputs)]


def _largest(_line: Line, inputs: list[Shape]) -> Shape:
    return max(inputs, key=math.prod)


def _convolved(line: Line, inputs: list[Shape]) -> Shape:
    _, rows, columns = inputs[0]
    width, stride, left = line.whole(1), line.whole(3, 1), line.whole(4)
    height, step, top = line.whole(11, width), line.whole(13, stride), line.whole(14, left)
    across, down = left + line.whole(15, left), top + line.whole(16, top)
    if line.type.startswith("Deconv"):
        return (
            line.whole(0),
            (rows - 1) * step + height - down + line.whole(19),
            (columns - 1) * stride + width - across + line.whole(18),
        )
    size = _strided
    return (
        line.whole(0),
        size(rows, height, step, top if top in SAME_PADDING else down, line.whole(2, 1)),
        size(columns, width, stride, left if left in SAME_PADDING else across, line.whole(2, 1)),
    )


def _strided(size: int, window: int, step: int, padding: int, dilation: int) -> int:
    if padding in SAME_PADDING:
        return -(-size // step)
    return (size + padding - dilation * (window - 1) - 1) // step + 1


def _pooled(line: Line, inputs: list[Shape]) -> Shape:
    channels, rows, columns = inputs[0]
    if line.whole(4):
        return (channels,)
    if line.whole(7):
        return (channels, line.whole(18, line.whole(8)), line.whole(8))
    width, stride, left = line.whole(1), line.whole(2, 1), line.whole(3)
    height, step, top = line.whole(11, width), line.whole(12, stride), line.whole(13, left)
    down, across = top + line.whole(15, top), left + line.whole(14, left)
    if line.whole(5) == 0:  # rounded up: "full" padding, as Caffe does
        return (
            channels,
            -(-(rows + down - height) // step) + 1,
            -(-(columns + across - width) // stride) + 1,
        )
    if line.whole(5) == 1:
        return (
            channels,
            (rows + down - height) // step + 1,
            (columns + across - width) // stride + 1,
        )
    return (channels, -(-rows // step), -(-columns // stride))


def _concatenated(line: Line, inputs: list[Shape]) -> Shape:
    axis = line.whole(0)
    sizes = list(inputs[0])
    sizes[axis] = sum(shape[axis] for shape in inputs)
    return tuple(sizes)


def _slices(line: Line, source: Shape) -> list[Shape]:
    axis, rest, results = line.whole(1), source[line.whole(1)], []
    wanted = [int(size) for size in line.arrays[0]]
    for position, size in enumerate(wanted):
        taken = rest // (len(wanted) - position) if size == REST else size
        rest -= taken
        results.append((*source[:axis], taken, *source[axis + 1 :]))
    return results


def _reshaped(line: Line, inputs: list[Shape]) -> Shape:
    source = inputs[0]
    sizes = [line.whole(key, REST) for key in (2, 1, 0)]
    sizes = [size for size in sizes if size != REST]
    for axis, size in enumerate(sizes):
        if size == 0:
            sizes[axis] = source[len(source) - len(sizes) + axis]
    if -1 in sizes:
        sizes[sizes.index(-1)] = math.prod(source) // -math.prod(sizes)
    return tuple(sizes)


def _permuted(line: Line, inputs: list[Shape]) -> Shape:
    source, order = inputs[0], line.whole(0)
    if len(source) == 2:  # noqa: PLR2004
        return (source[1], source[0]) if order == 1 else source
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    return tuple(source[axis] for axis in orders[order])


def _resized(line: Line, inputs: list[Shape]) -> Shape:
    channels, rows, columns = inputs[0]
    height, width = line.numbers.get(1, 1.0), line.numbers.get(2, 1.0)
    return (
        channels,
        line.whole(3) or int(rows * height),
        line.whole(4) or int(columns * width),
    )


def _cropped(line: Line, inputs: list[Shape]) -> Shape:
    sizes = list(inputs[0])
    if 11 in line.arrays:  # noqa: PLR2004 - starts, ends, axes
        for axis, start, end in zip(*(line.arrays[key] for key in (11, 9, 10)), strict=True):
            stop = sizes[int(axis)] if end == REST else min(int(end), sizes[int(axis)])
            sizes[int(axis)] = stop - int(start)
        return tuple(sizes)
    for axis, key in enumerate((5, 4, 3)):
        if line.whole(key) > 0:
            sizes[axis] = line.whole(key)
    return tuple(sizes)


def _padded(line: Line, inputs: list[Shape]) -> Shape:
    channels, rows, columns = inputs[0]
    return (
        channels + line.whole(7) + line.whole(8),
        rows + line.whole(0) + line.whole(1),
        columns + line.whole(2) + line.whole(3),
    )


def _reduced(line: Line, inputs: list[Shape]) -> Shape:
    return (inputs[0][0], 1, 1) if line.whole(4) else (inputs[0][0],)


_SHAPES: Mapping[str, Callable[[Line, list[Shape]], Shape]] = {
    **dict.fromkeys(
        (
            "Convolution",
            "ConvolutionDepthWise",
            "Deconvolution",
            "DeconvolutionDepthWise",
        ),
        _convolved,
    ),
    **dict.fromkeys(
        ("DetectionOutput", "YoloDetectionOutput", "Yolov3DetectionOutput"),
        lambda _line, _inputs: (100, 6),
    ),
    "InnerProduct": lambda line, _inputs: (line.whole(0),),
    "Pooling": _pooled,
    "Concat": _concatenated,
    "Reshape": _reshaped,
    "Permute": _permuted,
    "Flatten": lambda _line, inputs: (math.prod(inputs[0]),),
    "Interp": _resized,
    "Reduction": _reduced,
    "Padding": _padded,
    "Crop": _cropped,
    "MemoryData": lambda line, _inputs: tuple(
        line.whole(key) for key in (2, 1, 0) if line.whole(key)
    ),
    "PriorBox": lambda _line, _inputs: (2, 1),
}
