"""Where a file is cut into chunks: at the borders of a model's tensors.

What did not change between two versions then lies in the same chunks in both, wherever in the
file it moved to. A file that is no model, or not one that can be read, is one region.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES

# Smaller tensors travel together with what lies around them: a chunk of its own costs its place
# in the index.
MIN_REGION_BYTES: Final = 4096

_TFLITE_MAGIC: Final = b"TFL3"
_TFLITE_BUFFERS: Final = 4
_TFLITE_SUBGRAPHS: Final = 2
# Field numbers of onnx.proto.
_MODEL_GRAPH: Final = 7
_GRAPH_NODE: Final = 1
_GRAPH_INITIALIZER: Final = 5
_NODE_ATTRIBUTE: Final = 5
_ATTRIBUTE_TENSORS: Final = (5, 10)
_ATTRIBUTE_GRAPHS: Final = (6, 11)
_TENSOR_NAME: Final = 8
# raw_data, float_data, int32_data, int64_data, double_data.
_TENSOR_CONTENT: Final = (9, 4, 5, 7, 10)
_MAX_DEPTH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A stretch of a file that is cut by itself.

    Attributes:
        start: Its first byte.
        end: Behind its last byte.
        name: Of the tensor, or of the one before it with a mark; unique within the file.
    """

    start: int
    end: int
    name: str

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return self.end - self.start


def find_regions(data: bytes) -> tuple[Region, ...]:
    """The regions of a file, in order and without gaps; none for an empty one."""
    return tuple(_cover(len(data), sorted(_tensors(data))))


def cut(region: Region) -> Iterator[tuple[int, int]]:
    """The bounds of a region's pieces: all as long as a chunk may be, but the last."""
    for start in range(region.start, region.end, MAX_CHUNK_WIRE_BYTES):
        yield start, min(start + MAX_CHUNK_WIRE_BYTES, region.end)


def _cover(size: int, tensors: list[tuple[int, int, str]]) -> Iterator[Region]:
    place, before = 0, ""
    taken: dict[str, int] = {}
    for start, end, name in tensors:
        if end - start < MIN_REGION_BYTES or start < place:
            continue
        if start > place:
            yield Region(start=place, end=start, name=f"after {before}")
        count = taken[name] = taken.get(name, 0) + 1
        before = f"tensor {name} {count}"
        yield Region(start=start, end=end, name=before)
        place = end
    if place < size:
        yield Region(start=place, end=size, name=f"after {before}")


def _tensors(data: bytes) -> list[tuple[int, int, str]]:
    if data[4:8] == _TFLITE_MAGIC:
        try:
            return list(_tflite_tensors(data))
        except UnsupportedModelError:
            return []
    try:
        return list(_onnx_tensors(data))
    except _NoProtobuf:
        return []


def _tflite_tensors(data: bytes) -> Iterator[tuple[int, int, str]]:
    from edgekit_runtime.graph.flatbuffer import FlatbufferWalk

    walk = FlatbufferWalk(data, where="a model in a bundle")
    model = walk.root()
    walk.verify(model, "Model")
    names: dict[int, str] = {}
    for graph in walk.children(model, _TFLITE_SUBGRAPHS):
        for tensor in walk.children(graph, 0):
            place = walk.child(tensor, 3)
            length = int.from_bytes(data[place : place + 4], "little") if place else 0
            text = data[place + 4 : place + 4 + length].decode("utf-8", "replace")
            names.setdefault(walk.integer(tensor, 2), text)
    for number, buffer in enumerate(walk.children(model, _TFLITE_BUFFERS)):
        start, length = walk.vector(buffer, 0)
        if not length:
            # Large files keep their weights behind the flatbuffer.
            start = walk.integer(buffer, 1, size=8)
            length = walk.integer(buffer, 2, size=8)
        if 0 < start <= start + length <= len(data):
            yield start, start + length, names.get(number, "")


class _NoProtobuf(Exception):  # noqa: N818 - it says what the file is, not that something failed
    """The bytes are not a protobuf message."""


def _onnx_tensors(data: bytes) -> Iterator[tuple[int, int, str]]:
    graphs = [
        (start, end, 0)
        for number, start, end in _fields(data, 0, len(data))
        if number == _MODEL_GRAPH
    ]
    while graphs:
        start, end, depth = graphs.pop()
        if depth > _MAX_DEPTH:
            raise _NoProtobuf
        for number, first, last in _fields(data, start, end):
            if number == _GRAPH_INITIALIZER:
                yield from _tensor_content(data, first, last)
            elif number == _GRAPH_NODE:
                for kind, a, b in _attribute_parts(data, first, last):
                    if kind in _ATTRIBUTE_TENSORS:
                        yield from _tensor_content(data, a, b)
                    else:
                        graphs.append((a, b, depth + 1))


def _attribute_parts(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    for number, first, last in _fields(data, start, end):
        if number == _NODE_ATTRIBUTE:
            for kind, a, b in _fields(data, first, last):
                if kind in _ATTRIBUTE_TENSORS or kind in _ATTRIBUTE_GRAPHS:
                    yield kind, a, b


def _tensor_content(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    name = ""
    content = []
    for number, first, last in _fields(data, start, end):
        if number == _TENSOR_NAME:
            name = data[first:last].decode("utf-8", "replace")
        elif number in _TENSOR_CONTENT:
            content.append((first, last))
    for first, last in content:
        yield first, last, name


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number and bounds of each length-delimited field of a message."""
    place = start
    while place < end:
        key, place = _varint(data, place, end)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, place = _varint(data, place, end)
        elif kind == 1:
            place += 8
        elif kind == 2:  # noqa: PLR2004 - the wire types of protobuf
            length, place = _varint(data, place, end)
            if place + length > end:
                raise _NoProtobuf
            yield number, place, place + length
            place += length
        elif kind == 5:  # noqa: PLR2004
            place += 4
        else:
            raise _NoProtobuf
    if place != end:
        raise _NoProtobuf


def _varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 64:  # noqa: PLR2004 - a varint has at most ten bytes
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004
            return value, place
        shift += 7
    raise _NoProtobuf
