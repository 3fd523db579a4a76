"""Compare two models that should compute the same: how far each output is off, and on which input.

What counts as the same:

- Every output has the source's shape and element type.
- Floats: NaN stands where the source has NaN, and nowhere else; infinities are the same ones. What
  is finite may differ by the tolerance, relative to the largest magnitude of that output, in half
  precision by eight units in the last place. A NaN or an infinity where the other has a number is
  an infinite error.
- Whole numbers and booleans are equal, each of them.

Two engines add in different orders, so the last bits of a float are nobody's fault. Where a model
turns those into something large (the larger of two nearly equal scores, the deviation of what
should be constant), the source contradicts itself as soon as its inputs change in their last bits.
A probe on which it does, and by about as much, proves nothing: it is set aside and reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.probes import Arrays, Probe, probes_for, user_probes
from edgekit_runtime.engines.checks import describe
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.session import Session

__all__ = [
    "Arrays",
    "Comparison",
    "OutputParity",
    "Probe",
    "allowed_error",
    "compare",
    "probes_for",
    "relative_error",
    "user_probes",
]

# Outputs below this are noise: an error is judged against at least this magnitude.
_LEAST_MAGNITUDE: Final = 1e-6
# Two units in the last place of a float32.
_LAST_BITS: Final = 2.0**-22
_NUDGES: Final = 4
# So that comparing large values takes little memory beside them.
_BLOCK_ELEMENTS: Final = 1 << 18
# Changed inputs show the sensitivity of the whole network, other engines round in every layer.
_ROUNDING_TO_NUDGE: Final = 8.0
_NUDGE_SEED: Final = 7
# One unit in the last place of types in which the usual tolerance is less than that.
_COARSE: Final = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_LAST_BITS_ALLOWED: Final = 8.0
# numpy's own floats, complex numbers, and the small floats that it has from elsewhere.
_FLOATS: Final = "fcV"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputParity:
    """How far one output of an artifact is from the source's.

    Attributes:
        name: Of the output.
        max_abs_error: The largest difference of two elements.
        max_relative_error: The largest difference within one probe, over the largest magnitude
            of the source's output there; infinite where they cannot be the same.
        sqnr_db: Signal to quantization noise over all probes, in decibels; None where there is
            no noise.
        worst_probe: The label of the probe with the largest relative error.
        fault: What is wrong there in words, where it is more than an error in size.
        dtype: Of the output, as the source has it.
    """

    name: str
    max_abs_error: float
    max_relative_error: float
    sqnr_db: float | None
    worst_probe: str
    fault: str
    dtype: str

    def within(self, tolerance: float) -> bool:
        """Whether the largest error is allowed."""
        return self.max_relative_error <= allowed_error(self.dtype, tolerance)

    def to_json(self) -> dict[str, object]:
        """The figures; infinity, which JSON does not have, as None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models side by side.

    Attributes:
        outputs: One entry an output, in the source's order.
        probes: How many inputs were compared.
        first: The first of them, an everyday one.
        worst: The one with the largest relative error.
        set_aside: The labels of probes on which the source itself is not determined.
        failure: Why the artifact's engine gave up, "" where it did not; then nothing else counts.
    """

    outputs: tuple[OutputParity, ...]
    probes: int
    first: Probe
    worst: Probe
    set_aside: tuple[str, ...] = ()
    failure: str = ""

    @property
    def max_relative_error(self) -> float:
        """The largest of all outputs."""
        return max(output.max_relative_error for output in self.outputs)

    def within(self, tolerance: float) -> bool:
        """Whether every output agrees with the source's."""
        return not self.failure and all(output.within(tolerance) for output in self.outputs)

    def complaint(self, tolerance: float) -> str:
        """What is wrong, for a person, where an error is over the tolerance."""
        if self.failure:
            return f"the engine fails on the probe {self.worst.label!r}: {self.failure}"
        wrong = [output for output in self.outputs if not output.within(tolerance)]
        worst = max(wrong or self.outputs, key=lambda output: output.max_relative_error)
        allowed = allowed_error(worst.dtype, tolerance)
        how = worst.fault or (
            f"is off by {worst.max_relative_error:.3g} relative, allowed {allowed:.3g},"
        )
        return f"output {worst.name!r} {how} on the probe {worst.worst_probe!r}"


