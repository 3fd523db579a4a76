"""Bad input to a conversion: refused by name before anything is written, or done with a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from converters.onnx_files import model_of, write
from edgekit_converters.convert import ConversionRequest, Precision, convert_model
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.formats import ModelFormat

node = helper.make_node
F = np.float32


def _convert(source: Path, folder: Path) -> Any:
    return convert_model(
        ConversionRequest(
            source=source,
            output=folder / "out",
            targets=(ModelFormat.ONNX, ModelFormat.LITERT),
            precisions=(Precision.FLOAT32,),
        )
    )


def _external(location: str) -> Any:
    model = model_of([node("Add", ["x", "w"], ["y"], name="add")])
    weights = model.graph.initializer.add(name="w", data_type=1, dims=[8])
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    return model


def _huge() -> Any:
    model = model_of([node("Add", ["x", "w"], ["y"], name="add")])
    model.graph.initializer.add(name="w", data_type=1, dims=[2**40, 2**40], raw_data=b"1234")
    return model


def _many_nodes() -> Any:
    model = model_of([node("Relu", ["x"], ["y"])])
    model.graph.node.extend([model.graph.node[0]] * 100_001)
    return model


def _another_output_shape() -> Any:
    model = model_of([node("Relu", ["x"], ["y"])])
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", 1, [2, 3, 8, 9]))
    return model


BAD = {
    "external data outside the folder": (_external("../secret"), "outside the model's folder"),
    "external data that is absolute": (_external("/etc/passwd"), "absolute path '/etc/passwd'"),
    "external data that is missing": (_external("gone.bin"), "'gone.bin', which is missing"),
    "a circle": (
        model_of([node("Add", ["x", "b"], ["a"], name="one"),
                  node("Relu", ["a"], ["b"], name="two")], outputs=["b"]),
        "form a circle: ",
    ),
    "an absurdly large graph": (_many_nodes(), "has 100002 operators"),
    "a shape that overflows": (_huge(), "'w' has the shape [1099511627776, 1099511627776]"),
    "a shape below zero": (
        model_of([node("Relu", ["x"], ["y"])], inputs={"x": [2, -7]}),
        "'x' has the impossible shape [2, -7]",
    ),
    "a custom domain": (
        model_of([node("Magic", ["x"], ["y"], name="m", domain="acme")], domains=["acme"]),
        "m (acme.Magic)",
    ),
    "a missing initialiser": (
        model_of([node("Add", ["x", "bias"], ["y"], name="add")]),
        "input 1 of add (Add), 'bias', is made by nothing",
    ),
    "conflicting shapes": (
        model_of([node("Add", ["x", "w"], ["y"], name="add")], constants={"w": np.ones(5, F)}),
        "Incompatible dimensions",
    ),
    "an output of another shape": (_another_output_shape(), "shapes contradict each other"),
    "an attribute out of range": (
        model_of([node("MaxPool", ["x"], ["y"], name="p", kernel_shape=[2, 2], strides=[0, 1])]),
        "p (MaxPool): strides is [0, 1], allowed: 1 or more",
    ),
    "an element type that does not exist": (
        model_of([node("Relu", ["x"], ["y"])], dtype=77), "unknown element type 77",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    model, reason = BAD[name]
    source = write(model, tmp_path / "bad.onnx")
    (tmp_path.parent / "secret").write_bytes(bytes(100))
    with pytest.raises(UnsupportedModelError) as caught:
        _convert(source, tmp_path)
    error = caught.value
    assert reason in error.what
    assert str(source) in str(error.where)
    assert error.fix
    assert error.exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["bad.onnx"]


def test_a_file_of_two_gigabytes(tmp_path: Path) -> None:
    source = tmp_path / "big.onnx"
    with source.open("wb") as file:
        file.write(b"\x08\x08")
        file.truncate(2**31)
    with pytest.raises(UnsupportedModelError, match="an ONNX file ends at 2 GiB"):
        _convert(source, tmp_path)


def test_weights_that_are_not_finite_are_a_warning(tmp_path: Path) -> None:
    weights = np.ones((8, 4), F)
    weights[3, 2] = np.nan
    model = model_of(
        [node("MatMul", ["x", "layer1.weight"], ["y"], name="dense")], inputs={"x": ["n", 8]},
        constants={"layer1.weight": weights},
    )  # fmt: skip
    report = _convert(write(model, tmp_path / "m.onnx"), tmp_path)
    assert any("'layer1.weight' holds 1 NaN" in warning for warning in report.warnings)


def test_texts_inside_a_model_are_refused_for_litert_by_name(tmp_path: Path) -> None:
    model = model_of(
        [
            node("Cast", ["x"], ["t"], name="spell", to=onnx.TensorProto.STRING),
            node("Cast", ["t"], ["y"], name="read", to=onnx.TensorProto.FLOAT),
        ],
        inputs={"x": [2]},
    )
    with pytest.raises(UnsupportedModelError, match=r"spell \(Cast\)"):
        _convert(write(model, tmp_path / "m.onnx"), tmp_path)
    assert not (tmp_path / "out").exists()
