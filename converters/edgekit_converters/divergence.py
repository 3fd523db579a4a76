"""Find the node at which a converted model parts from its source.

Values that both models have are compared in the order in which they are computed, a bounded
number of bytes at a time. Where the first of them is over the tolerance, the part of the converted
model behind it is run alone, on what the source computed: an error that the part makes on such
inputs is its own. Where it makes next to none, the error came to it from further up, and the parts
there are tried in the same way; the one with the largest error of its own is named. A part that
stands for several nodes of the source (they were fused) is told apart by converting each of them
alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from edgekit_converters.onnx_trace import OnnxTrace
from edgekit_converters.parity import Arrays, allowed_error, relative_error
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What the values of one step may take, in each of the two models; and into how many steps a model
# is divided at most, since each runs all that is before it again.
_STEP_BYTES: Final = 1 << 24
_MOST_STEPS: Final = 8
# An error of its own counts as the cause from this share of the whole on.
_OWN_SHARE: Final = 0.5
_SHOWN: Final = 4

# Converts one node alone, cut out as an ONNX model, and runs it: inputs -> outputs by name; None
# where it cannot be converted alone, an UnsupportedModelError where the engine fails.
RunAlone = Callable[[Any, Arrays, Sequence[str]], Arrays | None]


class Trace(Protocol):
    """A model whose inner values, by the source's names and axes, can be asked for."""

    @property
    def names(self) -> tuple[str, ...]:
        """The values that it computes."""
        ...

    def restrict(self, names: Collection[str]) -> None:
        """Stop only at these values (and at the inputs) when a part is looked for."""
        ...

    def values(self, inputs: Arrays, names: Sequence[str]) -> Arrays:
        """What the model computes for some of its values."""
        ...

    def feeding(self, name: str) -> tuple[str, ...]:
        """The nearest known values, and inputs, that a value is computed from."""
        ...

    def between(self, given: Arrays, name: str) -> NDArray[np.generic]:
        """Compute one value from those that feed it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where two models part.

    Attributes:
        blamed: A value of each of the source's nodes that are to blame; more than one only where
            they cannot be told apart.
        own_error: What these nodes add by themselves, on the source's values; infinite where the
            engine fails.
        over_at: The first value that is over the tolerance.
        error: Of that value, relative.
        failure: What the engine says, where it fails.
    """

    blamed: tuple[str, ...]
    own_error: float
    over_at: str
    error: float
    failure: str = ""

    def describe(self, name_of: Callable[[str], str]) -> str:
        """The nodes and their error, for a person; `name_of` tells a value's node."""
        nodes = list(dict.fromkeys(name_of(value) for value in self.blamed))
        shown = ", ".join(nodes[:_SHOWN])
        if len(nodes) > _SHOWN:
            shown += f" and {len(nodes) - _SHOWN} more"
        if self.failure:
            return f"{shown}: the engine fails there: {self.failure}"
        text = f"{shown}, relative error {self.own_error:.3g}"
        if len(nodes) > 1:
            text += " (each is right alone, so the fault is in how they are joined)"
        if self.over_at not in self.blamed:
            text += f" of its own, which grows to {self.error:.3g} at {name_of(self.over_at)}"
        return text


