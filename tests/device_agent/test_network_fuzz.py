"""Every parser that bytes from the network reach: a value that makes sense, or the one error."""

from __future__ import annotations

import copy
import hashlib
import json
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit_agent.transports.polling import UnreachableError
from edgekit_agent.transports.web import WebTransport
from edgekit_agent.verifier import Verifier
from edgekit_runtime.bundle.build import Base, build_index
from edgekit_runtime.bundle.delta import MAX_DELTA_BYTES
from edgekit_runtime.bundle.index import Chunk, assemble, parse_index, unpack_chunk
from edgekit_runtime.bundle.manifest import MANIFEST_NAME, is_safe_path, parse_manifest
from edgekit_runtime.bundle.packing import Compression, pack
from edgekit_runtime.errors import EdgekitError, InvalidBundleError, VerificationError
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES
from edgekit_runtime.orders import (
    BundleOrder,
    Conditions,
    index_pieces_custom,
    parse_index_pieces,
    parse_order,
    parse_window,
)
from edgekit_runtime.protocol import Topics, pack_metadata, unpack_metadata
from tests.simulators.babbler import Babbler
from tests.simulators.layered_models import int8_weights, onnx_file, step_one_in_twenty
from tests.simulators.signed_fleet import SignedFleet, quick_order
from tests.simulators.tiny_bundles import affine_bundle

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


