"""Compare two models that should compute the same: how far each output is off, on which input.

What counts as the same is said in `difference`. Only in edge cases may anything stand where the
source itself overflows or is undefined; and there denormals may count as zeros, for which kernels
take them.

Two engines add in different orders, so the last bits of a float are nobody's fault. Where a model
turns those into something large (the larger of two nearly equal scores, the deviation of what
should be constant), the source contradicts itself as soon as its inputs change in their last bits.
A probe on which it does, and by about as much, proves nothing: it is set aside and reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.difference import (
    FLOAT_KINDS,
    Difference,
    allowed_error,
    difference,
    kind_fault,
    relative_error,
)
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

# Two units in the last place of a float32.
_LAST_BITS: Final = 2.0**-22
_NUDGES: Final = 4
# Changed inputs show the sensitivity of the whole network, other engines round in every layer.
_ROUNDING_TO_NUDGE: Final = 8.0
_NUDGE_SEED: Final = 7


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
            expected = _run_source(source, probe, where)
        except UnsupportedModelError as error:
            refusal = error
            continue
        try:
            computed = artifact.run(probe.inputs)
        except UnsupportedModelError as error:
            return _failed(source, probe, count + 1, error)
        found = _differences(expected, computed, probe)
        wrong = _over(found, expected, tolerance)
        if wrong:
            flushed = _without_denormals(probe)
            if flushed is not None:
                # Kernels may take denormals for zeros: then the source is asked about zeros.
                there = _differences(source.run(flushed.inputs), computed, probe)
                if not _over(there, expected, tolerance):
                    found, wrong = there, []
        if wrong and (
            (probe.edge and _overflows(expected))
            or _undetermined(source, probe, expected, computed, wrong)
        ):
            set_aside.append(probe.label)
            continue
        first = first or probe
        count += 1
        for name, tally in tallies.items():
            tally.add(found[name], probe.label)
            tally.dtype = expected[name].dtype.name
        error_here = max(item.relative for item in found.values())
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


def _run_source(source: Session, probe: Probe, where: str | None) -> Arrays:
    """What is right for a probe.

    Raises:
        UnsupportedModelError: If the source refuses it, or computes what it does not declare: the
            values of a shape that an input holds may contradict the model's own outputs.
    """
    expected = source.run(probe.inputs)
    for spec in source.outputs:
        array = expected[spec.name]
        if not isinstance(array, np.ndarray):
            raise UnsupportedModelError(
                f"the model computes no array for its output {spec.name!r}", where=where
            )
        fits = array.ndim == len(spec.shape) and all(
            want in (None, size) for want, size in zip(spec.shape, array.shape, strict=True)
        )
        if spec.shape and not fits:
            raise UnsupportedModelError(
                f"its output {spec.name!r} has shape {describe(array.shape)} and is declared as "
                f"{describe(spec.shape)}",
                where=where,
            )
    return expected


def _differences(expected: Arrays, computed: Arrays, probe: Probe) -> dict[str, Difference]:
    return {
        name: difference(array, computed[name], lenient=probe.edge)
        for name, array in expected.items()
    }


def _over(found: Mapping[str, Difference], expected: Arrays, tolerance: float | None) -> list[str]:
    """The outputs whose errors are not allowed; none without a tolerance."""
    if tolerance is None:
        return []
    return [
        name
        for name, item in found.items()
        if item.relative > allowed_error(expected[name].dtype.name, tolerance)
    ]


def _overflows(expected: Arrays) -> bool:
    """Whether the source is undefined in places: what is beside them may have overflown, too."""
    return any(
        array.dtype.kind in FLOAT_KINDS and not np.isfinite(array).all()
        for array in expected.values()
    )


def _without_denormals(probe: Probe) -> Probe | None:
    """The probe with zeros where it has denormals, None where it has none."""
    inputs = dict(probe.inputs)
    for name, array in probe.inputs.items():
        if array.dtype.kind == "f":
            tiny = float(np.finfo(array.dtype.name).tiny)
            small = (array != 0) & (np.abs(array.astype(np.float64)) < tiny)
            if small.any():
                inputs[name] = np.where(small, np.zeros(1, array.dtype), array)
    changed = any(inputs[name] is not probe.inputs[name] for name in inputs)
    return replace(probe, inputs=inputs) if changed else None


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


def _undetermined(
    source: Session,
    probe: Probe,
    expected: Mapping[str, NDArray[np.generic]],
    computed: Mapping[str, NDArray[np.generic]],
    wrong: Sequence[str],
) -> bool:
    """Whether the source itself moves as far, when its inputs change in their last bits."""
    if any(kind_fault(expected[name], computed[name]) for name in wrong):
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
        if expected[name].dtype.kind not in FLOAT_KINDS
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
