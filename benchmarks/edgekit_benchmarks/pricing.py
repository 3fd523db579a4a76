"""Prices for every measured combination, and what they predict for a family of models left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_benchmarks.features import FEATURES, Counting
from edgekit_benchmarks.pooled import Pool, Spread, fit_pool, sample_of
from edgekit_benchmarks.published import Combination, Measured, PublishedModel
from edgekit_benchmarks.starting_prices import starting_prices

if TYPE_CHECKING:
    from numpy.typing import NDArray

# How strongly boards share. Chosen once for all boards of an engine, by the mean error on
# families left out; docs/devices.md has the record.
_POOL: Final = 0.8
_BLOCK: Final = 0.7
_OTHER_KERNELS: Final = 0.4
_FEW_THREADS: Final = 4
_SOME_THREADS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What the measurements of one engine do not say by themselves.

    Attributes:
        counting: How it multiplies 3x3 windows.
        single: The deviation of a board's price from its pool's; see `pooled.Spread`.
        near: The deviation of a narrower dtype's price from float32's, whose kernels are the same
            but for their width; int8 kernels are others.
        threads: The deviation of a price with several threads from that with one.
        blocked: Whether its kernels work in blocks that fit a cache.
        per_mac: Whether its boards are priced by multiply-accumulates alone.
        serves: Other engines that share its kernels.
        serves_quicker: By what factor those may be quicker, at most.
        note: What else a reader must know.
    """

    counting: Counting
    single: float = 0.4
    near: float = 0.1
    threads: float = 0.3
    blocked: bool = False
    per_mac: bool = False
    serves: tuple[str, ...] = ()
    serves_quicker: float = 1.0
    note: str = ""


