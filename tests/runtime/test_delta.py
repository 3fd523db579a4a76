"""Deltas: short where they are meant to be, exact always, and harmless when they are wrong."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit_runtime.bundle.delta import MAX_DELTA_BYTES, apply_delta, encode_delta
from edgekit_runtime.errors import VerificationError

KINDS = {"steps": 0, "sparse": 1, "bytes": 2, "halves": 3, "words": 4}


@st.composite
def stretches(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two stretches of the same length, equal in most places."""
    old = bytearray(draw(st.binary(max_size=2000)))
    new = bytearray(old)
    for place, value in draw(
        st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=40)
    ):
        if place < len(new):
            new[place] = value
    return bytes(new), bytes(old)


@settings(max_examples=200)
@given(stretches(), st.sampled_from([(), (0,), (2,), (3,), (4,)]))
def test_what_was_encoded_comes_out(pair: tuple[bytes, bytes], kinds: tuple[int, ...]) -> None:
    new, old = pair
    new, old = new[: len(new) & ~3], old[: len(old) & ~3]
    assert apply_delta(encode_delta(new, old, kinds=kinds), old, where="test") == new


@given(
    st.binary(min_size=8, max_size=400).map(lambda data: data[: len(data) & ~3]),
    st.sampled_from([2, 3, 4]),
    st.integers(0, 2**32),
)
def test_any_words_become_any_other_words(old: bytes, kind: int, seed: int) -> None:
    new = np.random.default_rng(seed).bytes(len(old))
    assert apply_delta(encode_delta(new, old, kinds=(kind,)), old, where="test") == new


def test_one_int8_value_in_twenty_costs_little_more_than_its_entropy() -> None:
    random = np.random.default_rng(0)
    old = random.integers(-100, 100, 1 << 18, dtype=np.int8)
    moved = random.random(old.size) < 0.05
    new = np.where(moved, old + random.choice(np.array([-1, 1], np.int8), old.size), old)
    delta = encode_delta(new.astype(np.int8).tobytes(), old.tobytes())
    assert delta[0] == KINDS["steps"]
    share = moved.mean()
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share) + share
    assert len(delta) * 8 < 1.02 * entropy * old.size


def test_float_noise_takes_half_of_the_weights() -> None:
    random = np.random.default_rng(0)
    old = random.normal(0, 0.05, 1 << 14).astype(np.float32)
    new = (old * (1 + random.normal(0, 1e-3, old.size))).astype(np.float32)
    delta = encode_delta(new.tobytes(), old.tobytes())
    assert delta[0] == KINDS["words"]
    assert len(delta) < 0.55 * new.nbytes


def test_half_floats_are_told_by_halves() -> None:
    random = np.random.default_rng(0)
    old = random.normal(0, 0.05, 1 << 14).astype(np.float16)
    new = (old * (1 + random.normal(0, 5e-2, old.size))).astype(np.float16)
    assert encode_delta(new.tobytes(), old.tobytes())[0] == KINDS["halves"]


def test_long_stretches_and_unequal_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="no delta"):
        encode_delta(bytes(5), bytes(6))
    with pytest.raises(ValueError, match="no delta"):
        encode_delta(bytes(MAX_DELTA_BYTES + 1), bytes(MAX_DELTA_BYTES + 1))
    with pytest.raises(VerificationError, match="are the most"):
        apply_delta(b"\x02", bytes(MAX_DELTA_BYTES + 1), where="test")


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        (b"", "unknown kind"),
        (b"\x09" + zlib.compress(bytes(8)), "unknown kind"),
        (b"\x00\x01", "cut off"),
        (b"\x00" + bytes([255] * 8), "more than its base"),
        (b"\x02" + zlib.compress(bytes(10**6)), "another length"),
        (b"\x02" + zlib.compress(bytes(7)), "another length"),
        (b"\x03" + zlib.compress(bytes(8))[:-2], "does not unpack"),
        (b"\x04" + zlib.compress(bytes(8)) + b"more", "does not unpack"),
    ],
)
def test_a_wrong_delta_is_refused(delta: bytes, words: str) -> None:
    with pytest.raises(VerificationError, match=words):
        apply_delta(delta, bytes(8), where="test")


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 4), st.booleans(), st.data())
def test_no_delta_crashes_or_grows(body: bytes, kind: int, packed: bool, data: st.DataObject):
    base = bytes(range(64))
    if kind <= 1:
        count = data.draw(st.integers(0, 70))
        gaps = zlib.compress(body)
        rest = data.draw(st.binary(max_size=12))
        rest = zlib.compress(rest) if kind == 1 else rest
        head = count.to_bytes(4, "little") + len(gaps).to_bytes(4, "little")
        delta = bytes([kind]) + (head + gaps + rest if packed else body)
    else:
        delta = bytes([kind]) + (zlib.compress(body) if packed else body)
    try:
        result = apply_delta(delta, base, where="fuzz")
    except VerificationError:
        return
    assert len(result) == len(base)
