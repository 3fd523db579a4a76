"""CSV tables: a sample a row, read a part at a time."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.calibration.columns import plan_columns, sample_shape
from edgekit_converters.calibration.source import Chunk, as_input, samples_per_chunk
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import sha256_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.tensors import TensorSpec

_DELIMITERS: Final = ",;\t"
# A number in text, as Python holds it, takes about so much.
_CELL_BYTES: Final = 64


class TextTable:
    """A `.csv` or `.tsv` file in UTF-8, with a line of names first or with none."""

    doubts: tuple[str, ...] = ()

    def __init__(self, path: Path, specs: Sequence[TensorSpec]) -> None:
        """Read the names of the columns.

        Raises:
            UsageError: If they do not make up the model's inputs.
        """
        self._path = path
        self._specs = tuple(specs)
        with self._lines() as rows:
            first = next(rows, [])
        self._named = not all(_is_number(cell) for cell in first)
        columns = first if self._named else [f"column {n}" for n in range(1, len(first) + 1)]
        plan = plan_columns(columns, specs, where=str(path))
        positions = {name: index for index, name in enumerate(columns)}
        self._columns = columns
        self._inputs = {
            name: [positions[column] for column in found] for name, found in plan.inputs.items()
        }
        self._label = None if plan.label is None else positions[plan.label]

    def chunks(self) -> Iterator[Chunk]:
        """See `SampleSource`."""
        size = samples_per_chunk(_CELL_BYTES * len(self._columns))
        with self._lines() as lines:
            number = 0
            if self._named:
                next(lines, None)
                number = 1
            while rows := list(islice(lines, size)):
                kept = [(number + n, row) for n, row in enumerate(rows, start=1) if row]
                number += len(rows)
                if kept:
                    yield self._chunk(kept)

    def sha256(self) -> str:
        """See `SampleSource`."""
        return sha256_of(self._path)

    def _chunk(self, rows: list[tuple[int, list[str]]]) -> Chunk:
        for number, row in rows:
            if len(row) != len(self._columns):
                raise self._wrong(
                    f"row {number} has {len(row)} cell(s), the table has {len(self._columns)} "
                    "columns"
                )
        arrays = {}
        for spec in self._specs:
            positions = self._inputs[spec.name]
            values = self._numbers(rows, positions, spec)
            shape = sample_shape(spec, len(positions))
            arrays[spec.name] = as_input(values.reshape(len(rows), *shape), spec)
        labels = None
        if self._label is not None:
            labels = np.array([row[self._label].strip() for _, row in rows])
        return Chunk(arrays=arrays, labels=labels)

    def _numbers(
        self, rows: list[tuple[int, list[str]]], positions: list[int], spec: TensorSpec
    ) -> NDArray[Any]:
        kind: type = int if np.dtype(spec.dtype).kind in "iub" else float
        try:
            return np.array([[kind(row[at]) for at in positions] for _, row in rows])
        except ValueError:
            number, at = next(
                (number, at) for number, row in rows for at in positions
                if not _is_number(row[at], kind)
            )  # fmt: skip
        cell = dict(rows)[number][at]
        raise self._wrong(
            f"row {number}, column {self._columns[at]!r}: "
            + (f"{cell[:40]!r} is no {'whole ' if kind is int else ''}number" if cell.strip()
               else "nothing is there")
        )  # fmt: skip

    def _lines(self) -> _Lines:
        return _Lines(self._path)

    def _wrong(self, text: str) -> UsageError:
        return _unreadable(self._path, text)


class _Lines:
    """The rows of a table while it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Iterator[list[str]]:
        # The signature that spreadsheets write is no part of the first name.
        self._file = self._path.open(encoding="utf-8-sig", newline="")
        return self._rows()

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _rows(self) -> Iterator[list[str]]:
        try:
            head = self._file.readline()
            self._file.seek(0)
            delimiter = max(_DELIMITERS, key=head.count)
            yield from csv.reader(self._file, delimiter=delimiter, strict=True)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise _unreadable(self._path, " ".join(str(error).split())[:200]) from error


def _unreadable(path: Path, text: str) -> UsageError:
    return UsageError(
        f"this is no readable table: {text}",
        where=str(path),
        fix="save it as CSV in UTF-8, with a number in every cell of the model's inputs",
    )


def _is_number(cell: str, kind: type = float) -> bool:
    try:
        return math.isfinite(kind(cell)) or kind is float
    except ValueError:
        return False
