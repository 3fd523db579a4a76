"""Static 8-bit quantization of a trained transformer encoder, which other conversions destroy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit_converters.convert import convert_model
from edgekit_converters.report import Precision
from edgekit_converters.request import ConversionRequest
from edgekit_runtime.formats import ModelFormat

ENCODER = Path(__file__).parent / "encoder" / "digits_encoder.onnx"
DATA = Path(__file__).parents[3] / "examples" / "digits" / "assets"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Any]:
    report = convert_model(
        ConversionRequest(
            source=ENCODER,
            output=tmp_path_factory.mktemp("encoder"),
            targets=(ModelFormat.LITERT,),
            precisions=(Precision.FLOAT32, Precision.INT8),
            calibration=DATA / "calibration.npz",
            evaluation=DATA / "test.npz",
        )
    )
    return {artifact.precision: artifact for artifact in report.artifacts}


def operators(path: Path) -> list[tuple[str, tuple[str, ...], tuple[bool, ...]]]:
    """Each operator with the types of its inputs, and which of them are constant."""
    from ai_edge_litert import schema_py_generated as schema

    types = {value: name for name, value in vars(schema.TensorType).items() if name.isupper()}
    codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    (graph,) = model.subgraphs
    found = []
    for operator in graph.operators:
        tensors = [graph.tensors[index] for index in operator.inputs if index >= 0]
        found.append(
            (
                codes[model.operatorCodes[operator.opcodeIndex].builtinCode],
                tuple(types[tensor.type] for tensor in tensors),
                tuple(model.buffers[tensor.buffer].data is not None for tensor in tensors),
            )
        )
    return found


def test_float_answers_are_those_of_the_source(artifacts: dict[Precision, Any]) -> None:
    artifact = artifacts[Precision.FLOAT32]
    assert artifact.paired.before > 0.95
    assert artifact.agreement == 1.0


def test_int8_keeps_its_accuracy(artifacts: dict[Precision, Any]) -> None:
    artifact = artifacts[Precision.INT8]
    assert artifact.paired.drop <= 0.005
    assert artifact.agreement >= 0.98


def test_products_with_weights_are_fully_connected_layers_in_integers(
    artifacts: dict[Precision, Any],
) -> None:
    found = operators(Path(artifacts[Precision.INT8].path))
    dense = [types for code, types, _ in found if code == "FULLY_CONNECTED"]
    # Queries, keys, values, what joins them, and two layers behind, twice; first and last.
    assert len(dense) == 14
    assert {types[:2] for types in dense} == {("INT8", "INT8")}
    products = [constant for code, _, constant in found if code == "BATCH_MATMUL"]
    assert len(products) == 4
    assert not any(any(constant) for constant in products)
