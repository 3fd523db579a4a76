"""Find the node at which a converted model parts from its source.

Values that both models have are compared in the order in which they are computed, part after
part, each of which takes a bounded number of bytes. Where the first of them is over the tolerance,
the part of the converted model behind it is run alone, on what the source computed: an error that
the part makes on such inputs is its own. Where it makes next to none, the error came to it from
further up, and the parts there are tried in the same way; the one with the largest error of its
own is named. A part that stands for several nodes of the source (they were fused) is told apart by
converting each of them alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from edgekit_converters.difference import allowed_error, relative_error
from edgekit_converters.onnx_trace import OnnxTrace
from edgekit_converters.probes import Arrays
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What the values and weights of one part may take, in each of the two models.
_STEP_BYTES: Final = 1 << 22
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

    def values(self, given: Arrays, names: Sequence[str]) -> Arrays:
        """What the model computes for some of its values, from others or from its inputs."""
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
    search = _Search(source, artifact, inputs, tolerance, run_alone, sizes or {})
    for name, error, failure, known in search.differences():
        if failure:
            return Divergence(
                blamed=search.nodes(name, known),
                own_error=math.inf,
                over_at=name,
                error=math.inf,
                failure=failure,
            )
        return search.explain(name, error, known)
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
    search = _Search(source, artifact, inputs, tolerance, run_alone, sizes or {})
    for name, error, failure, known in search.differences():
        if failure:
            # The whole model ran: it is the cut that the engine does not like.
            return None
        own = search.own_error(name, known)
        if own > search.allowed(known[name]):
            return Divergence(
                blamed=search.nodes(name, known), own_error=own, over_at=name, error=error
            )
    return None


class _Search:
    """Two models run side by side, part after part, on the same inputs."""

    def __init__(
        self,
        source: OnnxTrace,
        artifact: Trace,
        inputs: Arrays,
        tolerance: float,
        run_alone: RunAlone | None,
        sizes: Mapping[str, int],
    ) -> None:
        there = set(artifact.names)
        self._common = [name for name in source.names if name in there]
        artifact.restrict(self._common)
        source.restrict(self._common)
        self._source = source
        self._artifact = artifact
        self._inputs = inputs
        self._tolerance = tolerance
        self._run_alone = run_alone
        self._sizes = sizes

    def differences(self) -> Iterator[tuple[str, float, str, Arrays]]:
        """Every value that is off, in order of execution.

        Yields:
            Its name, its error, what the engine says where it fails (then nothing follows), and
            the source's values: its own, and all that feed it.
        """
        reached = dict(self._inputs)
        for names, known in self._stages(self._common):
            reached = {name: array for name, array in reached.items() if name in known}
            computed, failure = self._compute(reached, names)
            for name in names:
                if name not in computed:
                    yield name, math.inf, failure, known
                    return
                error = _error(known[name], computed[name])
                if error > self.allowed(known[name]):
                    yield name, error, "", known
            reached |= computed

    def explain(self, name: str, error: float, known: Arrays) -> Divergence:
        """Where the error of a value comes from: its own part, or one above it."""
        largest = self.own_error(name, known)
        blamed = self.nodes(name, known)
        if largest <= self._tolerance and largest < _OWN_SHARE * error:
            above = self._above(name)
            for names, values in self._stages([n for n in self._common if n in above]):
                for other in names:
                    own = self.own_error(other, values)
                    if own > largest:
                        largest, blamed = own, self.nodes(other, values)
        return Divergence(blamed=blamed, own_error=largest, over_at=name, error=error)

    def own_error(self, name: str, known: Arrays) -> float:
        """The error that a part makes on the source's values; 0 where it cannot run alone."""
        try:
            given = {value: known[value] for value in self._artifact.feeding(name)}
            return _error(known[name], self._artifact.between(given, name))
        except UnsupportedModelError:
            return 0.0

    def nodes(self, name: str, known: Arrays) -> tuple[str, ...]:
        """A value of each of the source's nodes behind one: of the wrong one, or of all."""
        inside = self._source.inside(name)
        if len(inside) > 1 and self._run_alone is not None:
            for output in inside:
                if self._is_wrong_alone(self._run_alone, output, known):
                    return (output,)
        return inside

    def allowed(self, values: NDArray[np.generic]) -> float:
        """The largest relative error that values of this type may have."""
        return allowed_error(values.dtype.name, self._tolerance)

    def _stages(self, names: Sequence[str]) -> Iterator[tuple[list[str], Arrays]]:
        """Values in order, in parts that fit into memory.

        Each part starts from the values of those before it, so that nothing runs twice and only
        its own weights are loaded. With it come the source's values, of the part and of all that
        feeds it.
        """
        steps = list(self._steps(names))
        last: dict[str, int] = {}
        for position, step in enumerate(steps):
            for name in step:
                for trace in (self._source, self._artifact):
                    last.update(dict.fromkeys(trace.feeding(name), position))
        known = dict(self._inputs)
        for position, step in enumerate(steps):
            known |= self._source.values(known, step)
            yield step, known
            known = {
                name: array
                for name, array in known.items()
                if name in self._inputs or last.get(name, -1) > position
            }

    def _steps(self, names: Sequence[str]) -> Iterator[list[str]]:
        step: list[str] = []
        total = 0
        for name in names:
            size = self._sizes.get(name, 0) + self._source.weight_bytes(name)
            if step and total + size > _STEP_BYTES:
                yield step
                step, total = [], 0
            step.append(name)
            total += size
        if step:
            yield step

    def _compute(self, given: Arrays, names: Sequence[str]) -> tuple[Arrays, str]:
        """The artifact's values; where its engine fails, those before that, and what it says."""
        try:
            return self._artifact.values(given, names), ""
        except UnsupportedModelError as error:
            failure = error.what
        computed: Arrays = {}
        for name in names:
            try:
                computed |= self._artifact.values({**given, **computed}, [name])
            except UnsupportedModelError as error:
                return computed, error.what
        return computed, failure

    def _above(self, name: str) -> set[str]:
        """The values that a value depends on."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            for feeding in self._artifact.feeding(waiting.pop()):
                if feeding not in found and feeding not in self._inputs:
                    found.add(feeding)
                    waiting.append(feeding)
        return found

    def _is_wrong_alone(self, run_alone: RunAlone, output: str, known: Arrays) -> bool:
        inputs = self._source.inputs_of(output)
        missing = [name for name in (*inputs, output) if name not in known]
        values = {**known, **(self._source.values(known, missing) if missing else {})}
        given = {name: values[name] for name in inputs}
        try:
            computed = run_alone(self._source.cut_node(output, given), given, [output])
        except UnsupportedModelError:
            return True
        if computed is None:
            return False
        return _error(values[output], computed[output]) > self.allowed(values[output])


def _error(expected: NDArray[np.generic], computed: NDArray[np.generic]) -> float:
    """The relative error; the artifact may hold a value in a narrower type of the same kind."""
    if expected.dtype != computed.dtype and expected.dtype.kind == computed.dtype.kind:
        computed = computed.astype(expected.dtype)
    return relative_error(expected, computed)
