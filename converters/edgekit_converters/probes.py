"""Inputs that find faults: random, plain, extreme, and the user's own samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.samples import batch_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.input_ranges import InputRange
    from edgekit_converters.samples import Samples
    from edgekit_runtime.tensors import TensorSpec

Arrays = dict[str, "NDArray[np.generic]"]

_SEED: Final = 20240229
_WIDE: Final = 10.0
_EXTREME: Final = 1e3
_HALF_BYTES: Final = 2
_DENORMAL: Final = 1e-40
_FREE_SIZE: Final = 16
# Another size than before for axes that are free as well as the batch.
_OTHER_FREE_SIZE: Final = 24
_OTHER_BATCH: Final = 3
# What flows through a model is many times as large.
_BATCH_BYTES: Final = 4 << 20
_USER_SAMPLES: Final = 64
# What whole numbers are where nothing is known of their use: a mask, or an image's bytes.
_BYTES: Final = frozenset({"uint8", "int8"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One set of inputs.

    Attributes:
        label: What it is, for a person: "zeros, batch 1".
        inputs: An array for each input.
        edge: Whether it is an edge case, on which the source itself may overflow or be undefined.
    """

    label: str
    inputs: Arrays
    edge: bool = False


def probes_for(
    specs: Sequence[TensorSpec],
    samples: Samples | None,
    ranges: Mapping[str, InputRange] | None = None,
) -> Iterator[Probe]:
    """Probes of every kind: random ones, zeros, ones, negative, denormal, extreme, the user's.

    Whole numbers stay within their ranges: the kinds that are one number everywhere take the
    lowest or the highest of them, the others draw from all.

    Args:
        specs: What the model takes. A free first axis is tried with one and with three samples,
            other free axes with sixteen elements and with twenty-four.
        samples: The user's data; its shapes are used where the model leaves sizes free.
        ranges: Of the inputs that are used as indices and the like; see `input_ranges`.
    """
    maker = _Maker(specs, samples, ranges or {})
    for label, fill in _KINDS.items():
        yield maker.probe(label, fill, batch=1)
    free = any(None in spec.shape for spec in specs)
    for label in ("random", "extremes") if free else ("random",):
        # Other numbers than before, since the generator went on.
        yield maker.probe(label, _KINDS[label], batch=_OTHER_BATCH, again=True)
    if samples is not None:
        yield from user_probes(specs, samples)


def user_probes(specs: Sequence[TensorSpec], samples: Samples) -> Iterator[Probe]:
    """The first of the user's own samples, as one or more probes."""
    size = batch_size(specs, preferred=samples.fitting(_BATCH_BYTES, _USER_SAMPLES))
    for number, (inputs, _) in enumerate(samples.batches(size)):
        if number * size >= _USER_SAMPLES:
            break
        last = min((number + 1) * size, samples.count)
        yield Probe(label=f"your samples {number * size + 1} to {last}", inputs=inputs)


@dataclass(frozen=True, slots=True)
class _Fill:
    """How arrays are filled: floats by a function, whole numbers from a part of their range.

    `edge` is as in `Probe`. A half-precision input is given the root of the scale: its squares
    would overflow.
    """

    floats: Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]
    whole: str = "any"
    edge: bool = True
    scale: float = 1.0


def _constant(
    value: float,
) -> Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]:
    return lambda _, shape: np.full(shape, value)


_KINDS: Final[Mapping[str, _Fill]] = {
    "random": _Fill(lambda rng, shape: rng.standard_normal(shape), edge=False),
    "random, wide": _Fill(lambda rng, shape: _WIDE * rng.standard_normal(shape)),
    "random, 0 to 1": _Fill(lambda rng, shape: rng.random(shape), edge=False),
    "zeros": _Fill(_constant(0.0), "lowest"),
    "ones": _Fill(_constant(1.0), "highest"),
    "negative": _Fill(lambda rng, shape: -np.abs(rng.standard_normal(shape))),
    "denormals": _Fill(_constant(_DENORMAL)),
    "extremes": _Fill(lambda rng, shape: rng.choice([-1.0, 1.0], shape), scale=_EXTREME),
}


class _Maker:
    """Makes probes of the shapes that a model takes."""

    def __init__(
        self,
        specs: Sequence[TensorSpec],
        samples: Samples | None,
        ranges: Mapping[str, InputRange],
    ) -> None:
        self._specs = specs
        self._ranges = ranges
        self._inner = (
            {name: array.shape[1:] for name, array in samples.arrays.items()} if samples else {}
        )
        self._rng = np.random.default_rng(_SEED)

    def probe(self, label: str, fill: _Fill, *, batch: int, again: bool = False) -> Probe:
        free = _OTHER_FREE_SIZE if again else _FREE_SIZE
        inputs = {
            spec.name: self._array(spec, self._shape(spec, batch, free), fill)
            for spec in self._specs
        }
        batched = any(spec.shape and spec.shape[0] is None for spec in self._specs)
        tail = f", batch {batch}" if batched else ", again" if again else ""
        return Probe(label=label + tail, inputs=inputs, edge=fill.edge)

    def _array(self, spec: TensorSpec, shape: tuple[int, ...], fill: _Fill) -> NDArray[np.generic]:
        dtype = np.dtype(spec.dtype)
        known = self._ranges.get(spec.name)
        if dtype.kind in "fc" and known is None:
            scale = fill.scale if dtype.itemsize > _HALF_BYTES else fill.scale**0.5
            # An array for a scalar as well, which arithmetic makes a plain number.
            return np.asarray(fill.floats(self._rng, shape) * scale, dtype=dtype)
        if dtype.kind == "b":
            low, high = 0, 1
        elif known is not None:
            low, high = known.low, known.high
        elif dtype.name in _BYTES:
            low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        else:
            low, high = 0, 1
        if fill.whole != "any":
            return np.full(shape, low if fill.whole == "lowest" else high).astype(dtype)
        return self._rng.integers(low, high, shape, endpoint=True).astype(dtype)

    def _shape(self, spec: TensorSpec, batch: int, free: int) -> tuple[int, ...]:
        sizes = dict(enumerate(self._inner.get(spec.name, ()), start=1))
        return tuple(
            (batch if axis == 0 else sizes.get(axis, free)) if size is None else size
            for axis, size in enumerate(spec.shape)
        )
