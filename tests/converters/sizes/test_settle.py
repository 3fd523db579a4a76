from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from edgekit_converters.sizes import settle_sizes, symbolic_shapes


def read(text: str, *, opset: int = 18) -> Any:
    model = onnx.helper.make_model(
        parser.parse_graph(f"test {text}"),
        opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8,
    )  # fmt: skip
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def run(model: Any, inputs: dict[str, Any]) -> list[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


def settled(text: str, *, opset: int = 18) -> Any:
    """The model with its sizes settled, which computes the same for every batch."""
    model = read(text, opset=opset)
    before = onnx.ModelProto()
    before.CopyFrom(model)
    assert settle_sizes(model)
    for batch in (1, 3):
        inputs = {}
        for value in model.graph.input:
            dims = value.type.tensor_type.shape.dim
            shape = [d.dim_value if d.HasField("dim_value") else batch for d in dims]
            array = np.random.default_rng(batch).normal(size=shape)
            kind = value.type.tensor_type.elem_type
            inputs[value.name] = array.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
        for expected, computed in zip(run(before, inputs), run(model, inputs), strict=True):
            np.testing.assert_array_equal(computed, expected)
    return model


def constant(model: Any, position: int) -> list[int]:
    """The constant that the last node of a model reads at a position."""
    name = model.graph.node[-1].input[position]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return numpy_helper.to_array(tensor).tolist()


HEAD = "int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] first = {0}"


@pytest.mark.parametrize(
    ("body", "result", "target"),
    [
        ("""s = Shape(x) b = Gather(s, zero) u = Unsqueeze(b, first) k = Concat<axis = 0>(u, rest)
         y = Reshape(x, k)""", "n,12", [-1, 12]),
        ("""s = Shape(x) b = Gather(s, zero) c = Gather(s, one) m = Mul(b, c)
         v = Unsqueeze(m, first) k = Concat<axis = 0>(v, four) y = Reshape(x, k)""",
         "m,4", [-1, 4]),
        ("""s = Shape(x) b = Slice(s, first, end) r = Slice(s, end, all) p = ReduceProd(r)
         k = Concat<axis = 0>(b, p) y = Reshape(x, k)""", "n,12", [-1, 12]),
        ("""s = Shape<start = 0, end = 1>(x) k = Concat<axis = 0>(s, minus) y = Reshape(x, k)""",
         "n,12", [0, -1]),
        ("""s = Shape(x) c = Gather(s, two) d = Div(c, two) u = Unsqueeze(d, first)
         k = Concat<axis = 0>(minus, u) y = Reshape(x, k)""", "m,2", [-1, 2]),
        ("""s = Shape(x) e = Equal(wish, minus) w = Where(e, s, wish) y = Reshape(x, w)""",
         "n,3,4", [-1, 3, 4]),
    ],
    ids=["gathered", "multiplied", "sliced", "rest left open", "divided", "chosen"],
)  # fmt: skip
def test_a_reshape_is_told_what_is_known(body: str, result: str, target: list[int]) -> None:
    numbers = f"""{HEAD}, int64[1] rest = {{12}}, int64[1] four = {{4}}, int64[1] end = {{1}},
    int64[1] all = {{9}}, int64[1] minus = {{-1}}, int64[3] wish = {{-1,3,4}}"""
    model = settled(f"(float[n,3,4] x) => (float[{result}] y) <{numbers}> {{ {body} }}")
    assert model.graph.node[-1].op_type == "Reshape"
    assert constant(model, 1) == target


def test_known_shapes_become_constants() -> None:
    model = settled(
        "(float[n,3] x, float[2,3] z) => (int64[m] y) <int64[1] k = {5}>"
        "{ s = Shape(z) a = Shape(x) y = Concat<axis = 0>(s, k, a) }"
    )
    assert [node.op_type for node in model.graph.node] == ["Shape", "Concat"]


def test_two_free_sizes_are_copied_where_they_stand() -> None:
    model = settled(
        f"""(float[n,m,4] x) => (float[n,m,2,2] y) <{HEAD}, int64[2] square = {{2,2}}>
        {{ s = Shape<start = 0, end = 2>(x) k = Concat<axis = 0>(s, square) y = Reshape(x, k) }}"""
    )
    assert constant(model, 1) == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("text", "scales"),
    [
        ("(float[n,2,3,4] x) => (float[n,2,6,8] y) <int64[2] wide = {6,8}> "
         '{ s = Shape<start = 0, end = 2>(x) k = Concat<axis = 0>(s, wide) '
         'y = Resize<mode = "nearest">(x, , , k) }', [1, 1, 2, 2]),
        ("(float[n,2,3,4] x) => (float[n,2,5,2] y) <int64[2] wide = {5,2}> "
         '{ s = Shape<start = 0, end = 2>(x) k = Concat<axis = 0>(s, wide) '
         'y = Resize<mode = "linear">(x, , , k) }', [1, 1, np.float32(5) / np.float32(3), 0.5]),
    ],
)  # fmt: skip
def test_a_resize_with_a_free_batch_is_told_its_scales(text: str, scales: list[float]) -> None:
    model = settled(text)
    assert len(model.graph.node[-1].input) == 3
    np.testing.assert_array_equal(constant(model, 2), scales)


