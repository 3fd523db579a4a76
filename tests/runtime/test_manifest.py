"""The manifest: round trip, every fault at once, agreement with the published schema."""

from __future__ import annotations

import copy
import json
from importlib import resources
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_runtime.bundle.manifest import is_safe_path, parse_manifest
from edgekit_runtime.errors import InvalidBundleError
from runtime.models import linear_bundle

SCHEMA = json.loads(
    resources.files("edgekit_runtime.bundle")
    .joinpath("schema/manifest-v1.schema.json")
    .read_text(encoding="utf-8")
)
DOCUMENT: dict[str, Any] = json.loads(linear_bundle(b"model")[0].to_json())


def parse(document: object) -> Any:
    return parse_manifest(json.dumps(document).encode(), where="test.ekb")


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*path, key))
    elif isinstance(value, list):
        for key, item in enumerate(value):
            found += places(item, (*path, key))
    return found


def changed(path: tuple[Any, ...], value: object) -> Any:
    document = copy.deepcopy(DOCUMENT)
    inner: Any = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


def test_what_was_written_is_read_back() -> None:
    manifest, _ = linear_bundle(b"model")
    assert parse_manifest(manifest.to_json(), where="test.ekb") == manifest


def test_a_manifest_of_ours_fits_the_published_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(DOCUMENT, SCHEMA)


@given(
    path=st.sampled_from(places(DOCUMENT)),
    value=st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 300),
        st.text(max_size=4),
        st.just([]),
        st.just({}),
    ),
)
def test_what_the_schema_refuses_the_parser_refuses(path: tuple[Any, ...], value: object) -> None:
    document = changed(path, value)
    if not jsonschema.Draft202012Validator(SCHEMA).is_valid(document):
        with pytest.raises(InvalidBundleError):
            parse(document)


def test_every_fault_is_named_at_once() -> None:
    document = changed(("version",), "one")
    document["variants"][0]["golden"]["atol"] = -1
    document["inputs"][0]["dtype"] = "complex64"
    del document["task"]
    with pytest.raises(InvalidBundleError) as raised:
        parse(document)
    for place in ("version", "variants[0].golden.atol", "inputs[0].dtype", "task: is missing"):
        assert place in raised.value.what


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("variants", 0, "file"), "absent.onnx", "is not among the files"),
        (("variants", 0, "inputs"), {"y": {"tensor": "x"}}, "must bind exactly ['x']"),
        (("files", "../evil"), {"sha256": "0" * 64, "size_bytes": 1}, "not a safe relative path"),
        (("files", "slot.json"), {"sha256": "0" * 64, "size_bytes": 1}, "a file of our own"),
        (("postprocessing",), [{"op": "softmax", "tensor": "nope"}], "unknown tensor 'nope'"),
        (("variants", 0, "inputs", "x", "transpose"), [0, 0], "an order of the axes"),
        (("format_version",), 2, "no edgekit-bundle of version 1"),
    ],
)
def test_contradictions_are_refused(path: tuple[Any, ...], value: object, said: str) -> None:
    with pytest.raises(InvalidBundleError) as raised:
        parse(changed(path, value))
    assert said in raised.value.what


@given(st.binary(max_size=200))
def test_any_bytes_give_a_manifest_or_the_one_error(data: bytes) -> None:
    with pytest.raises(InvalidBundleError):
        parse_manifest(data, where="test.ekb")


@pytest.mark.parametrize(
    "path",
    [
        "../a",
        "/a",
        "a/../b",
        "a//b",
        "a\\b",
        "c:a",
        "",
        "a/",
        "a\nb",
        "./a",
        "x" * 300,
        ".a",
        "b/.a",
    ],
)
def test_unsafe_paths(path: str) -> None:
    assert not is_safe_path(path)


def test_safe_path() -> None:
    assert is_safe_path("variants/onnx-int8.onnx")
