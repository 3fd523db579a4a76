"""Einsum: products of tensors, summed over the axes that the result does not name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.lower.builder import Builder, RefusedNodeError
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.size_steps import Extent
from edgekit_converters.litert.lower.steps import Steps
from edgekit_converters.litert.types import NUMBERS

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

_DOTS: Final = "..."
# Their axes can be moved, but nothing can be computed with them.
_MOVED: Final = frozenset({"float64", "uint64"})
# A letter, or three dots with a place, counted from the last axis that they stand for.
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Term:
    """A tensor and what its axes are called."""

    tensor: Tensor
    labels: Labels


@lowers("Einsum", dtypes=NUMBERS | _MOVED)
def lower_einsum(build: Builder, node: Node) -> None:
    """Two terms after the other become one: a product of matrices, batched by what both keep."""
    steps = Steps(build, node)
    tensors = [steps.in_onnx_order(position) for position in range(len(node.inputs))]
    names, result = parse_equation(
        node.text("equation", ""), [len(tensor.shape) for tensor in tensors]
    )
    terms = [
        _diagonal(steps, _Term(tensor=tensor, labels=labels))
        for tensor, labels in zip(tensors, names, strict=True)
    ]
    sizes = _sizes(steps, terms)
    total = terms[0]
    for position, term in enumerate(terms):
        later = [label for other in terms[position + 1 :] for label in other.labels]
        kept = {*result, *later}
        if position:
            total = _multiply(steps, total, term, kept, sizes)
        elif len(terms) == 1:
            total = _sum_out(steps, total, kept)
    made = _arranged(steps, total, result)
    if made in tensors:
        build.alias(node, made)
    else:
        steps.finish(made)


def parse_equation(equation: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """What the axes of the inputs and of the result are called.

    Raises:
        RefusedNodeError: If the equation does not fit the ranks of the inputs.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    words = left.split(",")
    if len(words) != len(ranks):
        raise RefusedNodeError(f"its equation {equation!r} is not one of {len(ranks)} inputs")
    names = [_labels(word, rank, equation) for word, rank in zip(words, ranks, strict=True)]
    dots = sorted({label for labels in names for label in labels if label.startswith(_DOTS)})
    behind = tuple(reversed(dots))
    if not arrow:
        counts = Counter(label for labels in names for label in labels)
        letters = sorted(label for label, count in counts.items() if count == 1 and label.isalpha())
        return names, (*behind, *letters)
    before, ellipsis, after = right.partition(_DOTS)
    result = (*before, *(behind if ellipsis else ()), *after)
    known = {label for labels in names for label in labels}
    if not set(result) <= known or len(set(result)) < len(result):
        raise RefusedNodeError(f"the result of its equation {equation!r} is not one of its axes")
    return names, result


def _labels(word: str, rank: int, equation: str) -> Labels:
    before, ellipsis, after = word.partition(_DOTS)
    count = rank - len(before) - len(after)
    fits = count >= 0 and (not count or bool(ellipsis))
    if not fits or not all(letter.isalpha() for letter in before + after):
        raise RefusedNodeError(f"its equation {equation!r} does not fit an input of rank {rank}")
    # Numbered so that they sort by their place from the back.
    dots = tuple(f"{_DOTS}{place:03d}" for place in reversed(range(count)))
    return (*before, *dots, *after)


def _diagonal(steps: Steps, term: _Term) -> _Term:
    """With every label once: where one stands twice, only equal indices count."""
    labels = list(term.labels)
    tensor = term.tensor
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            others = [at for at in range(len(labels)) if at not in {first, second}]
            tensor = steps.transpose(tensor, [*others, first, second])
            labels = [*(labels[at] for at in others), label]
            extents = steps.extents(tensor)
            size = extents[-1]
            flat = steps.reshaped(tensor, [*extents[:-2], steps.times(size, size)])
            places = _scaled(steps, steps.iota(size), steps.plus(size, 1))
            tensor = steps.gather(flat, places, -1)
    return _Term(tensor=tensor, labels=tuple(labels))


def _scaled(steps: Steps, tensor: Tensor, factor: Extent) -> Tensor:
    if tensor.data is not None and isinstance(factor, int):
        return steps.constant(tensor.data * np.int32(factor), "places")
    return steps.mul(tensor, steps.scalar(factor))


