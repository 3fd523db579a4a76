"""Random graphs of the operators that patterns are made of, each a valid model of small tensors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Those that patterns look for more often than chance would join them.
_UNARY = ("Relu", "Sigmoid", "Tanh", "Erf", "Neg", "Softplus", "HardSigmoid", "Identity")
_BINARY = ("Add", "Sub", "Mul", "Max", "Min")
_NUMBERS = (1.0, 0.5, 2.0, 3.0, 6.0, 1 / 6, 0.70710678, -1.0, 0.2)
_MOST_ELEMENTS = 512
_HIGHEST_RANK = 5
# No other size is this one: sizes that agree are the same.
_BATCH = 7
FREE = "n"


class RandomGraph:
    """A model that grows by one random node at a time.

    Args:
        seed: The same one gives the same model.
        nodes: How many.
    """

    def __init__(self, seed: int, *, nodes: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._names = itertools.count()
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._batch_moved: set[str] = set()
        shape = (_BATCH, *self._rng.integers(1, 5, self._rng.integers(1, 4)).tolist())
        self._shapes: dict[str, tuple[int, ...]] = {"x": shape}
        while len(self._nodes) < nodes:
            self._grow()

    def model(self) -> Any:
        """The model; its outputs are all that nothing reads, and now and then something more."""
        read = {name for node in self._nodes for name in node.input}
        made = [name for node in self._nodes for name in node.output]
        outputs = [n for n in made if n not in read or self._rng.random() < 0.1]
        graph = helper.make_graph(
            self._nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [FREE, *self._shapes["x"][1:]])],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self._constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)

    def _grow(self) -> None:
        # What was made last is read most: chains are what patterns are about.
        known = list(self._shapes)
        at = len(known) - 1 - min(int(self._rng.geometric(0.6)) - 1, len(known) - 1)
        source = known[at]
        kinds = (self._unary, self._with_number, self._with_constant, self._binary, self._clip,
                 self._matrix, self._transpose, self._reshape, self._reduce, self._power,
                 self._convolve, self._cut)  # fmt: skip
        kinds[self._rng.integers(len(kinds))](source)

    def _add(
        self, operator: str, inputs: list[str], shape: tuple[int, ...], **options: Any
    ) -> None:
        if int(np.prod(shape)) > _MOST_ELEMENTS or len(shape) > _HIGHEST_RANK:
            return
        name = f"v{next(self._names)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **options))
        self._shapes[name] = shape

    def _constant(self, array: Any) -> str:
        name = f"c{next(self._names)}"
        self._constants[name] = np.asarray(array)
        return name

    def _floats(self, *shape: int) -> str:
        return self._constant(self._rng.normal(size=shape).astype(np.float32))

    def _unary(self, source: str) -> None:
        self._add(str(self._rng.choice(_UNARY)), [source], self._shapes[source])

    def _with_number(self, source: str) -> None:
        rank = int(self._rng.integers(0, len(self._shapes[source]) + 1))
        value = np.full((1,) * rank, self._rng.choice(_NUMBERS), np.float32)
        inputs = [source, self._constant(value)]
        operator = str(self._rng.choice((*_BINARY, "Div")))
        if operator != "Div" and self._rng.random() < 0.4:
            inputs.reverse()
        self._add(operator, inputs, self._shapes[source])

    def _with_constant(self, source: str) -> None:
        shape = self._shapes[source]
        kept = self._rng.random(len(shape)) < 0.5
        # Never along the batch, which is free, wherever it stands.
        sizes = [
            size if keep and size != _BATCH else 1 for size, keep in zip(shape, kept, strict=True)
        ]
        inputs = [source, self._floats(*sizes[int(self._rng.integers(0, len(sizes))) :])]
        if self._rng.random() < 0.4:
            inputs.reverse()
        self._add(str(self._rng.choice(_BINARY)), inputs, shape)

    def _binary(self, source: str) -> None:
        others = [name for name, shape in self._shapes.items() if shape == self._shapes[source]]
        other = str(self._rng.choice(others))
        self._add(str(self._rng.choice(_BINARY)), [source, other], self._shapes[source])

    def _clip(self, source: str) -> None:
        low, high = sorted(self._rng.choice((0.0, 1.0, 3.0, 6.0), 2, replace=False))
        bounds = [self._constant(np.float32(bound)) for bound in (low, high)]
        self._add("Clip", [source, *bounds], self._shapes[source])

    def _matrix(self, source: str) -> None:
        shape, wide = self._shapes[source], int(self._rng.integers(1, 5))
        if len(shape) < 2 or self._moved(source):
            return
        weights = self._floats(shape[-1], wide)
        if len(shape) == 2 and self._rng.random() < 0.5:
            self._add("Gemm", [source, weights, self._floats(wide)], (shape[0], wide))
        else:
            self._add("MatMul", [source, weights], (*shape[:-1], wide))

    def _transpose(self, source: str) -> None:
        shape = self._shapes[source]
        order = self._rng.permutation(len(shape)).tolist()
        # Mostly the batch stays in front, so that more can follow.
        if self._rng.random() < 0.7:
            order = [0, *(axis for axis in order if axis)]
        before = len(self._nodes)
        self._add("Transpose", [source], tuple(shape[axis] for axis in order), perm=order)
        if order[0] and len(self._nodes) > before:
            self._batch_moved.add(self._nodes[-1].output[0])

    def _reshape(self, source: str) -> None:
        shape = self._shapes[source]
        if self._moved(source) or len(shape) < 2:
            return
        inner = list(shape[1:])
        if len(inner) > 1 and self._rng.random() < 0.5:
            at = int(self._rng.integers(0, len(inner) - 1))
            inner[at : at + 2] = [inner[at] * inner[at + 1]]
        elif 4 in inner:
            at = inner.index(4)
            inner[at : at + 1] = [2, 2]
        else:
            inner.insert(int(self._rng.integers(0, len(inner) + 1)), 1)
        target = self._constant(np.array([-1, *inner], np.int64))
        self._add("Reshape", [source, target], (shape[0], *inner))

    def _reduce(self, source: str) -> None:
        shape = self._shapes[source]
        if len(shape) < 2 or self._moved(source):
            return
        axis = int(self._rng.integers(1, len(shape)))
        keep = bool(self._rng.random() < 0.7)
        left = tuple(1 if at == axis else size for at, size in enumerate(shape)
                     if keep or at != axis)  # fmt: skip
        operator = str(self._rng.choice(("ReduceMean", "ReduceMax", "ReduceL2")))
        self._add(operator, [source], left, axes=[axis], keepdims=int(keep))

    def _power(self, source: str) -> None:
        exponent = self._constant(np.float32(self._rng.choice((1.0, 2.0, 3.0))))
        self._add("Pow", [source, exponent], self._shapes[source])

    def _convolve(self, source: str) -> None:
        shape = self._shapes[source]
        if len(shape) != 4 or self._moved(source):
            return
        wide = int(self._rng.integers(1, 5))
        weights = self._floats(wide, shape[1], 1, 1)
        pads = [int(self._rng.random() < 0.3)] * 4
        sizes = tuple(size + 2 * pads[0] for size in shape[2:])
        self._add("Conv", [source, weights], (shape[0], wide, *sizes), pads=pads)

    def _cut(self, source: str) -> None:
        shape = self._shapes[source]
        if len(shape) < 2 or self._moved(source):
            return
        axis = int(self._rng.integers(1, len(shape)))
        chosen = self._rng.integers(0, shape[axis], int(self._rng.integers(1, 4)))
        indices = self._constant(chosen.astype(np.int64))
        result = (*shape[:axis], len(chosen), *shape[axis + 1 :])
        self._add("Gather", [source, indices], result, axis=axis)

    def _moved(self, name: str) -> bool:
        """Whether the batch is not in front any more, here or in what it was made from."""
        if name in self._batch_moved:
            return True
        maker = next((node for node in self._nodes if name in node.output), None)
        return maker is not None and any(
            self._moved(source) for source in maker.input if source in self._shapes
        )
