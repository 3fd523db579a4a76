"""The Open Inference Protocol v2 over HTTP: tensors in JSON, and its binary tensor extension.

https://github.com/kserve/open-inference-protocol; the extension as the Triton server defines it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit_agent.http import JSON_LENGTH, RequestError, Response, json_response
from edgekit_runtime.fields import FieldReader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit_runtime.bundle.manifest import TensorContract

BINARY_HEADER: Final = JSON_LENGTH
DATATYPES: Final = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
_DTYPES: Final = {datatype: dtype for dtype, datatype in DATATYPES.items()}
_MAX_TENSORS: Final = 64
_MAX_RANK: Final = 8
_LENGTH: Final = re.compile(r"\d{1,12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """What a client asks for.

    Attributes:
        id: Echoed in the answer; empty for none.
        inputs: Arrays by name, as the client declared them.
        outputs: Names of the wanted outputs, each with whether it is wanted in binary; empty
            for all.
        binary: Whether outputs that are not named are wanted in binary.
    """

    id: str
    inputs: dict[str, NDArray[np.generic]]
    outputs: dict[str, bool]
    binary: bool


def parse_infer_request(
    body: bytes | bytearray | memoryview, headers: Mapping[str, str]
) -> InferRequest:
    """Read the body of an inference request; its tensors may lie in the body itself.

    Raises:
        RequestError: If it is malformed; every invalid field is named.
    """
    text = headers.get(BINARY_HEADER)
    header_bytes = len(body)
    if text is not None:
        if not _LENGTH.fullmatch(text) or int(text) > len(body):
            raise RequestError("Inference-Header-Content-Length does not fit the body")
        header_bytes = int(text)
    try:
        document = json.loads(memoryview(body)[:header_bytes].tobytes())
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the request is no JSON: {error}") from error
    reader = FieldReader(document)
    rest = memoryview(body)[header_bytes:]
    inputs: dict[str, NDArray[np.generic]] = {}
    position = 0
    for entry in reader.items("inputs", lambda item: item, most=_MAX_TENSORS):
        name = entry.text("name")
        size = _binary_size(entry)
        array = _read_tensor(entry, rest[position : position + size] if size >= 0 else None)
        position += max(size, 0)
        if name in inputs:
            entry.fault("name", f"{name[:80]!r} is given twice")
        if array is not None:
            inputs[name] = array
    if not reader.faults and position != len(rest):
        reader.fault("inputs", f"take {position} bytes of the {len(rest)} behind the JSON")
    outputs = {
        entry.text("name"): _flag(entry, "binary_data")
        for entry in reader.items("outputs", lambda item: item, optional=True, most=_MAX_TENSORS)
    }
    binary = _flag(reader, "binary_data_output")
    if reader.faults:
        raise RequestError("the request is invalid: " + "; ".join(reader.faults))
    return InferRequest(
        id=reader.text("id", default=""), inputs=inputs, outputs=outputs, binary=binary
    )


def render_infer_response(
    request: InferRequest,
    outputs: Mapping[str, NDArray[np.generic]],
    *,
    model: str,
    version: str,
    variant: str,
) -> Response:
    """Write the answer to an inference request.

    Raises:
        RequestError: If the client wants an output that does not exist.
    """
    import numpy as np

    unknown = sorted(set(request.outputs) - set(outputs))
    if unknown:
        raise RequestError(
            f"the model has no output {', '.join(unknown)}; it has {', '.join(sorted(outputs))}"
        )
    wanted = request.outputs or dict.fromkeys(outputs, request.binary)
    entries: list[dict[str, object]] = []
    raw: list[memoryview] = []
    for name, binary in wanted.items():
        array = outputs[name]
        entry: dict[str, object] = {
            "name": name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
        }
        if binary:
            # An array on its own has no bytes to look at if it has no axis.
            data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
            entry["parameters"] = {"binary_data_size": data.nbytes}
            raw.append(data.view(np.uint8).data)
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    document: dict[str, object] = {"model_name": model, "model_version": version}
    if request.id:
        document["id"] = request.id
    document |= {"parameters": {"variant": variant}, "outputs": entries}
    if not raw:
        return json_response(document)
    head = json.dumps(document, separators=(",", ":")).encode()
    return Response(
        body=head,
        tail=raw,
        headers={
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        },
    )


def describe_tensors(contracts: Sequence[TensorContract]) -> list[dict[str, object]]:
    """Inputs or outputs as the model's metadata shows them; a free axis is -1."""
    return [
        {
            "name": item.name,
            "datatype": DATATYPES[item.dtype],
            "shape": [-1 if size is None else size for size in item.shape],
        }
        for item in contracts
    ]


def _read_tensor(entry: FieldReader, raw: memoryview | None) -> NDArray[np.generic] | None:
    import numpy as np

    datatype = entry.text("datatype", pattern="|".join(_DTYPES))
    shape = []
    for size in entry.sequence("shape", most=_MAX_RANK):
        if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 40:
            shape.append(size)
        else:
            entry.fault("shape", "must be a list of whole numbers")
    if entry.faults:
        return None
    dtype = np.dtype(_DTYPES[datatype])
    try:
        if raw is not None:
            array = np.frombuffer(raw, dtype=dtype.newbyteorder("<")).reshape(shape)
            return array.astype(dtype, copy=not array.flags.aligned)
        data = np.asarray(entry.raw("data"))
        if datatype == "UINT64" and data.dtype.kind == "f":
            # Beside a smaller number, one above 2**63 makes numpy fall back to fractions.
            data = _exact_integers(entry.raw("data"))
        fault = _misfit(data, dtype, datatype)
        if not fault:
            return data.astype(dtype).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        fault = f"does not make a {datatype}{shape}: {error}"
    entry.fault("data", fault)
    return None


def _exact_integers(data: object) -> NDArray[np.generic]:
    """Whole numbers below 2**64 as they stand in the JSON; anything else as numpy reads it."""
    import numpy as np

    exact = np.array(data, dtype=object)
    if all(type(value) is int and 0 <= value < 1 << 64 for value in exact.ravel()):
        return exact.astype(np.uint64)
    return np.asarray(data)


def _misfit(data: NDArray[np.generic], dtype: np.dtype[Any], datatype: str) -> str:
    """Why values from JSON do not fit a datatype; empty if they do."""
    import numpy as np

    if not data.size:
        return ""
    if data.dtype.kind not in "biuf":
        return "must hold numbers"
    if data.dtype.kind == "f" and dtype.kind != "f":
        return f"holds fractions, and the datatype is {datatype}"
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(data.max()) > limits.max or int(data.min()) < limits.min:
            return f"does not fit into {datatype}"
    if dtype.kind == "f":
        given = data.astype(np.float64).ravel()
        # Infinity may be asked for by its name; a number must not become it.
        if np.abs(given[np.isfinite(given)]).max(initial=0.0) > np.finfo(dtype).max:
            return f"does not fit into {datatype}"
    return ""


def _binary_size(entry: FieldReader) -> int:
    """Bytes of a tensor behind the JSON; -1 if its data stands in the JSON."""
    parameters = entry.nested("parameters", optional=True)
    if parameters.raw("binary_data_size") is None:
        return -1
    return parameters.integer("binary_data_size", most=1 << 40)


def _flag(reader: FieldReader, name: str) -> bool:
    return reader.nested("parameters", optional=True).boolean(name, default=False)
