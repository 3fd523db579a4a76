"""The index: chunks come from anywhere and are believed only when they prove themselves."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit_runtime.bundle.build import build_index
from edgekit_runtime.bundle.index import assemble, parse_index, unpack_chunk
from edgekit_runtime.bundle.packing import Compression
from edgekit_runtime.errors import InvalidBundleError, VerificationError
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES

FILES = [("manifest.json", b"{}" * 40), ("model", os.urandom(150_000)), ("zeros", bytes(200_000))]


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(["a", "b/c", "d"]), st.binary(max_size=300), max_size=3))
def test_every_file_comes_back_from_its_chunks(contents: dict[str, bytes]) -> None:
    files = [("manifest.json", b"{}"), *contents.items()]
    index, wire = build_index("model", "1.0.0", files)
    again = parse_index(index.to_json(), where="test")
    assert again == index
    for path, data in files:
        assert b"".join(assemble(again.file(path), lambda chunk: wire[chunk.sha256])) == data


def test_large_files_are_cut_and_compressed_where_it_pays() -> None:
    index, wire = build_index("model", "1.0.0", FILES)
    assert max(map(len, wire.values())) <= MAX_CHUNK_WIRE_BYTES
    assert {chunk.compression for chunk in index.file("model").chunks} == {Compression.NONE}
    assert {chunk.compression for chunk in index.file("zeros").chunks} == {Compression.ZLIB}
    # Equal pieces travel once.
    assert len({chunk.sha256 for chunk in index.file("zeros").chunks[:-1]}) == 1


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_one_changed_bit_is_refused(position: int, bit: int) -> None:
    index, wire = build_index("model", "1.0.0", FILES[:2])
    chunk = index.file("model").chunks[0]
    data = bytearray(wire[chunk.sha256])
    data[position % len(data)] ^= 1 << bit
    with pytest.raises(VerificationError, match="signed hash"):
        unpack_chunk(chunk, bytes(data))


def test_wrong_length_is_refused_before_hashing() -> None:
    index, wire = build_index("model", "1.0.0", FILES[:1])
    chunk = index.file("manifest.json").chunks[0]
    with pytest.raises(VerificationError, match="were signed"):
        unpack_chunk(chunk, wire[chunk.sha256] + b"x")


def test_a_bomb_unpacks_to_no_more_than_was_signed() -> None:
    index, wire = build_index("model", "1.0.0", [("manifest.json", bytes(60_000))])
    chunk = index.file("manifest.json").chunks[0]
    assert chunk.compression is Compression.ZLIB
    with pytest.raises(VerificationError, match="does not unpack to the 10 bytes"):
        unpack_chunk(replace(chunk, size_bytes=10), wire[chunk.sha256])


def test_chunks_in_the_wrong_order_are_refused() -> None:
    index, wire = build_index("model", "1.0.0", FILES)
    entry = index.file("model")
    mixed = replace(entry, chunks=tuple(reversed(entry.chunks)))
    with pytest.raises(VerificationError, match="signed hash"):
        list(assemble(mixed, lambda chunk: wire[chunk.sha256]))


@pytest.mark.parametrize(
    "chunk",
    [
        ["0" * 64, 10, 10],
        ["0" * 63, 10, 10, "none"],
        ["G" * 64, 10, 10, "none"],
        ["0" * 64, 0, 10, "none"],
        ["0" * 64, 70_000, 10, "none"],
        ["0" * 64, 10, 10**12, "zlib"],
        ["0" * 64, 10, 10, "lzma"],
        ["0" * 64, True, 10, "none"],
        [None, 10, 10, "none"],
        [["a"], 10, 10, "none"],
        ["0" * 64, 10, 10, []],
        7,
    ],
)
def test_an_invalid_chunk_entry_is_refused(chunk: object) -> None:
    document = json.loads(build_index("model", "1.0.0", FILES[:1])[0].to_json())
    document["files"][0]["chunks"] = [chunk]
    with pytest.raises(InvalidBundleError, match=r"chunks"):
        parse_index(json.dumps(document).encode(), where="test")


@pytest.mark.parametrize("path", ["../x", "/x", ""])
def test_an_index_cannot_write_outside(path: str) -> None:
    document = json.loads(build_index("model", "1.0.0", FILES[:1])[0].to_json())
    document["files"].append(document["files"][0] | {"path": path})
    with pytest.raises(InvalidBundleError, match="safe relative path"):
        parse_index(json.dumps(document).encode(), where="test")


def test_a_damaged_zlib_stream_is_refused() -> None:
    index, wire = build_index("model", "1.0.0", [("manifest.json", bytes(5000))])
    chunk = index.file("manifest.json").chunks[0]
    import hashlib

    broken = zlib.compress(bytes(5000))[:-4] + b"oops"
    broken = broken[: len(wire[chunk.sha256])].ljust(len(wire[chunk.sha256]), b"\0")
    forged = replace(chunk, sha256=hashlib.sha256(broken).hexdigest())
    with pytest.raises(VerificationError, match="unpack"):
        unpack_chunk(forged, broken)
