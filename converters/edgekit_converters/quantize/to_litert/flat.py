"""A float `.tflite` file as an object tree, with what a quantizer does to it most often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.model_file import text_of
from edgekit_converters.quantize.to_litert.operators import Release, release

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.quantize.affine import Affine

_RUNTIME: Final = "min_runtime_version"
_RUNTIME_BYTES: Final = 16
# Older than the placeholder code; newer operators stand in `builtin_code` alone.
_LAST_BYTE_CODE: Final = 127
_STORED: Final = {"float32": np.float32, "int8": np.int8, "int16": np.int16, "int32": np.int32,
                  "int64": np.int64, "float16": np.float16}  # fmt: skip


class FlatModel:
    """A `ModelT` under change; `close` puts it in order again."""

    def __init__(self, schema: Any, model: Any) -> None:
        """Wrap a `ModelT` that `read_model` returned.

        Args:
            schema: LiteRT's generated schema module.
            model: Changed in place.
        """
        self.schema = schema
        self.model = model
        self._codes = {v: k for k, v in vars(schema.BuiltinOperator).items() if k.isupper()}
        self._types = {v: k for k, v in vars(schema.TensorType).items() if k.isupper()}
        for code in model.operatorCodes:
            # Before 2020 the byte was the only field.
            code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
        self._numbers = {
            (self._codes.get(code.builtinCode, ""), code.version): number
            for number, code in enumerate(model.operatorCodes)
        }
        self._newest: Release = (0,)
        self.graphs = [FlatGraph(self, graph) for graph in model.subgraphs]

    def code_of(self, operator: Any) -> str:
        """The name of an operator's code."""
        code = self.model.operatorCodes[operator.opcodeIndex].builtinCode
        return str(self._codes.get(code, ""))

    def version_of(self, operator: Any) -> int:
        """The version that an operator names."""
        return int(self.model.operatorCodes[operator.opcodeIndex].version)

    def code(self, name: str, version: int, needs: Release) -> int:
        """The number of an operator code; `needs` is the release that has it."""
        self._newest = max(self._newest, needs)
        key = (name, version)
        if key not in self._numbers:
            self._numbers[key] = len(self.model.operatorCodes)
            code = self.schema.OperatorCodeT()
            code.builtinCode = getattr(self.schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode = min(code.builtinCode, _LAST_BYTE_CODE)
            code.version = version
            self.model.operatorCodes.append(code)
        return self._numbers[key]

    def type_name(self, tensor: Any) -> str:
        """The element type of a `TensorT` by its numpy name."""
        return str(self._types[tensor.type]).lower()

    def type_number(self, dtype: str) -> int:
        """The schema's number of an element type."""
        return int(getattr(self.schema.TensorType, dtype.upper()))

    def add_buffer(self, content: bytes) -> int:
        """Add a buffer and return its number."""
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def content(self, tensor: Any) -> NDArray[np.uint8] | None:
        """The bytes of a constant."""
        data = self.model.buffers[tensor.buffer].data
        return None if data is None or not len(data) else np.asarray(data, np.uint8)

    def close(self) -> Any:
        """Drop what nothing reads, name the release that is needed now, and return the `ModelT`."""
        for graph in self.graphs:
            graph.compact()
        self._name_release()
        self._compact_buffers()
        self._compact_codes()
        return self.model

    def _name_release(self) -> None:
        for entry in self.model.metadata or []:
            if text_of(entry.name) == _RUNTIME:
                buffer = self.model.buffers[entry.buffer]
                text = bytes(np.asarray(buffer.data, np.uint8)).split(b"\0")[0].decode()
                newest = max(release(text), self._newest)
                padded = ".".join(map(str, newest)).encode().ljust(_RUNTIME_BYTES, b"\0")
                buffer.data = np.frombuffer(padded, np.uint8)

    def _compact_buffers(self) -> None:
        holders = [t for graph in self.model.subgraphs for t in graph.tensors]
        holders += list(self.model.metadata or [])
        # The first one is empty, for all that have none.
        numbers = {0: 0}
        kept = [self.model.buffers[0]]
        for holder in holders:
            if holder.buffer not in numbers:
                numbers[holder.buffer] = len(kept)
                kept.append(self.model.buffers[holder.buffer])
            holder.buffer = numbers[holder.buffer]
        self.model.buffers = kept

    def _compact_codes(self) -> None:
        operators = [o for graph in self.model.subgraphs for o in graph.operators]
        numbers: dict[int, int] = {}
        for operator in operators:
            new = numbers.setdefault(operator.opcodeIndex, len(numbers))
            operator.opcodeIndex = new
        codes = self.model.operatorCodes
        self.model.operatorCodes = [codes[old] for old in numbers]


class FlatGraph:
    """One subgraph: tensors and operators by number."""

    def __init__(self, flat: FlatModel, graph: Any) -> None:
        """Wrap a `SubGraphT`, which is changed in place."""
        self.flat = flat
        self.graph = graph
        self.tensors: list[Any] = graph.tensors
        self.operators: list[Any] = list(graph.operators or [])
        for operator in self.operators:
            operator.inputs = _numbers(operator.inputs)
            operator.outputs = _numbers(operator.outputs)
        self.inputs = _numbers(graph.inputs)
        self.outputs = _numbers(graph.outputs)
        self._arrays: dict[int, NDArray[Any] | None] = {}

    def dtype(self, number: int) -> str:
        """The numpy name of a tensor's element type."""
        return self.flat.type_name(self.tensors[number])

    def shape(self, number: int) -> tuple[int, ...]:
        """The sizes of a tensor, as the file has them."""
        shape = self.tensors[number].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def array(self, number: int) -> NDArray[Any] | None:
        """The values of a constant of plain numbers; None for other tensors."""
        if number not in self._arrays:
            raw = self.flat.content(self.tensors[number]) if number >= 0 else None
            dtype = _STORED.get(self.dtype(number)) if number >= 0 else None
            self._arrays[number] = (
                None
                if raw is None or dtype is None
                else np.frombuffer(raw.tobytes(), dtype).reshape(self.shape(number))
            )
        return self._arrays[number]

    def readers(self) -> dict[int, list[int]]:
        """The numbers of the operators that read each tensor."""
        found: dict[int, list[int]] = {}
        for place, operator in enumerate(self.operators):
            for number in operator.inputs:
                found.setdefault(number, []).append(place)
        return found

    def derive(self, number: int, suffix: str, dtype: str) -> int:
        """Add a tensor that is like another one but for its name and type."""
        source = self.tensors[number]
        tensor = self.flat.schema.TensorT()
        tensor.name = f"{text_of(source.name)}/{suffix}"
        tensor.shape = source.shape
        tensor.shapeSignature = source.shapeSignature
        tensor.hasRank = source.hasRank
        tensor.type = self.flat.type_number(dtype)
        tensor.buffer = 0
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, number: int, suffix: str, dtype: str, content: bytes) -> int:
        """Add a constant in the shape of another one."""
        added = self.derive(number, suffix, dtype)
        self.tensors[added].buffer = self.flat.add_buffer(content)
        return added

    def describe(self, number: int, affine: Affine, axis: int = 0) -> None:
        """Write into the file how the integers of a tensor are to be read."""
        quantization = self.flat.schema.QuantizationParametersT()
        scales = np.atleast_1d(affine.scale).astype(np.float32)
        quantization.scale = scales
        quantization.zeroPoint = np.full(scales.shape, affine.zero_point, np.int64)
        quantization.quantizedDimension = axis if affine.scale.ndim else 0
        self.tensors[number].quantization = quantization

    def operator(
        self, name: str, version: int, needs: Release, inputs: list[int], outputs: list[int]
    ) -> Any:
        """A new operator without options; the caller puts it in its place."""
        operator = self.flat.schema.OperatorT()
        operator.opcodeIndex = self.flat.code(name, version, needs)
        operator.inputs, operator.outputs = inputs, outputs
        return operator

    def compact(self) -> None:
        """Drop the tensors that nothing has to do with, and write the lists back."""
        used = [*self.inputs, *self.outputs]
        for operator in self.operators:
            used += [*operator.inputs, *operator.outputs, *_numbers(operator.intermediates)]
        kept = sorted({number for number in used if number >= 0})
        moved = {-1: -1, **{old: new for new, old in enumerate(kept)}}
        self.graph.tensors = self.tensors = [self.tensors[number] for number in kept]
        for operator in self.operators:
            operator.inputs = [moved[number] for number in operator.inputs]
            operator.outputs = [moved[number] for number in operator.outputs]
            operator.intermediates = [moved[n] for n in _numbers(operator.intermediates)] or None
        self.graph.operators = self.operators
        this = self.flat.model.subgraphs.index(self.graph)
        for signature in self.flat.model.signatureDefs or []:
            if signature.subgraphIndex == this:
                for entry in (*(signature.inputs or []), *(signature.outputs or [])):
                    entry.tensorIndex = moved[entry.tensorIndex]
        self.inputs = [moved[number] for number in self.inputs]
        self.outputs = [moved[number] for number in self.outputs]
        self.graph.inputs, self.graph.outputs = self.inputs, self.outputs


def _numbers(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]