# MLPerf's logs state neither threads nor whether XNNPACK was on; all cores are the harness's
# default, and MobileNetV2 and V3 run 30 to 50 % slower there than with XNNPACK, today's default.
ENGINES: Final = {
    "ncnn": EngineFacts(
        counting=Counting.WINOGRAD,
        note="measured with benchncnn, an engine that edgekit does not run",
    ),
    "tflite": EngineFacts(
        counting=Counting.DIRECT,
        single=0.7,
        near=0.4,
        threads=0.4,
        blocked=True,
        serves=("litert", "tflite-runtime"),
        serves_quicker=1.5,
        note="the sources state neither the threads (all cores by default) nor XNNPACK; a newer "
        "LiteRT may be up to 1.5 times as quick",
    ),
    "tinyml": EngineFacts(
        counting=Counting.DIRECT,
        per_mac=True,
        serves=("litert", "tflite-runtime", "onnxruntime"),
        note="MLPerf Tiny, four models, by engines that compile a model for the microcontroller "
        "(X-CUBE-AI, Plumerai, HALE, ONNC, microTVM); edgekit runs none of them",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A measurement against what was predicted for it without its family.

    Attributes:
        model: What ran.
        ratio: Measured over predicted.
    """

    model: PublishedModel
    ratio: float


@dataclass(frozen=True, slots=True)
class _PoolKey:
    runtime: str
    threading: int
    dtype: str


def price_combinations(
    rows: Iterable[Measured],
) -> dict[Combination, NDArray[np.float64]]:
    """Milliseconds for a unit of each feature, for every combination that has measurements."""
    by_pool: defaultdict[_PoolKey, defaultdict[Combination, list[Measured]]]
    by_pool = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_pool[_pool_of(row.combination)][row.combination].append(row)
    pools: dict[_PoolKey, Pool] = {}
    prices: dict[Combination, NDArray[np.float64]] = {}
    # Parents first: float32 before narrower types, one thread before several.
    for key in sorted(by_pool, key=lambda k: (k.runtime, k.dtype != "float32", k.threading)):
        facts = ENGINES[key.runtime]
        if facts.per_mac:
            prices |= {c: _price_of_macs(found) for c, found in by_pool[key].items()}
            continue
        parent = _parent_of(key, pools)
        start = _start(key) if parent is None else _start_from(key, parent, pools)
        pools[key], found = fit_pool(
            {
                combination: sample_of(*_table(found))
                for combination, found in sorted(by_pool[key].items(), key=lambda e: e[0].order)
            },
            start,
            Spread(pool=_POOL if parent is None else _near(key), single=facts.single, block=_BLOCK),
        )
        prices |= found
    return prices


def predict_left_out(rows: Sequence[Measured]) -> dict[Combination, list[LeftOut]]:
    """Predict every measurement without any of its family, on any board.

    Where a combination has a single family there is nothing left to predict from: there, only
    the model itself is left out of that combination.
    """
    found: defaultdict[Combination, list[LeftOut]] = defaultdict(list)
    families = _families(rows)
    for family in sorted({row.model.family for row in rows}):
        concerned = {row.combination.runtime for row in rows if row.model.family == family}
        kept = [
            row
            for row in rows
            if row.combination.runtime in concerned
            and (row.model.family != family or len(families[row.combination]) == 1)
        ]
        _compare(
            found,
            price_combinations(kept),
            [
                row
                for row in rows
                if row.model.family == family and len(families[row.combination]) > 1
            ],
        )
    single = [row for row in rows if len(families[row.combination]) == 1]
    for name in sorted({row.model.name for row in single}):
        kept = [row for row in rows if row not in single or row.model.name != name]
        _compare(found, price_combinations(kept), [r for r in single if r.model.name == name])
    return dict(found)


def predict_ms(model: PublishedModel, prices: NDArray[np.float64], counting: Counting) -> float:
    """The latency of a published model, in milliseconds."""
    return float(np.dot(model.features[counting], prices))


def counting_of(combination: Combination) -> Counting:
    """How models are counted for that engine."""
    return ENGINES[combination.runtime].counting


def _compare(
    found: defaultdict[Combination, list[LeftOut]],
    prices: Mapping[Combination, NDArray[np.float64]],
    rows: Iterable[Measured],
) -> None:
    for combination, models in _by_model(rows).items():
        for model, latency_ms in models:
            predicted = predict_ms(model, prices[combination], counting_of(combination))
            found[combination].append(LeftOut(model=model, ratio=latency_ms / predicted))


def _by_model(
    rows: Iterable[Measured],
) -> dict[Combination, list[tuple[PublishedModel, float]]]:
    """One latency a model, the geometric mean of several submissions; all where engines differ."""
    latencies: defaultdict[Combination, defaultdict[tuple[str, int], list[Measured]]]
    latencies = defaultdict(lambda: defaultdict(list))
    for position, row in enumerate(rows):
        apart = position if ENGINES[row.combination.runtime].per_mac else 0
        latencies[row.combination][row.model.name, apart].append(row)
    return {
        combination: [
            (same[0].model, float(np.exp(np.mean([np.log(row.latency_ms) for row in same]))))
            for _, same in sorted(models.items())
        ]
        for combination, models in latencies.items()
    }


def _table(rows: Sequence[Measured]) -> tuple[list[tuple[float, ...]], list[float]]:
    counting = counting_of(rows[0].combination)
    models = _by_model(rows)[rows[0].combination]
    return [model.features[counting] for model, _ in models], [latency for _, latency in models]


def _families(rows: Iterable[Measured]) -> dict[Combination, set[str]]:
    found: defaultdict[Combination, set[str]] = defaultdict(set)
    for row in rows:
        found[row.combination].add(row.model.family)
    return dict(found)


def _price_of_macs(rows: Sequence[Measured]) -> NDArray[np.float64]:
    """One price for every product, the median over models and engines; nothing else counts."""
    price = np.exp(np.median([np.log(row.latency_ms / row.model.macs) for row in rows]))
    priced = ("product_macs", "depthwise_macs")
    return np.array([price if name in priced else 0.0 for name in FEATURES])


def _pool_of(combination: Combination) -> _PoolKey:
    threads = combination.threads
    threading = 1 if threads == 1 else 2 if threads < _FEW_THREADS else _FEW_THREADS
    if threads >= _SOME_THREADS:
        threading = _SOME_THREADS
    # TFLite was measured with all cores, however many those were.
    if combination.runtime == "tflite" and threads > 1:
        threading = _FEW_THREADS
    return _PoolKey(combination.runtime, threading, combination.dtype)


def _parent_of(key: _PoolKey, fitted: Mapping[_PoolKey, Pool]) -> _PoolKey | None:
    """The fitted pool that is most like this one: float32, as many threads."""
    if key.dtype == "float32" and key.threading == 1:
        return None
    candidates = [
        _PoolKey(key.runtime, threading, "float32")
        for threading in dict.fromkeys((key.threading, _FEW_THREADS, 1))
    ]
    return next((found for found in candidates if found in fitted and found != key), None)


def _start_from(
    key: _PoolKey, parent: _PoolKey, pools: Mapping[_PoolKey, Pool]
) -> NDArray[np.float64]:
    """What the dtype made of the prices with one thread, more threads make of it once more.

    Without such a pool, what is known of the two dtypes' kernels in general.
    """
    one = replace(key, threading=1)
    wide = replace(parent, threading=1)
    found = pools[parent].log_prices
    if key not in {one, parent} and one in pools and wide in pools and wide != parent:
        return found + pools[one].log_prices - pools[wide].log_prices
    return found + _start(key) - _start(parent)


def _near(key: _PoolKey) -> float:
    facts = ENGINES[key.runtime]
    return max(
        facts.near if key.threading == 1 else facts.threads,
        _OTHER_KERNELS if key.dtype == "int8" else 0.0,
    )


def _start(key: _PoolKey) -> NDArray[np.float64]:
    facts = ENGINES[key.runtime]
    return starting_prices(dtype=key.dtype, threaded=key.threading > 1, blocked=facts.blocked)
