"""Build small `.tflite` files by hand, and compare LiteRT with what they are imported as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import onnx
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from edgekit_converters.litert.emit import pack
from edgekit_converters.parity import relative_error
from edgekit_converters.tflite_source import import_tflite
from edgekit_runtime.session import open_session

Array = NDArray[Any]
Scale = tuple[float, int]


class TfliteBuilder:
    """One main graph; tensors and operators are added in execution order."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version, self.model.description = 3, "a test"
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.graph = schema.SubGraphT()
        self.graph.name = "main"
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "float32",
        *,
        data: Array | None = None,
        scales: Sequence[float] = (),
        zero_points: Sequence[int] = (),
        axis: int = 0,
        variable: bool = False,
    ) -> int:
        """Add a tensor; -1 is a free size."""
        made = schema.TensorT()
        made.name, made.type = name, getattr(schema.TensorType, dtype.upper())
        made.shape = [1 if size == -1 else size for size in shape]
        made.hasRank, made.isVariable = True, variable
        if -1 in shape:
            made.shapeSignature = list(shape)
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            made.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if scales:
            affine = schema.QuantizationParametersT()
            affine.scale, affine.quantizedDimension = list(scales), axis
            affine.zeroPoint = list(zero_points) or [0] * len(scales)
            made.quantization = affine
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def constant(self, name: str, array: Array, **quantization: Any) -> int:
        """Add a constant."""
        return self.tensor(name, array.shape, array.dtype.name, data=array, **quantization)

    def operator(
        self, code: str, inputs: Sequence[int], outputs: Sequence[int], table: str = "",
        **options: Any,
    ) -> None:  # fmt: skip
        """Add an operator; `table` names its options."""
        found = schema.OperatorCodeT()
        found.builtinCode = getattr(schema.BuiltinOperator, code)
        found.deprecatedBuiltinCode = min(found.builtinCode, 127)
        # LiteRT registers no first version of this one.
        found.version = 2 if code == "BROADCAST_TO" else 1
        made = schema.OperatorT()
        made.opcodeIndex = len(self.model.operatorCodes)
        self.model.operatorCodes.append(found)
        made.inputs, made.outputs = list(inputs), list(outputs)
        if table:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            made.builtinOptions = getattr(schema, f"{table}T")()
            for field, value in options.items():
                assert hasattr(made.builtinOptions, field), field
                setattr(made.builtinOptions, field, value)
        self.graph.operators.append(made)

    def content(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The file."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        buffers = self.model.buffers
        content = pack(self.model)
        # Packing wraps the buffers; the builder stays usable.
        self.model.buffers = buffers
        return content


def one_operator(
    code: str,
    inputs: Sequence[Array | None],
    *,
    constants: Sequence[int] = (),
    outputs: Sequence[str] = ("float32",),
    table: str = "",
    input_scales: Mapping[int, Scale] | None = None,
    output_scale: Scale | None = None,
    output_shape: Sequence[int] = (1,),
    free: bool = False,
    **options: Any,
) -> tuple[TfliteBuilder, bytes]:
    """A file with one operator.

    Args:
        code: The operator.
        inputs: A sample for each input, None for one that is left out.
        constants: Which of them are stored in the file.
        outputs: The type of each output; their shapes are asked of LiteRT.
        output_shape: What the outputs say before LiteRT is asked; some kernels insist on the rank.
        table: Of its options.
        input_scales: Scale and zero point of inputs that are quantized, by position.
        output_scale: Of every output.
        free: Whether the first axis of the computed inputs is free.
        options: Fields of the table.
    """
    build = TfliteBuilder()
    indices, computed = [], []
    for position, array in enumerate(inputs):
        if array is None:
            indices.append(-1)
            continue
        affine = (input_scales or {}).get(position)
        extra: dict[str, Any] = (
            {"scales": [affine[0]], "zero_points": [affine[1]]} if affine else {}
        )
        if position in constants:
            indices.append(build.constant(f"constant{position}", array, **extra))
            continue
        shape = [-1, *array.shape[1:]] if free and array.ndim else array.shape
        indices.append(build.tensor(f"input{position}", shape, array.dtype.name, **extra))
        computed.append(indices[-1])
    extra = {"scales": [output_scale[0]], "zero_points": [output_scale[1]]} if output_scale else {}
    made = [
        build.tensor(f"output{i}", output_shape, dtype, **extra) for i, dtype in enumerate(outputs)
    ]
    build.operator(code, indices, made, table, **options)
    engine = _engine(build.content(computed, made))
    for index, array in zip(computed, _computed(inputs, constants), strict=True):
        engine.resize_tensor_input(index, array.shape)
    engine.allocate_tensors()
    for index, array in zip(computed, _computed(inputs, constants), strict=True):
        engine.set_tensor(index, array)
    engine.invoke()
    for index in made:
        shape = list(engine.get_tensor(index).shape)
        build.graph.tensors[index].shape = shape
        if free:
            build.graph.tensors[index].shapeSignature = [-1, *shape[1:]]
    return build, build.content(computed, made)


def assert_same(
    content: bytes,
    folder: Path,
    feeds: Sequence[Array],
    *,
    tolerance: float = 1e-6,
    steps: int = 0,
) -> Any:
    """Import a file, run both on the same inputs, and return the ONNX model.

    Args:
        content: The `.tflite` file.
        folder: Where to write.
        feeds: An array an input, in order.
        tolerance: Largest relative error of floats.
        steps: Largest difference of integers.
    """
    source, target = folder / "source.tflite", folder / "target.onnx"
    source.write_bytes(content)
    model = import_tflite(source)
    onnx.save_model(model, str(target))
    engine = _engine(content)
    engine.allocate_tensors()
    places = engine.get_input_details()
    for place, array in zip(places, feeds, strict=True):
        engine.resize_tensor_input(place["index"], array.shape)
    engine.allocate_tensors()
    for place, array in zip(places, feeds, strict=True):
        engine.set_tensor(place["index"], array)
    engine.invoke()
    expected = [engine.get_tensor(place["index"]) for place in engine.get_output_details()]
    for plain in (True, False):
        session = open_session(target, reference_kernels=plain)
        names = [spec.name for spec in session.inputs]
        computed = session.run(dict(zip(names, feeds, strict=True)))
        for wanted, found in zip(expected, computed.values(), strict=True):
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            if wanted.dtype.kind == "f":
                assert relative_error(wanted, found) <= tolerance
                assert (np.isnan(wanted) == np.isnan(found)).all()
            else:
                gap = np.abs(wanted.astype(np.int64) - found.astype(np.int64))
                assert gap.max(initial=0) <= steps, (wanted, found)
    return model


def types_of(model: Any) -> list[str]:
    """The operators of an ONNX model, in order."""
    return [node.op_type for node in model.graph.node]


def _computed(inputs: Sequence[Array | None], constants: Sequence[int]) -> list[Array]:
    return [a for i, a in enumerate(inputs) if a is not None and i not in constants]


def _engine(content: bytes) -> Any:
    # The kernels that a device runs, without the delegate that rounds in its own way. The
    # reference kernels are no better judge: their LOCAL_RESPONSE_NORMALIZATION is off by one.
    return Interpreter(
        model_content=content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
