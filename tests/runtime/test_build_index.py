"""Cutting at tensors, sharing with older versions, deltas: what travels, in exact bytes."""

from __future__ import annotations

import itertools
import random
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit_runtime.bundle.build import Base, build_index
from edgekit_runtime.bundle.cutting import MIN_REGION_BYTES, cut, find_regions
from edgekit_runtime.bundle.delta import apply_delta
from edgekit_runtime.bundle.index import BundleIndex, IndexedFile, assemble, parse_index
from edgekit_runtime.bundle.packing import Compression
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES
from tests.simulators.layered_models import (
    WRITERS,
    Weights,
    float_weights,
    int8_weights,
    onnx_file,
    retrain,
    step_one_in_twenty,
)

MANIFEST = ("manifest.json", b'{"some": "manifest"}' * 100)
Built = tuple[BundleIndex, dict[str, bytes]]


def build(model: bytes, version: str = "1.0.0", *, before: Built | None = None) -> Built:
    bases = []
    if before is not None:
        index, wire = before
        bases = [Base(index=index, read=lambda entry: content(entry, wire))]
    return build_index("model", version, [MANIFEST, ("model", model)], bases=bases)


@cache
def floats(kind: str) -> Built:
    """The float network's first version; made once for all tests."""
    return build(WRITERS[kind](float_weights()))


@cache
def integers(kind: str) -> Built:
    """The int8 network's first version."""
    return build(WRITERS[kind](int8_weights()))


def content(entry: IndexedFile, wire: dict[str, bytes]) -> bytes:
    return b"".join(assemble(entry, lambda chunk: wire[chunk.sha256]))


def travels(after: Built, before: Built) -> int:
    """Bytes on the wire for a device that holds the version before, the index among them."""
    index, held = after[0], before[1]
    total = len(index.to_json())
    for entry in index.files:
        told = {}
        for delta in entry.deltas:
            for step in delta.steps:
                total += step.wire_bytes
                told |= dict.fromkeys(range(step.first, step.first + step.count))
        total += sum(
            {
                chunk.sha256: chunk.wire_bytes
                for place, chunk in enumerate(entry.chunks)
                if place not in told and chunk.sha256 not in held
            }.values()
        )
    return total


def size(built: Built) -> int:
    """Bytes of the bundle's files."""
    return sum(entry.size_bytes for entry in built[0].files)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_large_tensor_is_cut_by_itself(kind: str) -> None:
    write = WRITERS[kind]
    weights = float_weights()
    data = write(weights)
    regions = {region.name: region for region in find_regions(data)}
    for name, array in weights.items():
        region = regions.get(f"tensor {name} 1")
        if array.nbytes < MIN_REGION_BYTES:
            assert region is None
        else:
            assert region is not None
            assert data[region.start : region.end] == array.tobytes()


@pytest.mark.parametrize("kind", WRITERS)
def test_regions_cover_a_file_and_pieces_cover_a_region(kind: str) -> None:
    write = WRITERS[kind]
    data = write(float_weights())
    place = 0
    for region in find_regions(data):
        assert region.start == place < region.end
        for start, end in cut(region):
            assert start == place
            assert 0 < end - start <= MAX_CHUNK_WIRE_BYTES
            place = end
    assert place == len(data)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WRITERS)), st.integers(0, 10**9), st.integers(1, 8))
