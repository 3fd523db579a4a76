"""Files that an importer, or the engine below it, once did not survive; each named after why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from converters.fuzz.child import Child
from converters.onnx_files import model_of, write
from converters.tflite_builder import TfliteBuilder

node = helper.make_node
F = np.float32
WINDOW = np.ones((3, 3, 3, 3), F)


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with Child("import_onnx") as child:
        yield child


def _then_slice(first: Any, **constants: Any) -> Any:
    """An operator, and a Slice of the last axis of what it computes."""
    cut = node("Slice", ["v", "from", "to", "axis"], ["y"], name="slice")
    bounds = {"from": np.array([0]), "to": np.array([1]), "axis": np.array([3])}
    return model_of([first, cut], constants=bounds | constants)


def _loop(trips: int, condition: str = "going") -> Any:
    body = helper.make_graph(
        [node("Add", ["acc", "x"], ["out"]), node("Identity", [condition], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("going", 9, []),
            helper.make_tensor_value_info("acc", 1, [2, 3]),
        ],
        [
            helper.make_tensor_value_info("go_on", 9, []),
            helper.make_tensor_value_info("out", 1, [2, 3]),
        ],
    )
    return model_of(
        [node("Loop", ["trips", "yes", "x"], ["y"], name="loop", body=body)],
        inputs={"x": [2, 3]},
        constants={"trips": np.int64(trips), "yes": np.bool_(True)},
    )


def _old(op: str, **attributes: Any) -> Any:
    return model_of([node(op, ["x"], ["y"], name="it", **attributes)], opset=7, ir_version=3)


def _frames(output: str) -> Any:
    model = model_of(
        [node("STFT", ["x", "step", "", "length"], ["y"], name="frames")],
        inputs={"x": [1, 128, 1]},
        outputs=[output],
        constants={"length": np.int64(16)},
    )
    model.graph.input.append(helper.make_tensor_value_info("step", 7, []))
    return model


def _input_is_output() -> Any:
    model = model_of([node("Relu", ["x"], ["y"])])
    model.graph.output[0].name = "x"
    return model


REFUSED = {
    # onnx 1.23's inference ends the process when a Slice reads a size below zero.
    "slice_of_a_pool_that_is_larger_than_its_input": (
        _then_slice(node("MaxPool", ["x"], ["v"], kernel_shape=[99, 99])),
        "'v' has the impossible shape [2, 3, -90, -90]",
    ),
    "slice_of_a_dilated_convolution": (
        _then_slice(node("Conv", ["x", "w"], ["v"], dilations=[99, 99]), w=WINDOW),
        "'v' has the impossible shape [2, 3, -190, -190]",
    ),
    "slice_of_a_cropped_transposed_convolution": (
        _then_slice(node("ConvTranspose", ["x", "w"], ["v"], pads=[99] * 4), w=WINDOW),
        "'v' has the impossible shape",
    ),
    "slice_of_a_pad_that_takes_away_too_much": (
        _then_slice(node("Pad", ["x", "p"], ["v"]), p=np.array([0, 0, 0, -99] * 2)),
        "'v' has the impossible shape [2, 3, 8, -190]",
    ),
    "slice_of_a_resize_that_overflows": (
        _then_slice(node("Resize", ["x", "", "s"], ["v"]), s=np.array([1, 1, 1, 3e30], F)),
        "v (Resize): its scales are",
    ),
    "slice_of_an_upsample_that_overflows": (
        _old("Upsample", scales=[1.0, 1.0, 1.0, 1e33]),
        "it (Upsample): scales is",
    ),
    "slice_of_a_negative_split": (
        model_of(
            [node("Split", ["x", "p"], ["v", "w"], name="split", axis=3),
             node("Slice", ["v", "p", "p", "p"], ["y"])],
            constants={"p": np.array([-2, 10])},
        ),
        "split (Split): split is [-2, 10]",
    ),
    # onnxruntime 1.32 never comes back.
    "loop_without_an_end": (_loop(2**62), "loop (Loop): it runs 4611686018427387904 times"),
    # onnxruntime 1.32 ends the process.
    "lstm_of_nothing": (
        model_of(
            [node("LSTM", ["x", "w", "r"], ["y"], name="lstm", hidden_size=4)],
            inputs={"x": [5, 0, 3]},
            constants={"w": np.ones((1, 16, 3), F), "r": np.ones((1, 16, 4), F)},
        ),
        "lstm (LSTM): its input is empty",
    ),
    "convolution_of_a_number": (
        model_of([node("ConvInteger", ["x", "x"], ["y"], name="conv")], inputs={"x": []}),
        "conv (ConvInteger)",
    ),
    "axes_that_are_one_number": (_old("ReduceSum", axes=1), "Mismatched attribute type"),
    "axes_that_are_a_fraction": (_old("ReduceSum", axes=0.5), "Mismatched attribute type"),
    # onnxruntime 1.32 ends the process.
    "mean_of_what_has_no_name": (
        model_of([node("Mean", ["x", "", ""], ["y"], name="mean")]),
        "mean (Mean): input 1 has no name, and the operator needs it",
    ),
    "layer_normalization_with_an_empty_last_name": (
        model_of(
            [node("LayerNormalization", ["x", "w", ""], ["y"], name="norm")],
            inputs={"x": [3, 4]},
            constants={"w": np.ones(4, F)},
        ),
        "norm (LayerNormalization): input 2 has no name, which onnxruntime does not survive",
    ),
    "output_of_the_name_of_an_input_of_another_type": (
        _frames("step"), "the output 'step' is the input of that name, of another element type"
    ),
    # onnx 1.23 never comes back.
    "einsum_with_a_letter_that_is_none": (
        model_of([node("Einsum", ["x"], ["y"], name="sum", equation="bijk\xf1->b")]),
        "sum (Einsum): equation is 'bijk",
    ),
    # onnxruntime 1.32 goes through all distances between two words.
    "words_that_are_skipped_for_ever": (
        model_of(
            [node("TfIdfVectorizer", ["x"], ["y"], name="words", mode="TF", min_gram_length=2,
                  max_gram_length=2, max_skip_count=2**31, ngram_counts=[0, 4],
                  ngram_indexes=[0, 1, 2, 3, 4, 5, 6],
                  pool_int64s=[2, 3, 5, 4, 5, 6, 7, 8, 6, 7])],
            inputs={"x": [2, 6]}, dtype=6, opset=9,
        ),
        "words (TfIdfVectorizer): max_skip_count is 2147483648",
    ),
    "size_beyond_31_bits_of_nothing": (
        model_of([node("Relu", ["x"], ["y"])], inputs={"x": [2**32, 0, 4]}),
        "a size of which is beyond 31 bits",
    ),
    "input_that_is_too_large_to_be_made_up": (
        model_of([node("Relu", ["x"], ["y"])], inputs={"x": [2, 2**28]}),
        "the input 'x' has 536870912 elements",
    ),
    "cast_that_saturates_otherwise": (
        model_of([node("Cast", ["x"], ["y"], name="cast", to=10, saturate=2**40)], opset=21,
                 ir_version=10),
        "cast (Cast): saturate is 1099511627776, allowed: 0 or 1",
    ),
    "attention_that_gives_another_output": (
        model_of(
            [node("Attention", ["x", "x", "x"], ["y", "", "", "q"], name="attend",
                  qk_matmul_output_mode=-1)],
            inputs={"x": [1, 2, 3, 4]}, opset=23, ir_version=10,
        ),
        "attend (Attention): qk_matmul_output_mode is -1, allowed: 0 to 3",
    ),
    "dropout_with_many_modes": (
        model_of(
            [node("Dropout", ["x", "", "m"], ["y"], name="drop")],
            constants={"m": np.array([True, False])},
        ),
        "drop (Dropout): its training_mode has 2 elements",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, child: Child, tmp_path: Path) -> None:
    model, reason = REFUSED[name]
    outcome = child.run(write(model, tmp_path / "a.onnx"))
    assert outcome.kind == "refused", outcome.text
    assert reason in outcome.text


def _axes_that_a_shape_computes() -> Any:
    return model_of(
        [
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "first"], ["n"]),
            node("Unsqueeze", ["n", "shape"], ["y"], name="unsqueeze"),
        ],
        inputs={"x": [2, 12]},
        constants={"first": np.int64(0)},
    )


def _told_in_no_text() -> Any:
    """A description that is no text; protobuf hands it out as bytes and does not take it back."""
    content = model_of([node("Relu", ["x"], ["y"])]).SerializeToString()
    return onnx.ModelProto.FromString(content + b"\x32\x03a\xff\xfe")


def _range_by_a_loop() -> Any:
    """How often the Loop runs is limit / step; zero by zero is a large number in LiteRT."""
    body = helper.make_graph(
        [node("Identity", ["going"], ["on"]), node("Add", ["a", "step"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("going", 9, []),
            helper.make_tensor_value_info("a", 1, []),
        ],
        [helper.make_tensor_value_info("on", 9, []), helper.make_tensor_value_info("b", 1, [])],
    )
    return model_of(
        [
            node("Div", ["limit", "step"], ["d"]),
            node("Cast", ["d"], ["trips"], to=7),
            node("Loop", ["trips", "yes", "zero"], ["y"], body=body),
        ],
        inputs={"limit": [], "step": []},
        constants={"yes": np.bool_(True), "zero": np.float32(0)},
    )


SURVIVED = {
    # onnxruntime 1.32 divides by the step without looking.
    "frames_of_a_given_step": _frames("y"),
    "description_that_is_no_text": _told_in_no_text(),
    "range_by_a_loop": _range_by_a_loop(),
    "axes_that_a_shape_computes": _axes_that_a_shape_computes(),
    "output_that_is_an_input_without_a_shape": _input_is_output(),
    "loop_with_an_end": _loop(3),
}


@pytest.mark.parametrize("name", SURVIVED)
def test_survived(name: str, child: Child, tmp_path: Path) -> None:
    outcome = child.run(write(SURVIVED[name], tmp_path / "a.onnx"))
    assert outcome.good, outcome.text


def _weights_of_another_shape() -> bytes:
    """Four axes of weights are dequantized into an output of two."""
    build = TfliteBuilder()
    image = build.tensor("image", [1, 2])
    weights = build.constant("weights", np.ones((1, 3, 3, 2), np.int8), scales=[0.1, 0.2], axis=3)
    number = build.tensor("number", [1, 2])
    build.operator("DEQUANTIZE", [weights], [number], "DequantizeOptions")
    return build.content([image], [number])


def test_a_tflite_output_of_another_shape_than_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(_weights_of_another_shape())
    with Child("import_tflite") as child:
        outcome = child.run(tmp_path / "a.tflite")
    assert outcome.kind == "refused", outcome.text
    assert "contradict each other" in outcome.text


# What all of these tests stand on.


def test_a_child_that_dies_is_seen_and_another_one_goes_on(tmp_path: Path) -> None:
    with Child("end_the_process") as child:
        assert [child.run(tmp_path).kind for _ in range(2)] == ["crash", "crash"]


def test_a_child_that_does_not_answer_is_seen(tmp_path: Path) -> None:
    with Child("never_answer", deadline_s=0.5) as child:
        assert child.run(tmp_path).kind == "hang"