def compare(
    source: Session,
    artifact: Session,
    probes: Iterable[Probe],
    *,
    tolerance: float | None = None,
    where: str | None = None,
) -> Comparison:
    """Run both models on every probe; probes that the source refuses are left out.

    Args:
        source: What is right.
        artifact: What was made of it.
        probes: What to try.
        tolerance: The largest relative error that is allowed. A probe with more is set aside if
            the source itself is not determined there; without a tolerance, none is.
        where: The source's path, for errors.

    Raises:
        UnsupportedModelError: If the source refuses every probe, computes no array for an
            output, or no probe is left to judge by.
    """
    tallies = {spec.name: _Tally() for spec in source.outputs}
    refusal: UnsupportedModelError | None = None
    set_aside: list[str] = []
    first: Probe | None = None
    worst: Probe | None = None
    count, worst_error = 0, -1.0
    for probe in probes:
        try:
            expected = source.run(probe.inputs)
        except UnsupportedModelError as error:
            refusal = error
            continue
        absent = [name for name in tallies if not isinstance(expected[name], np.ndarray)]
        if absent:
            raise UnsupportedModelError(
                f"the model computes no array for its output {absent[0]!r}",
                where=where,
                fix="export it with that output, or without naming it as one",
            )
        try:
            computed = artifact.run(probe.inputs)
        except UnsupportedModelError as error:
            return _failed(source, probe, count + 1, error)
        found = {name: difference(expected[name], computed[name]) for name in tallies}
        error_here = max(item.relative for item in found.values())
        wrong = [
            name
            for name, item in found.items()
            if tolerance is not None
            and item.relative > allowed_error(expected[name].dtype.name, tolerance)
        ]
        if wrong and _undetermined(source, probe, expected, computed, wrong):
            set_aside.append(probe.label)
            continue
        first = first or probe
        count += 1
        for name, tally in tallies.items():
            tally.add(found[name], probe.label)
            tally.dtype = expected[name].dtype.name
        if error_here > worst_error:
            worst, worst_error = probe, error_here
    if first is None or worst is None or count < len(set_aside):
        raise _nothing_compared(refusal, set_aside, where)
    return Comparison(
        outputs=tuple(tally.result(name) for name, tally in tallies.items()),
        probes=count,
        first=first,
        worst=worst,
        set_aside=tuple(set_aside),
    )


def allowed_error(dtype: str, tolerance: float) -> float:
    """The tolerance for values of a type: in half precision, some of the last bits are noise."""
    return max(tolerance, _LAST_BITS_ALLOWED * _COARSE.get(dtype, 0.0))


def relative_error(expected: NDArray[np.generic], computed: NDArray[np.generic]) -> float:
    """The largest difference over the largest magnitude; infinite where they cannot be the same."""
    return difference(expected, computed).relative


@dataclass(frozen=True, slots=True)
class Difference:
    """How two arrays differ.

    Attributes:
        absolute: The largest difference of two elements.
        relative: The same over the largest magnitude of what is expected, or infinity.
        signal: The energy of what is expected.
        noise: The energy of the difference.
        fault: In words, where the arrays cannot be the same.
    """

    absolute: float = 0.0
    relative: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    fault: str = ""


def difference(expected: NDArray[np.generic], computed: NDArray[np.generic]) -> Difference:
    """How far `computed` is from `expected`, as this module defines it."""
    fault = _kind_fault(expected, computed)
    if fault:
        return Difference(math.inf, math.inf, 0.0, math.inf, fault)
    if expected.dtype.kind not in _FLOATS:
        return _exact_difference(expected, computed)
    flat = expected.reshape(-1), computed.reshape(-1)
    parts = [
        _float_difference(*(_numbers(array[start : start + _BLOCK_ELEMENTS]) for array in flat))
        for start in range(0, expected.size, _BLOCK_ELEMENTS)
    ]
    fault = next((part.fault for part in parts if part.fault), "")
    if fault:
        return Difference(math.inf, math.inf, 0.0, math.inf, fault)
    largest = max((part.absolute for part in parts), default=0.0)
    magnitude = max((part.magnitude for part in parts), default=0.0)
    return Difference(
        largest,
        largest / max(magnitude, _LEAST_MAGNITUDE),
        sum(part.signal for part in parts),
        sum(part.noise for part in parts),
    )


@dataclass(slots=True)
class _Tally:
    max_abs: float = 0.0
    max_relative: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    worst_probe: str = ""
    fault: str = ""
    dtype: str = ""

    def add(self, found: Difference, label: str) -> None:
        if found.relative > self.max_relative or not self.worst_probe:
            self.worst_probe, self.fault = label, found.fault
        self.max_abs = max(self.max_abs, found.absolute)
        self.max_relative = max(self.max_relative, found.relative)
        self.signal += found.signal
        self.noise += found.noise

    def result(self, name: str) -> OutputParity:
        ratio = None
        if 0 < self.noise < math.inf and self.signal > 0:
            ratio = 10.0 * math.log10(self.signal / self.noise)
        return OutputParity(
            name=name,
            max_abs_error=self.max_abs,
            max_relative_error=self.max_relative,
            sqnr_db=ratio,
            worst_probe=self.worst_probe,
            fault=self.fault,
            dtype=self.dtype,
        )


def _kind_fault(expected: NDArray[np.generic], computed: NDArray[np.generic]) -> str:
    if expected.shape != computed.shape:
        return f"has shape {describe(computed.shape)}, the source's has {describe(expected.shape)},"
    if expected.dtype != computed.dtype:
        return f"is {computed.dtype.name}, the source's is {expected.dtype.name},"
    return ""


