"""Weights in files beside the model: from its own folder, whole, or refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit_converters.onnx_source import read_onnx
from edgekit_runtime.errors import UnsupportedModelError


@pytest.fixture
def stored(small_cnn: Any, tmp_path: Path) -> Path:
    """A model with all its weights in `a.data`, in a folder of its own."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "a.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(small_cnn)
    onnx.save_model(
        copy, str(path), save_as_external_data=True, location="a.data", size_threshold=0
    )
    return path


def _change(path: Path, changes: dict[str, str | None], *, tensor: str = "w2") -> None:
    model = onnx.load_model(str(path), load_external_data=False)
    found = next(t for t in model.graph.initializer if t.name == tensor)
    entries = {entry.key: entry.value for entry in found.external_data} | changes
    del found.external_data[:]
    for key, value in entries.items():
        if value is not None:
            found.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def _refused(path: Path, reason: str) -> str:
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        read_onnx(path)
    assert caught.value.where == str(path)
    return caught.value.what


def test_weights_beside_the_model(stored: Path, small_cnn: Any) -> None:
    model = read_onnx(stored)
    assert [numpy_helper.to_array(t).tolist() for t in model.graph.initializer] == [
        numpy_helper.to_array(t).tolist() for t in small_cnn.graph.initializer
    ]
    assert not any(t.external_data for t in model.graph.initializer)


def test_weights_in_a_folder_below_and_through_a_link_that_stays_inside(stored: Path) -> None:
    below = stored.parent / "weights"
    below.mkdir()
    (stored.parent / "a.data").rename(below / "real.data")
    (stored.parent / "a.data").symlink_to(below / "real.data")
    _change(stored, {"location": "weights/real.data"})
    assert read_onnx(stored).graph.initializer[0].raw_data


def test_the_length_may_be_left_out(stored: Path) -> None:
    _change(stored, {"length": None})
    read_onnx(stored)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("/etc/passwd", "absolute path '/etc/passwd'"),
        ("C:\\weights.data", "absolute path"),
        ("\\\\server\\weights.data", "absolute path"),
        ("\\weights.data", "absolute path"),
        ("../a.data", r"'\.\./a\.data', outside the model's folder"),
        ("sub/../../a.data", "outside the model's folder"),
        ("sub\\..\\..\\a.data", "outside the model's folder"),
        ("absent.data", "'absent.data', which is missing"),
        ("", "does not say in which"),
        ("a\0.data", "does not say in which"),
        (".", "no file"),
        ("x" * 5000, "cannot be opened|missing"),
    ],
)
def test_locations_that_are_refused(location: str, reason: str, stored: Path) -> None:
    (stored.parent.parent / "a.data").write_bytes((stored.parent / "a.data").read_bytes())
    _change(stored, {"location": location})
    assert "'w2'" in _refused(stored, reason)


def test_a_link_that_leads_outside(stored: Path) -> None:
    outside = stored.parent.parent / "secret"
    (stored.parent / "a.data").rename(outside)
    (stored.parent / "a.data").symlink_to(outside)
    _refused(stored, "a link that leads outside the model's folder")


def test_a_folder_that_is_a_link_outside(stored: Path) -> None:
    outside = stored.parent.parent / "elsewhere"
    outside.mkdir()
    (stored.parent / "a.data").rename(outside / "a.data")
    (stored.parent / "sub").symlink_to(outside)
    _change(stored, {"location": "sub/a.data"})
    _refused(stored, "a link that leads outside the model's folder")


def test_a_link_to_itself(stored: Path) -> None:
    (stored.parent / "loop").symlink_to(stored.parent / "loop")
    _change(stored, {"location": "loop"})
    _refused(stored, "cannot be opened|missing")


def test_a_pipe_is_not_waited_for(stored: Path) -> None:
    os.mkfifo(stored.parent / "pipe")
    _change(stored, {"location": "pipe"})
    _refused(stored, "no file")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"offset": "-1"}, "impossible offset '-1'"),
        ({"offset": "1e3"}, "impossible offset"),
        ({"offset": "9" * 40}, "impossible offset"),
        ({"offset": str(2**63)}, "impossible offset|refers to bytes"),
        ({"offset": "9" * 18}, "refers to bytes"),
        ({"offset": "100000000"}, "refers to bytes"),
        ({"length": "12"}, "needs 81920 bytes and refers to 12"),
        ({"length": str(2**40)}, "needs 81920 bytes"),
        ({"length": "-5"}, "impossible length"),
    ],
)
def test_offsets_and_lengths_that_are_refused(
    changes: dict[str, str | None], reason: str, stored: Path
) -> None:
    _change(stored, changes)
    assert "'w2'" in _refused(stored, reason)


def test_a_key_that_is_there_twice(stored: Path) -> None:
    model = onnx.load_model(str(stored), load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    stored.write_bytes(model.SerializeToString())
    _refused(stored, "says its location twice")


def test_a_file_that_is_cut_short(stored: Path) -> None:
    data = stored.parent / "a.data"
    data.write_bytes(data.read_bytes()[:1000])
    _refused(stored, "refers to bytes .* of 'a.data', which has 1000")


def test_a_constant_that_is_in_both_places(stored: Path) -> None:
    model = onnx.load_model(str(stored), load_external_data=False)
    model.graph.initializer[0].raw_data = b"1234"
    stored.write_bytes(model.SerializeToString())
    _refused(stored, "is in another file and has raw_data as well")


def test_every_fault_is_named_at_once(stored: Path) -> None:
    _change(stored, {"location": "/etc/passwd"}, tensor="w1")
    _change(stored, {"offset": "-3"}, tensor="b3")
    text = _refused(stored, "valid ONNX")
    assert "'w1'" in text
    assert "'b3'" in text


def test_constants_of_nodes_are_found_as_well(make_model: Any, tmp_path: Path) -> None:
    constant = numpy_helper.from_array(np.ones(4, np.float32))
    constant.ClearField("raw_data")
    constant.data_location = onnx.TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="/etc/passwd")
    nodes = [
        onnx.helper.make_node("Constant", [], ["c"], name="weights"),
        onnx.helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    nodes[0].attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(constant)
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [4])],
        [onnx.helper.make_tensor_value_info("y", 1, [4])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    _refused(tmp_path / "a.onnx", r"'value' of weights \(Constant\).*absolute path")


@pytest.fixture
def sparse_file(tmp_path: Path) -> Callable[[str, int], Path]:
    """Files of any size that take no room on the disk."""

    def make(name: str, size: int) -> Path:
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(size)
        return path

    return make


def test_a_file_of_two_gigabytes_is_refused_unread(sparse_file: Callable[[str, int], Path]) -> None:
    path = sparse_file("big.onnx", 2**31)
    _refused(path, "2147483648 bytes, and an ONNX file ends at 2 GiB")


def test_a_model_with_three_gigabytes_beside_it_is_refused_unread(
    sparse_file: Callable[[str, int], Path],
) -> None:
    data = sparse_file("big.data", 3 << 30)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 1 << 14])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, 3 << 14])],
    )
    weight = graph.initializer.add(name="w", data_type=1, dims=[1 << 14, 3 << 14])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=data.name)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = data.with_name("big.onnx")
    path.write_bytes(model.SerializeToString())
    what = _refused(path, "the limit is 2 GiB")
    assert str((3 << 30) + path.stat().st_size) in what
