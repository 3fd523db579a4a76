"""Two models side by side: every fact says whether it is the same in both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.graph.compare import Fact, ModelComparison, compare_models
from edgekit_runtime.graph.constants import digest_constants
from edgekit_runtime.graph.read import read_graph
from runtime.graph.tflite_files import conv_model, pack
from runtime.models import WEIGHTS, linear_model


def fact(comparison: ModelComparison, name: str) -> Fact:
    return next(f for f in comparison.facts if f.name.strip() == name)


def lite(path: Path, model: Any | None = None) -> Path:
    path.write_bytes(pack(model or conv_model()))
    return path


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    return linear_model(tmp_path / "linear.onnx")


def test_a_file_and_itself(linear: Path) -> None:
    comparison = compare_models(linear, linear)
    assert comparison.differences == ()
    assert comparison.to_json()["same"] is True


def test_other_weights_of_one_structure(linear: Path, tmp_path: Path) -> None:
    other = linear_model(tmp_path / "other.onnx", WEIGHTS + 1)
    comparison = compare_models(linear, other)
    (difference,) = comparison.differences
    assert difference.name == "stored values"
    assert difference.note == "1 of 1 differ: weights"


def test_another_structure(linear: Path, tmp_path: Path) -> None:
    model = onnx.load_model(str(linear))
    model.graph.node[0].output[0] = "products"
    model.graph.node.append(onnx.helper.make_node("Relu", ["products"], ["scores"]))
    model.opset_import[0].version = 18
    model.producer_name = "test"
    onnx.helper.set_model_props(model, {"author": "me"})
    stored = onnx.numpy_helper.from_array(np.ones(3, np.float32), "spare")
    model.graph.initializer.append(stored)
    other = tmp_path / "other.onnx"
    onnx.save(model, str(other))
    comparison = compare_models(linear, other)
    changed = {f.name.strip() for f in comparison.differences}
    assert changed == {
        "format", "producer", "size", "operators", "Relu", "stored values", "metadata author",
    }  # fmt: skip
    assert (fact(comparison, "Relu").first, fact(comparison, "Relu").second) == (0, 1)
    assert fact(comparison, "stored values").note == "only in the second: spare"
    assert fact(comparison, "metadata author").first is None


def test_an_input_that_changed_its_shape_its_name_or_went_away(
    linear: Path, tmp_path: Path
) -> None:
    wide = linear_model(tmp_path / "wide.onnx", np.ones((5, 2), np.float32))
    found = fact(compare_models(linear, wide), "input x")
    assert (found.first, found.second) == ("float32[?, 3]", "float32[?, 5]")
    model = onnx.load_model(str(linear))
    model.graph.input[0].name = model.graph.node[0].input[0] = "features"
    renamed = tmp_path / "renamed.onnx"
    onnx.save(model, str(renamed))
    found = fact(compare_models(linear, renamed), "input 1")
    assert (found.first, found.second) == ("x: float32[?, 3]", "features: float32[?, 3]")
    model.graph.input[0].name = model.graph.node[0].input[0] = "x"
    extra = onnx.helper.make_tensor_value_info("spare", onnx.TensorProto.FLOAT, [1])
    model.graph.input.append(extra)
    onnx.save(model, str(renamed))
    found = fact(compare_models(linear, renamed), "input spare")
    assert (found.first, found.second) == (None, "float32[1]")


def test_one_model_of_each_format(linear: Path, tmp_path: Path) -> None:
    comparison = compare_models(linear, lite(tmp_path / "conv.tflite"))
    names = [f.name.strip() for f in comparison.facts]
    # By class, since the two formats have other words.
    assert {"dense", "convolution", "activation"} <= set(names)
    assert "stored values" not in names
    assert fact(comparison, "MACs").ratio == 16 * 54 / 6
    assert fact(comparison, "runs on").second == "tflite-runtime 2.14.0"


def test_the_same_picture_with_its_channels_elsewhere(tmp_path: Path) -> None:
    first, model = lite(tmp_path / "first.tflite"), conv_model()
    model.subgraphs[0].tensors[0].shape = [1, 2, 4, 4]
    found = fact(compare_models(first, lite(tmp_path / "second.tflite", model)), "input picture")
    assert not found.same
    assert found.note == "the same sizes in another order"


def test_quantization_of_an_input_is_part_of_it(tmp_path: Path) -> None:
    first, model = lite(tmp_path / "first.tflite"), conv_model()
    import ai_edge_litert.schema_py_generated as schema

    affine = schema.QuantizationParametersT()
    affine.scale, affine.zeroPoint = [0.5], [3]
    model.subgraphs[0].tensors[0].quantization = affine
    found = fact(compare_models(first, lite(tmp_path / "second.tflite", model)), "input picture")
    assert found.second == "float32[1, 4, 4, 2], 0.5 x (q - 3)"


def test_tflite_weights_are_told_apart(tmp_path: Path) -> None:
    model = conv_model()
    model.buffers[2].data = np.frombuffer(np.ones(3, np.float32).tobytes(), np.uint8)
    comparison = compare_models(
        lite(tmp_path / "first.tflite"), lite(tmp_path / "second.tflite", model)
    )
    assert [f.note for f in comparison.differences] == ["1 of 3 differ: bias"]


def test_one_value_digests_the_same_however_it_is_written(linear: Path, tmp_path: Path) -> None:
    model = onnx.load_model(str(linear))
    plain = onnx.helper.make_tensor("weights", 1, WEIGHTS.shape, WEIGHTS.reshape(-1).tolist())
    model.graph.initializer[0].CopyFrom(plain)
    other = tmp_path / "other.onnx"
    onnx.save(model, str(other))
    digests = [digest_constants(path, read_graph(path)) for path in (linear, other)]
    assert digests[0] == digests[1]


def test_values_that_do_not_fill_their_shape(linear: Path, tmp_path: Path) -> None:
    model = onnx.load_model(str(linear))
    plain = onnx.helper.make_tensor("weights", 1, WEIGHTS.shape, WEIGHTS.reshape(-1).tolist())
    model.graph.initializer[0].CopyFrom(plain)
    del model.graph.initializer[0].float_data[3:]
    other = tmp_path / "other.onnx"
    onnx.save(model, str(other))
    with pytest.raises(UnsupportedModelError, match="constant 'weights' cannot be read"):
        digest_constants(other, read_graph(other))


def test_the_comparison_is_json(linear: Path, tmp_path: Path) -> None:
    other = linear_model(tmp_path / "other.onnx", WEIGHTS[:2])
    data = json.loads(json.dumps(compare_models(linear, other).to_json()))
    assert data["first"]["path"] == str(linear)
    assert data["same"] is False
    size = next(entry for entry in data["facts"] if entry["name"] == "parameters")
    assert (size["first"], size["second"], size["unit"], size["same"]) == (6, 4, "amount", False)
    assert size["ratio"] == pytest.approx(4 / 6)


def test_either_file_may_be_missing_or_no_model(linear: Path, tmp_path: Path) -> None:
    for pair in ((linear, tmp_path / "absent.onnx"), (tmp_path / "absent.onnx", linear)):
        with pytest.raises(UsageError, match="no such file"):
            compare_models(*pair)
