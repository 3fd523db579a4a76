from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit_agent.http import MAX_HEAD_BYTES, RequestError, parse_head
from edgekit_agent.open_inference import (
    BINARY_HEADER,
    DATATYPES,
    InferRequest,
    parse_infer_request,
    render_infer_response,
)
from edgekit_runtime.bundle.manifest import Step
from tests.simulators.local_agent import RunningAgent, infer_body
from tests.simulators.signed_fleet import quick_order
from tests.simulators.tiny_bundles import GOLDEN, affine_model, bundle_files

ARRAYS = st.sampled_from(sorted(DATATYPES)).flatmap(
    lambda name: hnp.arrays(
        np.dtype(name),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False} if "float" in name else None,
    )
)


def request_for(array: Any, *, binary: bool, nested: bool) -> tuple[bytes, dict[str, str]]:
    tensor: dict[str, object] = {
        "name": "x",
        "datatype": DATATYPES[array.dtype.name],
        "shape": list(array.shape),
    }
    if binary:
        raw = array.tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps({"inputs": [tensor]}).encode()
        return head + raw, {BINARY_HEADER: str(len(head))}
    tensor["data"] = array.tolist() if nested else array.ravel().tolist()
    return json.dumps({"inputs": [tensor]}).encode(), {}


@given(ARRAYS, st.booleans(), st.booleans())
def test_every_tensor_arrives_as_it_was_sent(array: Any, binary: bool, nested: bool) -> None:
    body, headers = request_for(array, binary=binary, nested=nested)
    (got,) = parse_infer_request(body, headers).inputs.values()
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    np.testing.assert_array_equal(got, array)


@given(ARRAYS, st.booleans())
@example(np.array([2**63, 0], dtype=np.uint64), False)
def test_an_answer_can_be_read_as_a_request(array: Any, binary: bool) -> None:
    asked = InferRequest(id="7", inputs={}, outputs={}, binary=binary)
    response = render_infer_response(asked, {"x": array}, model="m", version="1", variant="v")
    data = b"".join([response.body, *response.tail])
    assert response.length == len(data)
    length = int(response.headers.get("Inference-Header-Content-Length", len(data)))
    document = json.loads(data[:length])
    assert (document["id"], document["model_name"], document["model_version"]) == ("7", "m", "1")
    document["inputs"] = document.pop("outputs")
    head = json.dumps(document).encode()
    headers = {BINARY_HEADER: str(len(head))} if binary else {}
    got = parse_infer_request(head + data[length:], headers).inputs["x"]
    np.testing.assert_array_equal(got, array)


GOOD = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ([], "must be an object"),
        ({}, "inputs: is missing"),
        ({"inputs": [{**GOOD, "shape": [3]}]}, "cannot reshape"),
        ({"inputs": [{**GOOD, "shape": [-2]}]}, "whole numbers"),
        ({"inputs": [{**GOOD, "shape": [True]}]}, "whole numbers"),
        ({"inputs": [{**GOOD, "datatype": "BYTES"}]}, "datatype"),
        ({"inputs": [{**GOOD, "data": ["a", "b"]}]}, "must hold numbers"),
        ({"inputs": [{**GOOD, "data": [[1], [2, 3]]}]}, "data"),
        ({"inputs": [{**GOOD, "data": None}]}, "data"),
        ({"inputs": [{**GOOD, "datatype": "UINT8", "data": [1, 300]}]}, "does not fit"),
        ({"inputs": [{**GOOD, "datatype": "INT64", "data": [1, 1.5]}]}, "fractions"),
        ({"inputs": [GOOD, GOOD]}, "given twice"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 8}}]}, "inputs[0]"),
        ({"inputs": [GOOD], "parameters": {"binary_data_output": 1}}, "true or false"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(document: object, fault: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_infer_request(json.dumps(document).encode(), {})
    assert fault in caught.value.what


@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=5)))
def test_any_bytes_are_a_request_or_an_error(body: bytes, length: str | None) -> None:
    headers = {} if length is None else {BINARY_HEADER: length}
    try:
        request = parse_infer_request(body, headers)
    except RequestError:
        return
    assert request.inputs == {}


