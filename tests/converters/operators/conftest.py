from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.session import open_session


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What a model computed in LiteRT, and of which operators it is made there."""

    outputs: Mapping[str, NDArray[Any]]
    codes: tuple[str, ...]

    @property
    def y(self) -> Any:
        return self.outputs["y"]


@pytest.fixture
def evaluate(tmp_path: Path) -> Callable[..., Evaluated]:
    """Build a model around nodes from the arrays that it is given, convert it and run it.

    The inputs have the types and shapes of the arrays; with `free`, their first axis is free.
    LiteRT's own kernels must agree with XNNPACK's, but where `plain` is false: theirs end at the
    largest number where a sum or product is infinite.
    """

    def run(
        nodes: Sequence[Any] | Any,
        arrays: Mapping[str, NDArray[Any]],
        outputs: Sequence[str] = ("y",),
        constants: Mapping[str, NDArray[Any]] | None = None,
        *,
        opset: int = 21,
        domains: Sequence[tuple[str, int]] = (),
        free: bool = False,
        plain: bool = True,
    ) -> Evaluated:
        model = _model(nodes, arrays, outputs, constants or {}, opset, domains, free=free)
        compiled = compile_to_litert(normalise(model, where="test"), where="test")
        path = tmp_path / "model.tflite"
        path.write_bytes(compiled.content)
        session = open_session(path)
        computed = session.run(dict(arrays))
        again = session.run(dict(arrays))
        for name, values in computed.items():
            np.testing.assert_array_equal(again[name], values)
        others = _without_delegates(path, arrays) if plain else {}
        for name, values in others.items():
            # The two sets of kernels round differently; types, shapes and the rest are the same.
            assert (values.dtype, values.shape) == (computed[name].dtype, computed[name].shape)
            if values.dtype.kind == "f":
                np.testing.assert_allclose(values, computed[name], rtol=1e-4, atol=1e-5)
            else:
                assert values.tobytes() == computed[name].tobytes(), name
        return Evaluated(
            outputs=computed, codes=tuple(operator.code for operator in compiled.program.operators)
        )

    return run


def _without_delegates(
    path: Path, arrays: Mapping[str, NDArray[Any]]
) -> Mapping[str, NDArray[Any]]:
    """What LiteRT computes by its own kernels, as where there is no XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), num_threads=1, experimental_op_resolver_type=kernels)
    for detail in interpreter.get_input_details():
        interpreter.resize_tensor_input(detail["index"], arrays[detail["name"]].shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], arrays[detail["name"]])
    interpreter.invoke()
    return {
        detail["name"]: interpreter.get_tensor(detail["index"])
        for detail in interpreter.get_output_details()
    }


def _model(
    nodes: Sequence[Any] | Any,
    arrays: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
    constants: Mapping[str, NDArray[Any]],
    opset: int,
    domains: Sequence[tuple[str, int]],
    *,
    free: bool,
) -> Any:
    def shape(array: NDArray[Any]) -> list[Any]:
        return ["n", *array.shape[1:]] if free and array.ndim else list(array.shape)

    graph = helper.make_graph(
        [nodes] if isinstance(nodes, onnx.NodeProto) else list(nodes),
        "test",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), shape(array)
            )
            for name, array in arrays.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, version) for domain, version in domains]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del model.graph.value_info[:]
    return model


@pytest.fixture
def agree(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """Convert a model around nodes, and compare it with onnxruntime on every set of arrays.

    The inputs have the types and shapes of the first set; the axes of `free` are free, and other
    sets may have other sizes there. Both kinds of LiteRT's kernels must agree with the source in
    types, shapes and values, but where `reference` is false: LiteRT's plain kernels make infinite
    sums finite. Returns the operators that the LiteRT model is made of.
    """

    def check(
        nodes: Sequence[Any] | Any,
        sets: Mapping[str, NDArray[Any]] | Sequence[Mapping[str, NDArray[Any]]],
        outputs: Sequence[str] = ("y",),
        constants: Mapping[str, NDArray[Any]] | None = None,
        *,
        opset: int = 21,
        free: Mapping[str, Sequence[int]] | None = None,
        expected: Sequence[Mapping[str, NDArray[Any]]] | None = None,
        tolerance: float = 1e-6,
        reference: bool = True,
    ) -> tuple[str, ...]:
        given = [sets] if isinstance(sets, Mapping) else list(sets)
        model = _free_model(nodes, given[0], outputs, constants or {}, opset, free or {})
        compiled = compile_to_litert(normalise(model, where="test"), where="test")
        source, target = tmp_path / "source.onnx", tmp_path / "target.tflite"
        onnx.save_model(model, str(source))
        target.write_bytes(compiled.content)
        wanted = list(expected) if expected else [open_session(source).run(dict(s)) for s in given]
        for reference_kernels in (False, True)[: 1 + reference]:
            try:
                session = open_session(target, reference_kernels=reference_kernels)
            except UnsupportedModelError as error:
                # The plain kernels are fewer.
                if reference_kernels and "Didn't find op" in error.what:
                    continue
                raise
            assert [spec.name for spec in session.inputs] == list(given[0])
            for arrays, results in zip(given, wanted, strict=True):
                computed = session.run(dict(arrays))
                assert list(computed) == list(outputs)
                for name, values in results.items():
                    assert computed[name].dtype == values.dtype
                    assert computed[name].shape == values.shape
                    np.testing.assert_allclose(
                        computed[name], values, rtol=tolerance, atol=tolerance, err_msg=name
                    )
        return tuple(operator.code for operator in compiled.program.operators)

    return check


def _free_model(
    nodes: Sequence[Any] | Any,
    arrays: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
    constants: Mapping[str, NDArray[Any]],
    opset: int,
    free: Mapping[str, Sequence[int]],
) -> Any:
    model = _model(nodes, arrays, outputs, constants, opset, (), free=False)
    # Inference told sizes also to the bodies in the nodes: they are taken anew.
    del model.graph.node[:]
    model.graph.node.extend([nodes] if isinstance(nodes, onnx.NodeProto) else nodes)
    for value in model.graph.input:
        for axis in free.get(value.name, ()):
            value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{axis}"
    for value in model.graph.output:
        value.ClearField("type")
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del model.graph.value_info[:]
    return model
