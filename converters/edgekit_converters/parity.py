"""Compare two models that should compute the same: inputs to try, errors, signal to noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.samples import batch_size
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.samples import Samples
    from edgekit_runtime.session import Session
    from edgekit_runtime.tensors import TensorSpec

Arrays = dict[str, "NDArray[np.generic]"]

_SEED: Final = 20240229
# Outputs below this are noise: an error is judged against at least this magnitude.
_LEAST_MAGNITUDE: Final = 1e-6
_EXTREME: Final = 1e3
_DENORMAL: Final = 1e-40
_FREE_SIZE: Final = 16
_BATCHES: Final = (1, 3)
_USER_SAMPLES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputParity:
    """How far one output of an artifact is from the source's.

    Attributes:
        name: Of the output.
        max_abs_error: The largest difference of two elements.
        max_relative_error: The largest difference within one probe, over the largest magnitude
            of the source's output there.
        sqnr_db: Signal to quantization noise over all probes, in decibels; None where there is
            no noise.
    """

    name: str
    max_abs_error: float
    max_relative_error: float
    sqnr_db: float | None

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
        worst: The input with the largest relative error.
    """

    outputs: tuple[OutputParity, ...]
    probes: int
    worst: Arrays

    @property
    def max_relative_error(self) -> float:
        """The largest of all outputs."""
        return max(output.max_relative_error for output in self.outputs)


def probes_for(specs: Sequence[TensorSpec], samples: Samples | None) -> Iterator[Arrays]:
    """Inputs that find faults: random, zeros, extremes, denormals, and the user's own samples.

    Args:
        specs: What the model takes; a free batch is tried with one and with three samples.
        samples: The user's data; its shapes are used where the model leaves sizes free.
    """
    rng = np.random.default_rng(_SEED)
    inner = {name: array.shape[1:] for name, array in samples.arrays.items()} if samples else {}
    free = any(spec.shape and spec.shape[0] is None for spec in specs)
    for batch in _BATCHES if free else _BATCHES[:1]:
        shapes = {spec.name: _shape(spec, batch, inner.get(spec.name)) for spec in specs}
        for scale in (1.0, 10.0):
            yield {s.name: _random(rng, s.dtype, shapes[s.name], scale) for s in specs}
        for value in (0.0, _DENORMAL, _EXTREME, -_EXTREME):
            yield {s.name: _constant(s.dtype, shapes[s.name], value) for s in specs}
        yield {s.name: _random(rng, s.dtype, shapes[s.name], _EXTREME) for s in specs}
    if samples is not None:
        yield from user_probes(specs, samples)


def user_probes(specs: Sequence[TensorSpec], samples: Samples) -> Iterator[Arrays]:
    """The first of the user's own samples, as one or more inputs."""
    size = batch_size(specs, preferred=_USER_SAMPLES)
    for number, (inputs, _) in enumerate(samples.batches(size)):
        if number * size >= _USER_SAMPLES:
            break
        yield inputs


def compare(source: Session, artifact: Session, probes: Iterable[Arrays]) -> Comparison:
    """Run both models on every probe; probes that the source refuses are left out.

    Raises:
        UnsupportedModelError: If the artifact fails where the source does not, or the source
            refuses every probe.
    """
    tallies = {spec.name: _Tally() for spec in source.outputs}
    count, worst, worst_error = 0, None, -1.0
    for inputs in probes:
        try:
            expected = source.run(inputs)
        except UnsupportedModelError as error:
            refusal = error
            continue
        computed = artifact.run(inputs)
        count += 1
        error_here = max(
            tally.add(expected[name], computed[name]) for name, tally in tallies.items()
        )
        if error_here > worst_error:
            worst, worst_error = inputs, error_here
    if worst is None:
        raise UnsupportedModelError(
            f"the model could not be tried: {refusal.what}",
            where=refusal.where,
            fix="give --calibration with inputs that the model accepts",
        )
    return Comparison(
        outputs=tuple(tally.result(name) for name, tally in tallies.items()),
        probes=count,
        worst=worst,
    )


def relative_error(expected: NDArray[np.generic], computed: NDArray[np.generic]) -> float:
    """The largest difference over the largest magnitude, where what is expected is finite."""
    return _differences(expected, computed)[1]


@dataclass(slots=True)
class _Tally:
    max_abs: float = 0.0
    max_relative: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, expected: NDArray[np.generic], computed: NDArray[np.generic]) -> float:
        absolute, relative, signal, noise = _differences(expected, computed)
        self.max_abs = max(self.max_abs, absolute)
        self.max_relative = max(self.max_relative, relative)
        self.signal += signal
        self.noise += noise
        return relative

    def result(self, name: str) -> OutputParity:
        ratio = None
        if self.noise > 0 and self.signal > 0:
            ratio = 10.0 * math.log10(self.signal / self.noise)
        return OutputParity(
            name=name,
            max_abs_error=self.max_abs,
            max_relative_error=self.max_relative,
            sqnr_db=ratio,
        )


def _differences(
    expected: NDArray[np.generic], computed: NDArray[np.generic]
) -> tuple[float, float, float, float]:
    """Largest absolute and relative difference, and the energies of signal and noise."""
    if expected.shape != computed.shape or expected.dtype != computed.dtype:
        return math.inf, math.inf, 0.0, math.inf
    reference = expected.astype(np.float64).reshape(-1)
    # Where the source itself overflows or is undefined there is nothing to agree with.
    defined = np.isfinite(reference)
    reference, values = reference[defined], computed.astype(np.float64).reshape(-1)[defined]
    if not reference.size:
        return 0.0, 0.0, 0.0, 0.0
    if not np.isfinite(values).all():
        return math.inf, math.inf, 0.0, math.inf
    difference = values - reference
    largest = float(np.abs(difference).max())
    magnitude = max(float(np.abs(reference).max()), _LEAST_MAGNITUDE)
    return (
        largest,
        largest / magnitude,
        float(np.square(reference).sum()),
        float(np.square(difference).sum()),
    )


def _shape(spec: TensorSpec, batch: int, inner: tuple[int, ...] | None) -> tuple[int, ...]:
    sizes: Mapping[int, int] = dict(enumerate(inner or (), start=1))
    return tuple(
        (batch if axis == 0 else sizes.get(axis, _FREE_SIZE)) if size is None else size
        for axis, size in enumerate(spec.shape)
    )


def _random(
    rng: np.random.Generator, dtype: str, shape: tuple[int, ...], scale: float
) -> NDArray[np.generic]:
    if np.dtype(dtype).kind == "f":
        return (rng.standard_normal(shape) * scale).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def _constant(dtype: str, shape: tuple[int, ...], value: float) -> NDArray[np.generic]:
    return np.full(shape, value if np.dtype(dtype).kind == "f" else 0, dtype=dtype)