@pytest.mark.parametrize(
    "text",
    [
        "(float[n,m,4] x) => (float[m,n,4] y) { s = Shape<start = 1, end = 2>(x) "
        "t = Shape<start = 0, end = 1>(x) u = Shape<start = 2>(x) k = Concat<axis = 0>(s, t, u) "
        "y = Reshape(x, k) }",
        "(float[n,4] x, int64[2] k) => (float[a,b] y) { s = Shape(x) t = Add(s, k) "
        "u = Sub(t, k) y = Reshape(x, u) }",
        "(float[n,4] x) => (float[n,4] y, int64[2] s) { s = Shape(x) y = Relu(x) }",
    ],
    ids=["two free sizes that change places", "given from outside", "an output"],
)
def test_what_is_not_certain_stays(text: str) -> None:
    model = read(text)
    before = [node.op_type for node in model.graph.node]
    settle_sizes(model)
    assert [node.op_type for node in model.graph.node if node.op_type != "Constant"] == before or (
        model.graph.node[-1].op_type == "Reshape"
    )
    assert "Reshape" not in before or model.graph.node[-1].input[1] in {
        name for node in model.graph.node for name in node.output
    }


def test_zeros_in_a_target_are_left_to_the_node() -> None:
    model = read(
        "(float[n,0,4] x) => (float[n,0,2] y) <int64[2] rest = {0,2}>"
        "{ s = Shape<start = 0, end = 1>(x) k = Concat<axis = 0>(s, rest) "
        "y = Reshape<allowzero = 1>(x, k) }"
    )
    settle_sizes(model)
    assert model.graph.node[-1].input[1] == "k"


SHAPES = {
    "Conv": ("y = Conv<pads = [1,1,1,1]>(x, w)", ["n", 2, 4, 4]),
    "MaxPool": ("y = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x)", ["n", 2, 2, 2]),
    "Transpose": ("y = Transpose<perm = [1,0,2,3]>(x)", [2, "n", 4, 4]),
    "Flatten": ("y = Flatten<axis = 2>(x)", ["2*n", 16]),
    "Flatten behind": ("y = Flatten<axis = -1>(x)", ["8*n", 4]),
    "Squeeze": ("a = Unsqueeze(x, first) y = Squeeze(a, first)", ["n", 2, 4, 4]),
    "Concat": ("y = Concat<axis = 1>(x, x)", ["n", 4, 4, 4]),
    "Gather": ("y = Gather<axis = 1>(x, one)", ["n", 4, 4]),
    "Slice": ("y = Slice(x, first, all, two)", ["n", 2, 4, 4]),
    "Reduce": ("y = ReduceMean<keepdims = 0>(x, two)", ["n", 2, 4]),
    "ArgMax": ("y = ArgMax<axis = 1>(x)", ["n", 1, 4, 4]),
    "Pad": ("y = Pad(x, widths)", ["n", 2, 4, 6]),
    "Resize": ('y = Resize<mode = "nearest">(x, , scales)', ["n", 2, 8, 8]),
    "Elementwise": ("y = Add(x, w)", ["n", 2, 4, 4]),
    "MatMul": ("y = MatMul(x, m)", ["n", 2, 4, 5]),
    "Expand": ("s = Shape(x) y = Expand(one_of, s)", ["n", 2, 4, 4]),
    "GatherElements": ("s = Cast<to = 7>(x) y = GatherElements(x, s)", ["n", 2, 4, 4]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_free_size_keeps_its_name(name: str) -> None:
    """Also behind a Reshape, where ONNX's own inference has lost it."""
    body, expected = SHAPES[name]
    model = read(
        f"""(float[n,32] r) => (float[a] end)
        <float[1] one_of = {{1.0}}, int64 one = {{1}}, int64[1] two = {{2}}, int64[1] first = {{0}},
         int64[1] all = {{9223372036854775807}}, int64[8] widths = {{0,0,0,1, 0,0,0,1}},
         float[4] scales = {{1.0,1.0,2.0,2.0}}, int64[4] image = {{-1,2,4,4}},
         int64[1] flat = {{-1}}>
        {{ x = Reshape(r, image) w = ConstantOfShape(wide) m = ConstantOfShape(square) {body}
           z = Cast<to = 1>(y) end = Reshape(z, flat) }}""".replace(
            "int64[1] flat", "int64[4] wide = {2,2,3,3}, int64[2] square = {4,5}, int64[1] flat"
        ).replace("{2,2,3,3}", "{1,2,4,4}" if name == "Elementwise" else "{2,2,3,3}")
    )
    shape = symbolic_shapes(model)["y"]
    assert [None if s is None else s.factor if s.known else str(s) for s in shape] == expected


def test_sizes_that_differ_get_no_name_of_each_other() -> None:
    model = read("(float[n,4] x, float[m,4] z) => (float[a,4] y) { y = Add(x, z) }")
    assert symbolic_shapes(model)["y"][0] is None


def test_a_resized_batch_is_not_the_batch() -> None:
    model = read(
        "(float[n,1,4,4] x) => (float[a,1,4,4] y) <float[4] scales = {2.0,1.0,1.0,1.0}> "
        '{ y = Resize<mode = "nearest">(x, , scales) }'
    )
    assert str(symbolic_shapes(model)["y"][0]) != "n"


def test_recurrent_layers_pass_steps_and_batch_on() -> None:
    model = read(
        """(float[s,n,3] x, float[1,16,3] w, float[1,16,4] r) => (float[s,1,n,4] y, float[1,n,4] h)
        { y, h = LSTM<hidden_size = 4>(x, w, r) }"""
    )
    shapes = symbolic_shapes(model)
    assert [str(size) for size in shapes["y"]] == ["s", "1", "n", "4"]
    assert [str(size) for size in shapes["h"]] == ["1", "n", "4"]