@st.composite
def damaged(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document with one to three places replaced, left out or doubled."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = document
        while isinstance(holder, dict | list) and holder:
            keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
            key = draw(st.sampled_from(list(keys)))
            inner = holder[key]
            if isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
                holder = inner
                continue
            how = draw(st.sampled_from(["junk", "drop", "nudge"]))
            if how == "drop":
                del holder[key]
            elif how == "nudge" and type(inner) is int:
                holder[key] = inner + draw(st.integers(-2, 2))
            else:
                holder[key] = draw(JUNK)
            break
    return document


def built() -> tuple[dict[str, Any], dict[str, bytes]]:
    old = [(MANIFEST_NAME, b"{}"), ("model", onnx_file(int8_weights(small=True)))]
    index, wire = build_index("m", "1.0.0", old)
    base = Base(index=index, read=lambda entry: b"".join(assemble(entry, lambda c: wire[c.sha256])))
    stepped = step_one_in_twenty(int8_weights(small=True))
    new = [(MANIFEST_NAME, b"{}"), ("model", onnx_file(stepped))]
    made, more = build_index("m", "1.1.0", new, bases=[base])
    return json.loads(made.to_json()), wire | more


INDEX, WIRE = built()
MANIFEST = json.loads(affine_bundle("m", "1.0.0", 2.0)[MANIFEST_NAME])
_WINDOW = parse_window("sat,sun 22:00-04:00")
assert _WINDOW
ORDER = BundleOrder(bundle="m", version="1.0.0", conditions=Conditions(windows=(_WINDOW,)))


@settings(max_examples=150, deadline=None)
@given(damaged(INDEX))
def test_an_index(document: object) -> None:
    try:
        index = parse_index(json.dumps(document).encode(), where="fuzz")
    except InvalidBundleError:
        return
    for entry in index.files:
        assert is_safe_path(entry.path)
        offsets = entry.offsets()
        assert offsets[-1] == entry.size_bytes
        assert all(0 < chunk.size_bytes <= MAX_DELTA_BYTES for chunk in entry.chunks)
        for delta in entry.deltas:
            free = 0
            for step in delta.steps:
                assert free <= step.first < step.first + step.count <= len(entry.chunks)
                length = offsets[step.first + step.count] - offsets[step.first]
                assert step.base_offset + length <= delta.base_bytes
                assert length <= MAX_DELTA_BYTES
                assert 0 < step.wire_bytes <= MAX_CHUNK_WIRE_BYTES
                free = step.first + step.count
    assert parse_index(index.to_json(), where="fuzz") == index


@settings(max_examples=150, deadline=None)
@given(damaged(MANIFEST))
def test_a_manifest(document: object) -> None:
    try:
        manifest = parse_manifest(json.dumps(document).encode(), where="fuzz")
    except InvalidBundleError:
        return
    assert all(map(is_safe_path, manifest.files))
    for variant in manifest.variants:
        assert set(manifest.files_for(variant)) <= manifest.files.keys()


@settings(max_examples=150)
@given(damaged(ORDER.to_custom()))
def test_an_order(custom: object) -> None:
    try:
        order = parse_order(ORDER.target_path, custom)
    except VerificationError:
        return
    assert order.target_path == ORDER.target_path
    assert parse_order(order.target_path, order.to_custom()) == order


@settings(max_examples=100)
@given(damaged(index_pieces_custom([("0" * 64, 100), ("1" * 64, 28)])))
def test_the_pieces_of_an_index(custom: object) -> None:
    try:
        pieces = parse_index_pieces("m/1.0.0/index.json", custom, length=128)
    except VerificationError:
        return
    assert sum(size for _, size in pieces) == 128


@settings(max_examples=200)
@given(
    st.binary(max_size=300),
    st.sampled_from(Compression),
    st.integers(0, 400),
    st.booleans(),
)
def test_a_chunk(body: bytes, compression: Compression, size: int, packed: bool) -> None:
    wire = zlib.compress(body) if packed else body
    chunk = Chunk(
        sha256=hashlib.sha256(wire).hexdigest(),
        wire_bytes=len(wire),
        size_bytes=size,
        compression=compression,
    )
    try:
        assert len(unpack_chunk(chunk, wire)) == size
    except VerificationError:
        return


@given(st.binary(min_size=1, max_size=400))
def test_what_was_packed_comes_out(body: bytes) -> None:
    wire, compression = pack(body)
    chunk = Chunk(
        sha256=hashlib.sha256(wire).hexdigest(),
        wire_bytes=len(wire),
        size_bytes=len(body),
        compression=compression,
    )
    assert unpack_chunk(chunk, wire) == body


NOW = datetime.now(UTC).timestamp()
FLEET = SignedFleet()
FLEET.release("m", "1.0.0", {MANIFEST_NAME: b"{}"})
DIRECTOR = unpack_metadata(FLEET.order("d1", quick_order("m", "1.0.0")), where="fuzz")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_signed_metadata_with_a_damaged_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sets = {"image": dict(FLEET.image.files), "director": dict(DIRECTOR)}
    which = data.draw(st.sampled_from(sorted(sets)))
    name = data.draw(st.sampled_from(sorted(sets[which])))
    document = json.loads(sets[which][name])
    changed = data.draw(damaged(document))
    sets[which][name] = json.dumps(changed).encode()
    verifier = Verifier(
        tmp_path_factory.mktemp("fuzz"),
        device="d1",
        image_root=FLEET.image.first_root,
        director_root=FLEET.director.first_root,
    )
    packed = unpack_metadata(pack_metadata(sets[which]), where="fuzz")
    try:
        order = verifier.verify(**{**sets, which: packed}, now=NOW)
    except EdgekitError:
        return
    # Only what is not signed may differ: the root that is not looked at, or nothing.
    assert [target.version for target in order.targets] == ["1.0.0"]


HEADERS = st.lists(
    st.sampled_from(
        [b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: x", b"ETag: \xff",
         b"Transfer-Encoding: chunked", b"Connection: close", b": ", b"x" * 300, b"Content-Length:"]
    ),
    max_size=4,
)  # fmt: skip
STATUS = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.1 304 x", b"HTTP/1.0 200", b"HTTP/9 200 a", b"HTTP/1.1 abc",
     b"HTTP/1.1 100 Continue", b"HTTP/1.1 999 x", b"ICY 200 OK", b""]
)  # fmt: skip
BODIES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffff\r\n", b"-1\r\nx", b"5\r\nhel"]),
)


@settings(max_examples=120, deadline=None)
@given(STATUS, HEADERS, BODIES, st.booleans())
def test_an_answer_over_http(
    babbler: Babbler, status: bytes, headers: list[bytes], body: bytes, whole: bool
) -> None:
    babbler.says = b"\r\n".join([status, *headers, b"", body]) if whole else body
    transport = WebTransport(
        f"http://127.0.0.1:{babbler.port}",
        tls=None,
        topics=Topics("plant"),
        device="d1",
        poll_seconds=1.0,
        post=lambda _: None,
    )
    try:
        data = transport.read("name", most=10)
    except UnreachableError:
        return
    finally:
        transport.forget()
    assert data is None or len(data) <= 10