@given(st.binary(max_size=300))
def test_any_head_is_read_or_refused(head: bytes) -> None:
    try:
        method, target, version, headers = parse_head(head)
    except RequestError:
        return
    assert " " not in method + target
    assert version in ("HTTP/1.0", "HTTP/1.1")
    assert all(name == name.lower() for name in headers)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """y = softmax(2 x), with the softmax as postprocessing."""
    from tests.simulators.local_agent import make_config
    from tests.simulators.signed_fleet import SignedFleet

    fleet = SignedFleet()
    config = make_config(tmp_path_factory.mktemp("agent"), fleet, request_bytes=100_000)
    agent = RunningAgent(config=config, fleet=fleet)
    agent.start()
    files = bundle_files(
        "double",
        "1.0.0",
        [("plain", affine_model(2.0))],
        expected=GOLDEN * 2,
        postprocessing=(Step(op="softmax", tensor="y"),),
    )
    agent.release("double", "1.0.0", files)
    agent.order(quick_order("double", "1.0.0"))
    agent.wait_for_phase("active")
    yield agent
    agent.stop()


def test_the_answer_has_gone_through_the_postprocessing(served: RunningAgent) -> None:
    powers = np.exp(np.array([2.0, 4.0, 6.0, 8.0]) - 8.0)
    np.testing.assert_allclose(served.answer(), powers / powers.sum(), rtol=1e-5)


def test_binary_tensors_there_and_back(served: RunningAgent) -> None:
    array = np.array([[1.0, 2.0, 3.0, 4.0]], dtype=np.float32)
    raw = array.tobytes()
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, 4],
                    "parameters": {"binary_data_size": len(raw)},
                }
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    ).encode()
    client = http.client.HTTPConnection("127.0.0.1", served.port)
    headers = {"Inference-Header-Content-Length": str(len(head))}
    client.request("POST", "/v2/models/double/infer", head + raw, headers)
    response = client.getresponse()
    length = int(response.headers["Inference-Header-Content-Length"])
    body = response.read()
    client.close()
    answer = np.frombuffer(body[length:], dtype="<f4")
    np.testing.assert_allclose(answer, served.answer(), rtol=1e-6)


def test_the_model_describes_itself(served: RunningAgent) -> None:
    status, document = served.request("GET", "/v2/models/double/versions/1.0.0")
    assert status == 200
    assert document["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert document["versions"] == ["1.0.0"]
    assert document["platform"].startswith("onnxruntime ")
    assert served.request("GET", "/v2")[1]["name"] == "edgekit-agent"
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/double/ready"):
        assert served.request("GET", path)[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/", None, 404, "nothing here"),
        ("GET", "/v2/models/other", None, 404, "there are: double"),
        ("GET", "/v2/models/double/versions/9.9.9", None, 404, "1.0.0 is served"),
        ("GET", "/v2/models/double/infer", None, 405, "POST"),
        ("POST", "/v2/health/live", {}, 405, "GET"),
        ("POST", "/v2/models/double/infer", {}, 400, "inputs: is missing"),
        ("POST", "/v2/models/double/infer", infer_body([1.0]), 400, "shape [1, 1], not [?, 4]"),
        (
            "POST",
            "/v2/models/double/infer",
            {**infer_body([1.0] * 4), "outputs": [{"name": "z"}]},
            400,
            "no output z",
        ),
    ],
)
def test_errors_are_json_with_a_proper_status(
    served: RunningAgent, method: str, path: str, body: object, status: int, text: str
) -> None:
    got, document = served.request(method, path, body)
    assert got == status
    assert text in document["error"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /v2 HTTP/2.0\r\n\r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n", b"413"),
        (b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"GET /v2 HTTP/1.1\r\nx: " + b"y" * (MAX_HEAD_BYTES + 10), b"431"),
    ],
)
def test_malformed_http_is_refused_and_harms_nobody(
    served: RunningAgent, sent: bytes, status: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(sent)
        assert client.recv(65536).split(b" ")[1] == status
    assert served.request("GET", "/v2")[0] == 200


def test_http_1_0_and_expect_continue(served: RunningAgent) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(b"GET /v2 HTTP/1.0\r\n\r\n")
        received = b""
        while data := client.recv(65536):
            received += data
        assert b"Connection: close" in received
    body = json.dumps(infer_body([1.0] * 4)).encode()
    head = (
        b"POST /v2/models/double/infer HTTP/1.1\r\nExpect: 100-continue\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(head)
        assert client.recv(65536).startswith(b"HTTP/1.1 100 Continue")
        client.sendall(body)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