def _sizes(steps: Steps, terms: list[_Term]) -> dict[str, Extent]:
    """The size of every label; of one that is one somewhere, the other size."""
    sizes: dict[str, Extent] = {}
    for term in terms:
        for label, extent in zip(term.labels, steps.extents(term.tensor), strict=True):
            if sizes.get(label, 1) == 1 or (isinstance(extent, int) and extent != 1):
                sizes[label] = extent
    return sizes


def _sum_out(steps: Steps, term: _Term, kept: set[str]) -> _Term:
    """Without the axes that nobody asks for any more."""
    gone = [axis for axis, label in enumerate(term.labels) if label not in kept]
    if gone and term.tensor.dtype in _MOVED:
        raise RefusedNodeError(f"it adds numbers of type {term.tensor.dtype}")
    return _Term(
        tensor=steps.sum(term.tensor, gone) if gone else term.tensor,
        labels=tuple(label for label in term.labels if label in kept),
    )


def _arranged(steps: Steps, term: _Term, labels: Labels) -> Tensor:
    return steps.transpose(term.tensor, [term.labels.index(label) for label in labels])


def _multiply(
    steps: Steps, first: _Term, second: _Term, kept: set[str], sizes: dict[str, Extent]
) -> _Term:
    if first.tensor.dtype in _MOVED:
        raise RefusedNodeError(f"it multiplies numbers of type {first.tensor.dtype}")
    shared = set(first.labels) & set(second.labels)
    first = _wide(steps, _sum_out(steps, first, kept | shared), sizes)
    second = _wide(steps, _sum_out(steps, second, kept | shared), sizes)
    batch = tuple(label for label in first.labels if label in shared and label in kept)
    summed = tuple(label for label in first.labels if label in shared and label not in kept)
    rows = tuple(label for label in first.labels if label not in shared)
    columns = tuple(label for label in second.labels if label not in shared)
    left = _arranged(steps, first, (*batch, *rows, *summed))
    right = _arranged(steps, second, (*batch, *summed, *columns))
    groups = [
        steps.times(*(sizes[label] for label in labels))
        for labels in (batch, rows, summed, columns)
    ]
    product = _matrices(steps, left, right, groups, batched=bool(batch), summed=bool(summed))
    labels = (*batch, *rows, *columns)
    return _Term(tensor=steps.reshaped(product, [sizes[label] for label in labels]), labels=labels)


def _wide(steps: Steps, term: _Term, sizes: dict[str, Extent]) -> _Term:
    extents = [sizes[label] for label in term.labels]
    if all(
        have != 1 or wanted == 1 for have, wanted in zip(term.tensor.shape, extents, strict=True)
    ):
        return term
    return replace(term, tensor=steps.widened(term.tensor, extents))


def _matrices(
    steps: Steps, left: Tensor, right: Tensor, groups: list[Extent], *, batched: bool, summed: bool
) -> Tensor:
    """Products of matrices: of (batch, rows, summed) and (batch, summed, columns)."""
    count, rows, inner, columns = groups
    if not summed:
        first = steps.reshaped(left, [count, rows, 1])
        return steps.mul(first, steps.reshaped(right, [count, 1, columns]))
    if left.dtype != "float32":
        first = steps.reshaped(left, [count, rows, inner, 1])
        product = steps.mul(first, steps.reshaped(right, [count, 1, inner, columns]))
        return steps.sum(product, 2)
    if batched:
        first = steps.reshaped(left, [count, rows, inner])
        return steps.matmul(first, steps.reshaped(right, [count, inner, columns]))
    first = steps.reshaped(left, [rows, inner])
    weights = steps.reshaped(right, [inner, columns])
    if weights.data is None:
        return steps.matmul(first, weights)
    kernel = steps.constant(np.ascontiguousarray(weights.data.T), "weights")
    bias = steps.constant(np.zeros(kernel.shape[0] or 0, dtype=np.float32), "bias")
    return steps.step(
        "FULLY_CONNECTED", [first, kernel, bias], (first.shape[0], kernel.shape[0]), "float32",
        fusedActivationFunction="NONE", weightsFormat="DEFAULT", keepNumDims=False,
    )  # fmt: skip
