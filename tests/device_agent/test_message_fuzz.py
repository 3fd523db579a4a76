"""What else the network reaches: messages of a broker, of applications, of a control plane.

Each test runs quickly, and ten times as long where slow tests are wanted.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import socket
import zlib
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit_agent.application import Application
from edgekit_agent.hosted import HostedModel
from edgekit_agent.http import BodyBuffer, BodyMemory, Connection, Request, RequestError
from edgekit_agent.identity.enrolment import parse_answer
from edgekit_agent.identity.keys import check_certificate, make_key, validity
from edgekit_agent.open_inference import BINARY_HEADER, DATATYPES, parse_infer_request
from edgekit_agent.requests.proving import prove_request
from edgekit_agent.transports.arrivals import Arrival
from edgekit_agent.transports.mqtt import MqttTransport
from edgekit_runtime.errors import EdgekitError, VerificationError
from edgekit_runtime.orders import BundleOrder, ShadowOrder, parse_order
from edgekit_runtime.protocol import ID_PATTERN, Topics, pack_metadata, unpack_metadata
from edgekit_runtime.reports import (
    BundleState,
    DeviceEvent,
    DeviceState,
    Phase,
    parse_event,
    parse_state,
)
from edgekit_runtime.requests import (
    DeviceReply,
    DeviceRequest,
    RequestKind,
    open_request,
    parse_reply,
    read_request,
    sign_request,
)
from edgekit_runtime.telemetry import DeviceGauges, ModelCounts, Window, pack_batch, parse_batch
from tests.device_agent.test_network_fuzz import damaged
from tests.simulators.authority import Authority
from tests.simulators.hosted_models import make_slot
from tests.simulators.signed_fleet import SignedFleet
from tests.simulators.tiny_bundles import affine_bundle

# JSON can name half of a character, which cannot be written anywhere.
HALF = "\ud800"
DEVICE = "d1"


def fuzzed(
    *strategies: st.SearchStrategy[Any], quick: int = 60, slow: int = 600
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a check on made-up arguments: a few, and many where slow tests are wanted."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize("examples", [quick, pytest.param(slow, marks=pytest.mark.slow)])
        def test(examples: int) -> None:
            settings(max_examples=examples, deadline=None)(given(*strategies)(check))()

        test.__name__ = check.__name__
        return test

    return decorate


@st.composite
def halved(draw: st.DrawFn, document: Any) -> Any:
    """A document with damage, and sometimes with half a character in one of its texts."""
    changed = draw(damaged(document))
    if draw(st.booleans()):
        text = json.dumps(changed)
        letters = [place.start() for place in re.finditer(r"[a-z](?=[a-z]*\")", text)]
        if letters:
            place = draw(st.sampled_from(letters))
            with contextlib.suppress(ValueError):
                return json.loads(text[:place] + "\\ud800" + text[place + 1 :])
    return changed


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


# --- from the broker

FLEET = SignedFleet()
FILES = {name: data.decode() for name, data in FLEET.image.files.items()}


@fuzzed(st.one_of(halved(FILES), st.dictionaries(st.text(max_size=9), st.text(max_size=9))))
def test_a_metadata_set(document: object) -> None:
    try:
        files = unpack_metadata(zlib.compress(as_json(document)), where="fuzz")
    except VerificationError:
        return
    assert unpack_metadata(pack_metadata(files), where="fuzz") == files


def test_a_metadata_set_with_half_a_character_is_refused() -> None:
    with pytest.raises(VerificationError, match="no TUF metadata set"):
        unpack_metadata(zlib.compress(as_json({"root.json": HALF})), where="fuzz")


@fuzzed(st.binary(max_size=100), st.integers(0, 2**31), quick=30, slow=400)
def test_a_packed_message_that_is_cut_or_changed(noise: bytes, seed: int) -> None:
    packed = bytearray(pack_metadata(dict(FLEET.image.files)))
    place = seed % len(packed)
    packed[place : place + len(noise)] = noise
    try:
        files = unpack_metadata(bytes(packed), where="fuzz")
    except VerificationError:
        return
    assert all(isinstance(data, bytes) for data in files.values())


ORDER = BundleOrder(
    bundle="m",
    version="1.0.0",
    shadow=ShadowOrder(run="r", version="1.1.0", digest="0" * 64, length=9),
)


@fuzzed(halved(ORDER.to_custom()), quick=150)
def test_an_order_with_a_shadow(custom: object) -> None:
    try:
        order = parse_order(ORDER.target_path, custom)
    except VerificationError:
        return
    assert parse_order(order.target_path, order.to_custom()) == order


REQUEST = json.loads(
    sign_request(
        DeviceRequest(device=DEVICE, number=1, expires=2e9, kind=RequestKind.LOGS),
        [lambda data: ("key", data[:4].hex())],
    )
)


@fuzzed(halved(REQUEST))
def test_a_request_as_it_travels(document: object) -> None:
    try:
        opened = open_request(as_json(document))
        prove_request(opened, root=FLEET.director.first_root, device=DEVICE, last=0, now=0)
    except VerificationError:
        return
    raise AssertionError("nobody signed it")


@fuzzed(halved(json.loads(REQUEST["signed"])))
def test_the_signed_text_of_a_request(document: object) -> None:
    try:
        request = read_request(json.dumps(document))
    except VerificationError:
        return
    assert re.fullmatch(ID_PATTERN, request.device)
    assert request.number >= 1
    assert isinstance(request.arguments, dict)


def test_the_text_of_a_request_with_half_a_character_is_refused() -> None:
    opened = {"signed": HALF, "signatures": [["key", "00"]]}
    with pytest.raises(VerificationError, match="half a character"):
        open_request(as_json(opened))


TOPICS = Topics("plant")
TOPIC = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            ["edgekit", "v1", "plant", "devices", "repo", "chunks", DEVICE, "order", "state", "",
             "..", "+", "#", "requests", "metadata", "0" * 64]
        ),
        max_size=8,
    ).map("/".join),
)  # fmt: skip


@fuzzed(TOPIC, st.binary(max_size=50), quick=150)
def test_a_message_on_any_topic(topic: str, payload: bytes) -> None:
    device = TOPICS.device_of(topic)
    assert device is None or topic.startswith(f"edgekit/v1/plant/devices/{device}/")
    arrived: list[Arrival] = []
    transport = MqttTransport(
        host="127.0.0.1",
        port=1,
        tls=None,
        topics=TOPICS,
        device=DEVICE,
        will=b"",
        chunk_window=1,
        post=arrived.append,
    )
    try:
        message = paho.MQTTMessage(topic=topic.encode())
    except UnicodeEncodeError:
        return
    message.payload = payload
    transport._on_message(None, None, message)
    known = {TOPICS.metadata, TOPICS.order(DEVICE), TOPICS.requests(DEVICE)}
    assert bool(arrived) == (topic in known)


# --- from devices, at the control plane

STATE = DeviceState(
    device=DEVICE,
    online=True,
    hardware={"architecture": "aarch64"},
    bundles={"m": BundleState(phase=Phase.ACTIVE, active="1.0.0", variant="v")},
)
EVENT = DeviceEvent(device=DEVICE, sequence=3, time=1.0, kind="update.active", bundle="m")
BATCH = pack_batch(
    DEVICE,
    "s",
    0,
    [
        (
            1,
            as_json(
                Window(
                    start=0.0,
                    end=60.0,
                    bundle="m",
                    version="1.0.0",
                    model=ModelCounts(requests=2, latency={3: 2}),
                ).to_json()
            ),
        ),
        (2, as_json(Window(start=0.0, end=60.0, device=DeviceGauges()).to_json())),
    ],
)
REPLY = DeviceReply(device=DEVICE, number=1, ok=True, result={"lines": ["a"]})


@pytest.mark.parametrize(
    ("document", "parse"),
    [
        (json.loads(STATE.to_json()), parse_state),
        (json.loads(EVENT.to_json()), parse_event),
        (json.loads(BATCH), parse_batch),
        (json.loads(REPLY.to_json()), parse_reply),
    ],
)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_a_device_says(
    document: dict[str, Any], parse: Callable[..., Any], data: st.DataObject
) -> None:
    try:
        said = parse(as_json(data.draw(halved(document))), where="fuzz")
    except VerificationError:
        return
    assert re.fullmatch(ID_PATTERN, said.device)


# --- from a control plane, over HTTPS

AUTHORITY = Authority()
ANSWER = {
    "fleet": "plant",
    "broker": {"host": "broker", "port": 8883},
    "certificate": AUTHORITY.pem,
    "authorities": AUTHORITY.pem,
    "image_root": "{}",
    "director_root": "{}",
}


@fuzzed(halved(ANSWER))
def test_an_answer_to_an_enrolment(document: object) -> None:
    try:
        answer = parse_answer(as_json(document), where="fuzz")
    except VerificationError:
        return
    assert re.fullmatch(ID_PATTERN, answer.fleet)
    # Both are written into agent.toml, and the others into files.
    assert not set(answer.broker_host) & set(' "\\/\n')
    for text in (answer.certificate, answer.authorities, answer.image_root, answer.director_root):
        text.encode()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("identity") / "device-key.pem"
    make_key(path)
    return path


@settings(max_examples=60, deadline=None)
@example(text=AUTHORITY.pem, place=0, junk="")
@given(st.just(AUTHORITY.pem), st.integers(0, 900), st.text(max_size=20))
def test_a_certificate(key: Path, text: str, place: int, junk: str) -> None:
    changed = text[:place] + junk + text[place + len(junk) :]
    for read in (
        lambda: check_certificate(changed, key=key, device=DEVICE),
        lambda: validity(changed),
    ):
        try:
            read()
        except VerificationError:
            continue


# --- from applications on the device

TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]}
BINARY = {
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}},
        {"name": "n", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}},
    ],
    "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    "id": "7",
}
ASKED = st.one_of(
    halved(BINARY), halved({"inputs": [TENSOR]}), halved({"inputs": [BINARY["inputs"][0], TENSOR]})
)  # type: ignore[index]


@fuzzed(ASKED, st.binary(max_size=40), st.integers(-3, 3), quick=200)
def test_an_inference_request(document: object, tail: bytes, slip: int) -> None:
    head = as_json(document)
    tail = (tail + bytes(24))[:24]
    headers = {BINARY_HEADER: str(len(head) + slip)}
    try:
        request = parse_infer_request(head + tail, headers)
    except RequestError:
        return
    for array in request.inputs.values():
        assert array.dtype.name in DATATYPES
        assert array.nbytes == array.dtype.itemsize * math.prod(array.shape)


@pytest.mark.parametrize(
    ("datatype", "value"), [("FP32", 1e300), ("FP16", 70_000), ("FP32", -1e39)]
)
def test_a_number_too_large_for_its_type_is_refused(datatype: str, value: float) -> None:
    tensor = {"name": "x", "datatype": datatype, "shape": [1], "data": [value]}
    with pytest.raises(RequestError, match=f"does not fit into {datatype}"):
        parse_infer_request(as_json({"inputs": [tensor]}), {})


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    plan = make_slot(tmp_path_factory.mktemp("slot"), affine_bundle("double", "1.0.0", 2.0))
    return Application({"double": HostedModel(plan)}, version="1")


PATHS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["/v2/models/double/infer", "/v2/models/double/versions/1.0.0/infer", "/v2/models/double",
         "/v2/models/%00/infer", "/v2/models/../double/infer", "/v2/models", "/v2/health/ready",
         "/v2/models/double/versions/%ff", "/metrics", "//", "/v2/models/double/versions"]
    ),
)  # fmt: skip
TYPES = st.sampled_from(
    ["", "application/json", "application/octet-stream", "image/png", "image/\u00ff", "audio/wav",
     "audio/ogg", "IMAGE/JPEG; q=1", ";"]
)  # fmt: skip
BODIES = st.one_of(st.binary(max_size=60), ASKED.map(as_json), st.just(np.ones(4, "<f4").tobytes()))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "PUT", "\u00e9"]),
    PATHS,
    TYPES,
    st.sampled_from([None, "0", "5", "-1", "\u0661", "9" * 30]),
    BODIES,
)
def test_any_request_has_an_answer_that_blames_nobody_else(
    application: Application, method: str, path: str, kind: str, length: str | None, body: bytes
) -> None:
    headers = {"content-type": kind} | ({} if length is None else {BINARY_HEADER: length})
    response = application.answer(
        Request(method=method, path=path, headers=headers, body=body, keep_alive=False)
    )
    # Nothing that an application sends is a fault of the agent.
    assert response.status < HTTPStatus.INTERNAL_SERVER_ERROR
    if response.status != HTTPStatus.OK:
        assert json.loads(response.body)["error"]


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [b"Content-Length: 4", b"Content-Length: -4", b"Content-Length: 99999999999",
             b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Connection: close",
             b"Inference-Header-Content-Length: 2", b": x", b"x", b"\xff: \xff", b""]
        ),
        st.binary(max_size=20),
    ),
    max_size=5,
)  # fmt: skip


@fuzzed(
    st.sampled_from([b"GET / HTTP/1.1", b"POST /a?b HTTP/1.0", b"G E T", b"", b"\x16\x03\x01"]),
    LINES,
    st.binary(max_size=12),
    st.booleans(),
    quick=150,
)
def test_the_bytes_of_a_connection(
    start: bytes, lines: list[bytes], body: bytes, whole: bool
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\r\n".join([start, *lines, b"", body]) if whole else body)
        theirs.shutdown(socket.SHUT_WR)
        connection = Connection(ours, max_body_bytes=100, memory=BodyMemory(1000))
        try:
            request = connection.read_request(BodyBuffer())
        except RequestError:
            return
        assert request is None or len(request.body) <= 100


def picture(form: str) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_picture(form: str, data: st.DataObject) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    from edgekit_runtime.media.image import PictureLayout, decode_picture

    layout = PictureLayout(height=8, width=8, channels=3, channels_axis=2)
    content = bytearray(picture(form))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        pixels = decode_picture(bytes(content[:cut]), layout)
    except EdgekitError:
        return
    assert pixels.shape == (1, 8, 8, 3)


def test_files_of_arrays(tmp_path: Path) -> None:
    """Samples that a device sends are read by whoever trains: only as plain numbers."""
    from edgekit_runtime.bundle.golden import load_arrays, save_arrays

    content = save_arrays({"input:x": np.ones((1, 4), np.float32)})

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, len(content) - 1), st.binary(min_size=1, max_size=8))
    def check(place: int, junk: bytes) -> None:
        changed = content[:place] + junk + content[place + len(junk) :]
        try:
            arrays = load_arrays(changed, where="fuzz")
        except EdgekitError:
            return
        assert all(array.dtype.kind in "biufc" for array in arrays.values())

    check()
