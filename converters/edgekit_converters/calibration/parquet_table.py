"""Parquet tables: a sample a row, read a part at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.calibration.columns import plan_columns, sample_shape
from edgekit_converters.calibration.source import Chunk, as_input, samples_per_chunk
from edgekit_runtime.errors import EdgekitError, UsageError
from edgekit_runtime.extras import require
from edgekit_runtime.files import sha256_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.tensors import TensorSpec

_NUMBER_BYTES: Final = 8


class ParquetTable:
    """A `.parquet` file: columns of numbers, or of lists of them that are equally long."""

    doubts: tuple[str, ...] = ()

    def __init__(self, path: Path, specs: Sequence[TensorSpec]) -> None:
        """Read what the file says of its columns.

        Raises:
            UsageError: If it is damaged, or the columns do not make up the model's inputs.
            EnvironmentLackError: If pyarrow is not installed.
        """
        self._path = path
        self._specs = tuple(specs)
        self._arrow: Any = require("pyarrow", extra="parquet")
        self._parquet: Any = require("pyarrow.parquet", extra="parquet")
        with self._opened() as file:
            schema = file.schema_arrow
            plan = plan_columns(
                list(schema.names),
                specs,
                where=str(path),
                widths={field.name: self._width(field.type) for field in schema},
            )
        self._inputs, self._label = plan.inputs, plan.label

    def chunks(self) -> Iterator[Chunk]:
        """See `SampleSource`."""
        columns = [column for found in self._inputs.values() for column in found]
        columns += [self._label] if self._label is not None else []
        numbers = sum(int(np.prod([s or 1 for s in spec.shape[1:]])) for spec in self._specs)
        size = samples_per_chunk(_NUMBER_BYTES * numbers)
        with self._opened() as file:
            for batch in self._batches(file, size, columns):
                if batch.num_rows:
                    yield self._chunk(batch)

    def sha256(self) -> str:
        """See `SampleSource`."""
        return sha256_of(self._path)

    def _batches(self, file: Any, size: int, columns: list[str]) -> Iterator[Any]:
        try:
            yield from file.iter_batches(batch_size=size, columns=columns)
        except (OSError, self._arrow.ArrowException) as error:
            raise _unreadable(self._path, error) from error

    def _chunk(self, batch: Any) -> Chunk:
        arrays = {}
        for spec in self._specs:
            columns = [self._numbers(batch.column(name), name) for name in self._inputs[spec.name]]
            values = np.concatenate(columns, axis=1)
            shape = sample_shape(spec, values.shape[1])
            try:
                shaped = values.reshape(batch.num_rows, *shape)
            except ValueError as error:
                raise self._wrong(
                    f"{spec.name!r} takes {list(shape)} a sample, the lists hold "
                    f"{values.shape[1]} numbers"
                ) from error
            if not np.can_cast(shaped.dtype, np.dtype(spec.dtype), casting="same_kind"):
                raise self._wrong(f"{spec.name!r} is {shaped.dtype.name}, not {spec.dtype}")
            arrays[spec.name] = as_input(shaped, spec)
        labels = None
        if self._label is not None:
            labels = np.array(batch.column(self._label).to_pylist())
        return Chunk(arrays=arrays, labels=labels)

    def _numbers(self, column: Any, name: str) -> NDArray[Any]:
        rows = len(column)
        if column.null_count:
            raise self._wrong(f"column {name!r} has {column.null_count} cell(s) with nothing in it")
        if self._is_list(column.type):
            # A slice's own values; those of the whole column are behind `values`.
            column, whole = column.flatten(), column
            if column.null_count or len(column) % rows:
                raise self._wrong(f"the lists in column {name!r} are not equally long")
            lengths = whole.value_lengths()
            if len(set(lengths.to_pylist())) > 1:
                raise self._wrong(f"the lists in column {name!r} are not equally long")
        kinds = self._arrow.types
        if not (kinds.is_integer(column.type) or kinds.is_floating(column.type)
                or kinds.is_boolean(column.type)):  # fmt: skip
            raise self._wrong(f"column {name!r} holds {column.type}, not numbers")
        return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(rows, -1)

    def _width(self, kind: Any) -> int | None:
        if self._arrow.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        return None if self._is_list(kind) else 1

    def _is_list(self, kind: Any) -> bool:
        kinds = self._arrow.types
        return bool(
            kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
        )

    def _opened(self) -> Any:
        try:
            return self._parquet.ParquetFile(str(self._path))
        except (OSError, self._arrow.ArrowException) as error:
            raise _unreadable(self._path, error) from error

    def _wrong(self, text: str) -> EdgekitError:
        return UsageError(
            f"the table does not fit the model: {text}",
            where=str(self._path),
            fix="keep a sample a row: numbers, or lists of the same length",
        )


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"this is no readable Parquet file: {' '.join(str(error).split())[:200]}",
        where=str(path),
        fix="write it again",
    )