def _exact_difference(expected: NDArray[np.generic], computed: NDArray[np.generic]) -> Difference:
    differ = expected != computed
    count = int(differ.sum())
    if not count:
        return Difference()
    if expected.dtype.kind in "biu":
        # As float64: the difference of two int64 may have no place in an int64.
        apart = np.abs(expected[differ].astype(np.float64) - computed[differ].astype(np.float64))
        largest = max(float(apart.max()), 1.0)
    else:
        largest = math.inf
    fault = f"differs in {count} of {differ.size} elements, which must be equal,"
    return Difference(largest, math.inf, 0.0, math.inf, fault)


def _numbers(array: NDArray[np.generic]) -> NDArray[np.float64]:
    """Elements as numbers; complex ones as two numbers."""
    if array.dtype.kind == "c":
        return np.ascontiguousarray(array, dtype=np.complex128).view(np.float64)
    return array.astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A part of a comparison; see `Difference`. The magnitude is that of what is expected."""

    absolute: float = 0.0
    magnitude: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    fault: str = ""


def _float_difference(reference: NDArray[np.float64], values: NDArray[np.float64]) -> _Block:
    finite = np.isfinite(reference)
    if not (finite.all() and np.isfinite(values).all()):
        fault = _special_fault(reference, values, finite)
        if fault:
            return _Block(fault=fault)
        reference, values = reference[finite], values[finite]
        if not reference.size:
            return _Block()
    apart = values - reference
    return _Block(
        absolute=float(np.abs(apart).max()),
        magnitude=float(np.abs(reference).max()),
        # Not a dot product, for which BLAS would wake threads of its own.
        signal=float(np.square(reference).sum()),
        noise=float(np.square(apart).sum()),
    )


def _special_fault(
    reference: NDArray[np.float64], values: NDArray[np.float64], finite: NDArray[np.bool_]
) -> str:
    """Whether NaN and infinity stand in other places."""
    missing = np.isnan(reference)
    if (np.isnan(values) & ~missing).any():
        return "has NaN where the source has numbers,"
    if (missing & ~np.isnan(values)).any():
        return "has numbers where the source has NaN,"
    infinite = ~missing & (~finite | np.isinf(values))
    if (infinite & (values != reference)).any():
        return "has an infinity where the source has a number, or the other way round,"
    return ""


def _undetermined(
    source: Session,
    probe: Probe,
    expected: Mapping[str, NDArray[np.generic]],
    computed: Mapping[str, NDArray[np.generic]],
    wrong: Sequence[str],
) -> bool:
    """Whether the source itself moves as far, when its inputs change in their last bits."""
    if any(_kind_fault(expected[name], computed[name]) for name in wrong):
        return False
    moved = dict.fromkeys(wrong, 0.0)
    changed = {name: np.zeros(expected[name].shape, dtype=np.bool_) for name in wrong}
    rng = np.random.default_rng(_NUDGE_SEED)
    for _ in range(_NUDGES):
        inputs = _nudge(probe.inputs, rng)
        if inputs is None:
            return False
        try:
            values = source.run(inputs)
        except UnsupportedModelError:
            continue
        for name in wrong:
            if values[name].shape != expected[name].shape:
                return True
            moved[name] = max(moved[name], relative_error(expected[name], values[name]))
            changed[name] |= values[name] != expected[name]
    return all(
        bool(changed[name][expected[name] != computed[name]].all())
        if expected[name].dtype.kind not in _FLOATS
        else relative_error(expected[name], computed[name]) <= _ROUNDING_TO_NUDGE * moved[name]
        for name in wrong
    )


def _nudge(inputs: Arrays, rng: np.random.Generator) -> Arrays | None:
    """The inputs with other last bits; None where they have no floats to change."""
    nudged = dict(inputs)
    for name, array in inputs.items():
        if array.dtype.kind == "f":
            factors = 1.0 + _LAST_BITS * rng.choice([-1.0, 1.0], array.shape)
            nudged[name] = (array.astype(np.float64) * factors).astype(array.dtype)
    same = all(np.array_equal(nudged[name], array) for name, array in inputs.items())
    return None if same else nudged


def _failed(source: Session, probe: Probe, count: int, error: UnsupportedModelError) -> Comparison:
    return Comparison(
        outputs=tuple(
            OutputParity(
                name=spec.name,
                max_abs_error=math.inf,
                max_relative_error=math.inf,
                sqnr_db=None,
                worst_probe=probe.label,
                fault="could not be computed",
                dtype=spec.dtype,
            )
            for spec in source.outputs
        ),
        probes=count,
        first=probe,
        worst=probe,
        failure=error.what,
    )


def _nothing_compared(
    refusal: UnsupportedModelError | None, set_aside: list[str], where: str | None
) -> UnsupportedModelError:
    if set_aside:
        return UnsupportedModelError(
            "what the model computes depends on the last bits of its inputs, on "
            f"{len(set_aside)} probes ({', '.join(set_aside[:3])}, …): two engines cannot agree",
            where=where,
            fix="give --calibration with inputs like those in use",
        )
    return UnsupportedModelError(
        f"the model could not be tried: {refusal.what if refusal else 'there was no input'}",
        where=where or (refusal.where if refusal else None),
        fix="give --calibration with inputs that the model accepts",
    )