def find_divergence(
    source: OnnxTrace,
    artifact: Trace,
    inputs: Arrays,
    tolerance: float,
    *,
    run_alone: RunAlone | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Divergence | None:
    """The place at which an artifact comes to be further off than the tolerance.

    Args:
        source: What is right.
        artifact: What was made of it.
        inputs: On which they differ.
        tolerance: Largest difference over largest magnitude, for each value.
        run_alone: Tells nodes apart that one part of the artifact stands for.
        sizes: The bytes of each value, as far as they are known.

    Returns:
        None if no value that both have differs.

    Raises:
        UnsupportedModelError: If the source's engine fails.
    """
    search, common = _search(source, artifact, inputs, tolerance, run_alone, sizes)
    for names in search.steps(common):
        found = search.first_of(names)
        if found is not None:
            return found
    return None


def find_wrong_part(
    source: OnnxTrace,
    artifact: Trace,
    inputs: Arrays,
    tolerance: float,
    *,
    run_alone: RunAlone | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Divergence | None:
    """The first part of an artifact that is itself further off than the tolerance.

    Unlike `find_divergence` it asks for an error of the part's own, on the source's values: what
    rounding made of a value before it (another side of a step, another winner of a tie) is no
    fault. The arguments and errors are the same.
    """
    search, common = _search(source, artifact, inputs, tolerance, run_alone, sizes)
    for names in search.steps(common):
        found = search.wrong_one_of(names)
        if found is not None:
            return found
    return None


def _search(
    source: OnnxTrace,
    artifact: Trace,
    inputs: Arrays,
    tolerance: float,
    run_alone: RunAlone | None,
    sizes: Mapping[str, int] | None,
) -> tuple[_Search, list[str]]:
    there = set(artifact.names)
    common = [name for name in source.names if name in there]
    artifact.restrict(common)
    source.restrict(common)
    return _Search(source, artifact, inputs, tolerance, run_alone, sizes or {}), common


@dataclass(frozen=True, slots=True)
class _Search:
    source: OnnxTrace
    artifact: Trace
    inputs: Arrays
    tolerance: float
    run_alone: RunAlone | None
    sizes: Mapping[str, int]

    def steps(self, names: Sequence[str]) -> Iterator[list[str]]:
        """The names in parts, the values of each of which fit into memory."""
        whole = sum(self.sizes.get(name, 0) for name in names)
        limit = max(_STEP_BYTES, -(-whole // _MOST_STEPS))
        step: list[str] = []
        total = 0
        for name in names:
            size = self.sizes.get(name, 0)
            if step and total + size > limit:
                yield step
                step, total = [], 0
            step.append(name)
            total += size
        if step:
            yield step

    def first_of(self, names: Sequence[str]) -> Divergence | None:
        """The divergence at the first of some values that is off, None if none is."""
        expected = self.source.values(self.inputs, names)
        try:
            computed = self.artifact.values(self.inputs, names)
        except UnsupportedModelError as error:
            if len(names) > 1:
                middle = len(names) // 2
                return self.first_of(names[:middle]) or self.first_of(names[middle:])
            return Divergence(
                blamed=self._nodes(names[0]),
                own_error=math.inf,
                over_at=names[0],
                error=math.inf,
                failure=error.what,
            )
        for name in names:
            error_here = _error(expected[name], computed[name])
            if error_here > self._allowed(expected[name]):
                return self._explain(name, error_here)
        return None

    def wrong_one_of(self, names: Sequence[str]) -> Divergence | None:
        """The first of some values whose part is wrong by itself, None if none is."""
        expected = self.source.values(self.inputs, names)
        computed = self.artifact.values(self.inputs, names)
        for name in names:
            error = _error(expected[name], computed[name])
            allowed = self._allowed(expected[name])
            own = self._own_errors([name])[name] if error > allowed else 0.0
            if own > allowed:
                return Divergence(
                    blamed=self._nodes(name), own_error=own, over_at=name, error=error
                )
        return None

    def _explain(self, name: str, error: float) -> Divergence:
        cause, largest = name, self._own_errors([name])[name]
        if largest <= self.tolerance and largest < _OWN_SHARE * error:
            for other, own in self._own_errors(self._above(name)).items():
                if own > largest:
                    cause, largest = other, own
        return Divergence(blamed=self._nodes(cause), own_error=largest, over_at=name, error=error)

    def _own_errors(self, names: Sequence[str]) -> dict[str, float]:
        """The error that each part makes on the source's values; 0 where it cannot run alone."""
        errors = {}
        for step in self.steps(names):
            feeding = {name: self.artifact.feeding(name) for name in step}
            wanted = dict.fromkeys(
                [*step, *(value for values in feeding.values() for value in values)]
            )
            known = self._known(wanted)
            for name in step:
                try:
                    given = {value: known[value] for value in feeding[name]}
                    computed = self.artifact.between(given, name)
                    errors[name] = _error(known[name], computed)
                except UnsupportedModelError:
                    errors[name] = 0.0
        return errors

    def _known(self, names: Collection[str]) -> Arrays:
        """The source's values, inputs among them."""
        inner = [name for name in names if name not in self.inputs]
        values = self.source.values(self.inputs, inner) if inner else {}
        return {name: self.inputs[name] if name in self.inputs else values[name] for name in names}

    def _above(self, name: str) -> list[str]:
        """The values that a value depends on, the nearest first."""
        found = {name: None}
        waiting = [name]
        for value in waiting:
            for feeding in self.artifact.feeding(value):
                if feeding not in found and feeding not in self.inputs:
                    found[feeding] = None
                    waiting.append(feeding)
        return waiting[1:]

    def _nodes(self, name: str) -> tuple[str, ...]:
        """A value of each of the source's nodes behind one: of the wrong one, or of all."""
        inside = self.source.inside(name)
        if len(inside) > 1 and self.run_alone is not None:
            for output in inside:
                if self._is_wrong_alone(self.run_alone, output):
                    return (output,)
        return inside

    def _is_wrong_alone(self, run_alone: RunAlone, output: str) -> bool:
        inputs = self.source.inputs_of(output)
        known = self._known([*inputs, output])
        given = {name: known[name] for name in inputs}
        try:
            computed = run_alone(self.source.cut_node(output, given), given, [output])
        except UnsupportedModelError:
            return True
        if computed is None:
            return False
        return _error(known[output], computed[output]) > self._allowed(known[output])

    def _allowed(self, values: NDArray[np.generic]) -> float:
        return allowed_error(values.dtype.name, self.tolerance)


def _error(expected: NDArray[np.generic], computed: NDArray[np.generic]) -> float:
    """The relative error; the artifact may hold a value in a narrower type of the same kind."""
    if expected.dtype != computed.dtype and expected.dtype.kind == computed.dtype.kind:
        computed = computed.astype(expected.dtype)
    return relative_error(expected, computed)
