"""Which columns of a table make which input of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from edgekit_converters.samples import LABEL_NAMES
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit_runtime.tensors import TensorSpec

_LABEL_COLUMNS = (*LABEL_NAMES, "label", "class", "target")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPlan:
    """How rows become samples.

    Attributes:
        inputs: By input name, the columns whose values follow each other in a sample.
        label: The column of the labels, if there is one.
    """

    inputs: Mapping[str, tuple[str, ...]]
    label: str | None


def plan_columns(
    columns: Sequence[str],
    specs: Sequence[TensorSpec],
    *,
    where: str,
    widths: Mapping[str, int | None] | None = None,
) -> ColumnPlan:
    """Find the columns of each input, by name or, for a model with one input, by their order.

    A column that is called like an input holds it; so do columns that are called like it with
    `.0`, `.1` and so on behind. What is left is for the one input whose name no column has.

    Args:
        columns: Their names, in order.
        specs: The model's inputs.
        where: The table, for errors.
        widths: How many numbers a row of a column holds where it is not one; None: unknown.

    Raises:
        UsageError: Naming each input that the columns do not make up.
    """
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise UsageError(
            f"several columns have the same name: {', '.join(twice)}",
            where=where,
            fix="give every column a name of its own",
        )
    names = {spec.name for spec in specs}
    label = next((name for name in columns if name.lower() in _LABEL_COLUMNS and name not in names),
                 None)  # fmt: skip
    inputs = {spec.name: _named(spec.name, columns) for spec in specs}
    used = {name for found in inputs.values() for name in found}
    rest = tuple(name for name in columns if name not in used and name != label)
    open_inputs = [name for name, found in inputs.items() if not found]
    if len(open_inputs) == 1:
        inputs[open_inputs[0]] = rest
    faults = [text for spec in specs if (text := _fault(spec, inputs[spec.name], widths or {}))]
    if faults:
        raise UsageError(
            f"the columns do not fit the model: {'; '.join(faults)}",
            where=where,
            fix="name a column like the input, or NAME.0, NAME.1 and so on for its values in "
            "order; labels are in a column called 'label'",
        )
    return ColumnPlan(inputs=inputs, label=label)


def sample_shape(spec: TensorSpec, count: int) -> tuple[int, ...]:
    """The shape of a sample that so many numbers make; one free size follows from the others."""
    sizes = spec.shape[1:]
    known = prod(size for size in sizes if size is not None)
    return tuple(count // known if size is None else size for size in sizes)


def _named(name: str, columns: Sequence[str]) -> tuple[str, ...]:
    if name in columns:
        return (name,)
    numbered = {
        int(match[1]): column
        for column in columns
        if (match := re.fullmatch(re.escape(name) + r"[.](\d{1,9})", column))
    }
    return tuple(numbered[index] for index in sorted(numbered))


def _fault(
    spec: TensorSpec, columns: Sequence[str], widths: Mapping[str, int | None]
) -> str | None:
    found = [widths.get(name, 1) for name in columns]
    if not columns:
        return f"there is no column for the input {spec.name!r}"
    sizes = spec.shape[1:]
    free = sum(size is None for size in sizes)
    if free > 1:
        return f"{spec.name!r} has {free} sizes that the model leaves free: use an .npz"
    if None in found:
        return None
    count = sum(size for size in found if size is not None)
    known = prod(size for size in sizes if size is not None)
    if (count % known if free and known else count != known) or not count:
        return (
            f"{spec.name!r} takes {known}{' times any' if free else ''} number(s) a sample, and "
            f"there are {count} in {len(columns)} column(s)"
        )
    return None