def test_a_damaged_model_is_covered_all_the_same(kind: str, seed: int, flips: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - it only damages files
    data = bytearray(_SMALL[kind])
    for _ in range(flips):
        # Lengths and offsets stand where few bytes are weights: near the ends.
        place = rng.choice([rng.randrange(400), -1 - rng.randrange(400)])
        data[place] = rng.randrange(256)
    regions = find_regions(bytes(data[: rng.randrange(1, len(data) + 1)]))
    assert regions[0].start == 0
    assert all(a.end == b.start for a, b in itertools.pairwise(regions))


def _small() -> dict[str, bytes]:
    weights: Weights = {
        "a": np.arange(2000, dtype=np.float32),
        "b": np.ones(8, dtype=np.float32),
        "c": np.zeros(5000, dtype=np.int8),
    }
    return {kind: write(weights) for kind, write in WRITERS.items()}


_SMALL = _small()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_tensor_that_moved_in_the_file_travels_under_the_same_name(kind: str) -> None:
    write = WRITERS[kind]
    weights = float_weights()
    first = floats(kind)
    moved = {"inserted": np.arange(9001, dtype=np.float32)} | weights
    second = build(write(moved))
    new = second[1].keys() - first[1].keys()
    # What was inserted, and what stands between the tensors.
    assert sum(len(second[1][name]) for name in new) < 50_000


@pytest.mark.parametrize("kind", WRITERS)
def test_last_layer_changed(kind: str) -> None:
    write = WRITERS[kind]
    weights = float_weights()
    before = floats(kind)
    after = build(write(retrain(weights, "head", "head_bias")), "1.1.0", before=before)
    assert travels(after, before) <= 0.10 * size(after)
    # The target holds without deltas too where the last layer is small; with them it is halved.
    deltas = sum(s.wire_bytes for d in after[0].file("model").deltas for s in d.steps)
    assert 0 < deltas < 0.75 * weights["head"].nbytes


@pytest.mark.parametrize("kind", WRITERS)
def test_int8_with_one_value_in_twenty_changed_by_one(kind: str) -> None:
    write = WRITERS[kind]
    weights = int8_weights()
    before = integers(kind)
    after = build(write(step_one_in_twenty(weights)), "1.1.0", before=before)
    assert travels(after, before) <= 0.05 * size(after)


def test_noise_on_every_float_halves_what_travels() -> None:
    weights = float_weights(small=True)
    before = build(onnx_file(weights))
    noisy = retrain(weights, *weights, share=0.001)
    after = build(onnx_file(noisy), "1.1.0", before=before)
    assert travels(after, before) < 0.55 * size(after)


def test_other_weights_get_no_deltas() -> None:
    before = integers("onnx")
    after = build(onnx_file(int8_weights(seed=9)), "1.1.0", before=before)
    large = [s for d in after[0].file("model").deltas for s in d.steps if s.wire_bytes > 5000]
    assert large == []


@pytest.mark.parametrize("kind", WRITERS)
def test_every_delta_gives_what_its_chunks_give(kind: str) -> None:
    write = WRITERS[kind]
    old = write(int8_weights())
    before = integers(kind)
    new = write(step_one_in_twenty(int8_weights()))
    index, wire = build(new, "1.1.0", before=before)
    index = parse_index(index.to_json(), where="test")
    entry = index.file("model")
    offsets = entry.offsets()
    assert entry.deltas
    for delta in entry.deltas:
        assert delta.base_sha256 == before[0].file("model").sha256
        for step in delta.steps:
            assert step.wire_bytes <= MAX_CHUNK_WIRE_BYTES
            start, end = offsets[step.first], offsets[step.first + step.count]
            stretch = old[step.base_offset : step.base_offset + end - start]
            assert apply_delta(wire[step.sha256], stretch, where="test") == new[start:end]


def test_a_released_chunk_keeps_its_name_whatever_packs_it_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = bytes(100_000)
    before = build(model)
    monkeypatch.setattr(
        "edgekit_runtime.bundle.build.pack", lambda piece: (piece, Compression.NONE)
    )
    after = build(model + b"more", "1.1.0", before=before)
    assert before[0].file("model").chunks[0] == after[0].file("model").chunks[0]


def test_a_base_whose_chunks_are_lost_is_left_out() -> None:
    def lost(entry: IndexedFile) -> bytes:
        raise VerificationError("it is gone", where=entry.path)

    index, _ = integers("onnx")
    files = [MANIFEST, ("model", onnx_file(step_one_in_twenty(int8_weights())))]
    made, _ = build_index("model", "2.0.0", files, bases=[Base(index=index, read=lost)])
    assert made.file("model").deltas == ()


def test_a_renamed_model_is_told_by_the_nearest_of_its_kind() -> None:
    weights = int8_weights(small=True)
    index, wire = build_index(
        "model", "1.0.0", [MANIFEST, ("old.onnx", onnx_file(weights)), ("tiny.onnx", b"x" * 50)]
    )
    base = Base(index=index, read=lambda entry: content(entry, wire))
    files = [MANIFEST, ("new.onnx", onnx_file(step_one_in_twenty(weights)))]
    made, _ = build_index("model", "1.1.0", files, bases=[base])
    assert made.file("new.onnx").deltas[0].base_sha256 == index.file("old.onnx").sha256


def test_float_weights_are_packed_in_planes() -> None:
    index, wire = floats("onnx")
    assert sum(map(len, wire.values())) < 0.9 * size((index, wire))
    kinds = {chunk.compression for chunk in index.file("model").chunks}
    assert Compression.ZLIB_PLANES_4 in kinds
