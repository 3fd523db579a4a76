"""Walk a TFLite flatbuffer with every offset checked; standard library only.

The rules are those of the flatbuffers C++ verifier (https://flatbuffers.dev/internals): tables,
their vtables, vectors and strings must lie inside the file. The schema is
`tflite_layout.json`: for each table the kind of every field by slot: a scalar's size in bytes,
`string`, a table's name, `union NAME` (whose type is the field before it), or a vector of those
in brackets; an empty text is a slot without a field.
"""

from __future__ import annotations

import json
import mmap
import struct
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from edgekit_runtime.errors import UnsupportedModelError

Buffer = bytes | mmap.mmap

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_SCALARS: Final = {"1": 1, "2": 2, "4": 4, "8": 8}
_INTEGERS: Final = {1: struct.Struct("<B"), 4: _I32, 8: struct.Struct("<q")}


@dataclass(frozen=True, slots=True)
class Layout:
    """The TFLite schema, as far as offsets need it."""

    tables: dict[str, list[str]]
    unions: dict[str, list[str]]


@cache
def tflite_layout() -> Layout:
    """The layout that ships with this package."""
    text = resources.files(__package__ or "").joinpath("tflite_layout.json").read_text("utf-8")
    data = json.loads(text)
    return Layout(data["tables"], data["unions"])


class FlatbufferWalk:
    """Reads of one flatbuffer, each checked; a fault raises `UnsupportedModelError`."""

    def __init__(self, data: Buffer, *, where: str) -> None:
        self.size = len(data)
        self.where = where
        self._data = data
        self._layout = tflite_layout()
        self._seen: set[tuple[int, str]] = set()

    def damaged(self, text: str) -> UnsupportedModelError:
        """The error for a file whose parts contradict each other."""
        return UnsupportedModelError(
            f"this TFLite file is damaged: {text}",
            where=self.where,
            fix="convert or copy the model again",
        )

    def root(self) -> int:
        """The position of the root table."""
        return self._follow(0, "the model")

    def field(self, table: int, slot: int) -> int:
        """The position of a field, or 0 where the table leaves it out."""
        vtable = table - _I32.unpack_from(self._data, table)[0]
        entry = 4 + 2 * slot
        if entry + 2 > _U16.unpack_from(self._data, vtable)[0]:
            return 0
        offset: int = _U16.unpack_from(self._data, vtable + entry)[0]
        return table + offset if offset else 0

    def integer(self, table: int, slot: int, *, size: int = 4, default: int = 0) -> int:
        """A whole number: one byte unsigned, more bytes signed."""
        place = self.field(table, slot)
        return int(_INTEGERS[size].unpack_from(self._data, place)[0]) if place else default

    def vector(self, table: int, slot: int) -> tuple[int, int]:
        """The position of a vector's first element and its length; (0, 0) where left out."""
        place = self.field(table, slot)
        if not place:
            return 0, 0
        start = place + _U32.unpack_from(self._data, place)[0]
        return start + 4, _U32.unpack_from(self._data, start)[0]

    def integers(self, table: int, slot: int, *, size: int = 4) -> tuple[int, ...]:
        """A vector of signed whole numbers of 4 or 8 bytes each."""
        start, length = self.vector(table, slot)
        code = "i" if size == _SCALARS["4"] else "q"
        return struct.unpack_from(f"<{length}{code}", self._data, start) if length else ()

    def children(self, table: int, slot: int) -> list[int]:
        """The positions of the tables in a vector of tables."""
        start, length = self.vector(table, slot)
        offsets = struct.unpack_from(f"<{length}I", self._data, start) if length else ()
        return [start + 4 * i + offset for i, offset in enumerate(offsets)]

    def child(self, table: int, slot: int) -> int:
        """The position of a table that a field points to, or 0."""
        place = self.field(table, slot)
        return place + int(_U32.unpack_from(self._data, place)[0]) if place else 0

    def verify(self, table: int, name: str) -> None:
        """Check a table and all that hangs from it; every other read here relies on this."""
        if (table, name) in self._seen:
            return
        self._seen.add((table, name))
        self._inside(table, 4, name)
        vtable = table - _I32.unpack_from(self._data, table)[0]
        self._inside(vtable, 4, name)
        vtable_size, table_size = struct.unpack_from("<HH", self._data, vtable)
        if vtable_size < 4 or vtable_size % 2:  # noqa: PLR2004 - two 16-bit sizes lead a vtable
            raise self.damaged(f"a {name} record has no valid field list")
        self._inside(vtable, vtable_size, name)
        self._inside(table, table_size, name)
        kinds = self._layout.tables[name]
        for slot in range(min(len(kinds), (vtable_size - 4) // 2)):
            offset = _U16.unpack_from(self._data, vtable + 4 + 2 * slot)[0]
            if not offset or not kinds[slot]:
                continue
            size = _SCALARS.get(kinds[slot], 4)
            if offset + size > table_size:
                raise self.damaged(f"field {slot} of a {name} record lies outside the record")
            if kinds[slot] not in _SCALARS:
                self._verify_field(table, slot, table + offset, kinds[slot], name)

    def _verify_field(self, table: int, slot: int, place: int, kind: str, name: str) -> None:
        target = self._follow(place, name)
        if kind == "string":
            length = _U32.unpack_from(self._data, target)[0]
            self._inside(target + 4, length + 1, name)
        elif kind.startswith("["):
            self._verify_vector(target, kind[1:-1], name)
        elif kind.startswith("union "):
            members = self._layout.unions[kind.removeprefix("union ")]
            code = self.integer(table, slot - 1, size=1)
            # An unknown or absent member is read by nobody; engines treat it as no options.
            if code < len(members) and members[code]:
                self.verify(target, members[code])
        else:
            self.verify(target, kind)

    def _verify_vector(self, start: int, kind: str, name: str) -> None:
        length = _U32.unpack_from(self._data, start)[0]
        self._inside(start + 4, length * _SCALARS.get(kind, 4), name)
        if kind in _SCALARS:
            return
        for index in range(length):
            target = self._follow(start + 4 + 4 * index, name)
            self.verify(target, kind)

    def _follow(self, place: int, name: str) -> int:
        self._inside(place, 4, name)
        offset = _U32.unpack_from(self._data, place)[0]
        if offset < 4:  # noqa: PLR2004 - a smaller offset points into the offset itself
            raise self.damaged(f"a {name} record points nowhere")
        self._inside(place + offset, 4, name)
        return place + int(offset)

    def _inside(self, start: int, length: int, name: str) -> None:
        if start < 0 or start + length > self.size:
            raise self.damaged(
                f"a {name} record reaches byte {start + length} of {self.size}; is it cut short?"
            )
