"""A random model under way: nodes are added one by one, and each is computed at once.

A draft knows the values of everything in it, for two sets of free sizes. So a step that grows it
can look at real shapes and numbers, and what the finished model has to compute is known without
running it as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import defs, helper, numpy_helper

from converters.random_graphs.engines import Unfit, compute
from converters.random_graphs.names import NAMINGS

Array = NDArray[Any]
# How many sets of free sizes everything is computed for.
WORLDS: Final = 2
_OPSETS: Final = (7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25)
_LARGEST: Final = 20_000
_GREATEST: Final = 1e5
_LEAST: Final = 1e-3
_IR_VERSION: Final = 10


class Draft:
    """A model that grows.

    Attributes:
        rng: What all choices come from.
        opset: Of the model.
        values: What every value is, in each world.
        inputs: The declared shape of each input; a free size is a name.
        nodes: In order of execution.
    """

    def __init__(self, seed: int, opset: int | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.pick(_OPSETS)) if opset is None else opset
        self.values: dict[str, tuple[Array, ...]] = {}
        self.inputs: dict[str, tuple[int | str, ...]] = {}
        self.constants: dict[str, Array] = {}
        self.nodes: list[Any] = []
        self.outputs: list[str] = []
        # Sizes that differ, so that what depends on them is told from what does not.
        self.sizes: dict[str, tuple[int, ...]] = {
            "batch": (2, 3), "high": (7, 9), "wide": (8, 6), "steps": (4, 5),
        }  # fmt: skip
        # What is empty by chance is where engines differ; it is met in few models, on purpose.
        self.may_be_empty = False
        self._naming = self.pick(NAMINGS)

    # Choices.

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def between(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        self.require(low <= high)
        return int(self.rng.integers(low, high + 1))

    def pick(self, choices: Sequence[Any]) -> Any:
        self.require(bool(choices))
        return choices[int(self.rng.integers(len(choices)))]

    def array(self, dtype: str, shape: Sequence[int]) -> Array:
        """Numbers that stay tame: around zero, small integers."""
        if dtype == "bool":
            return np.asarray(self.rng.random(tuple(shape)) < 0.5)
        if dtype.startswith("float"):
            return np.asarray(self.rng.normal(size=tuple(shape)) * 2).astype(dtype)
        low = 0 if dtype.startswith("uint") else -9
        return np.asarray(self.rng.integers(low, 10, size=tuple(shape))).astype(dtype)

    def weights(self, *shape: int) -> str:
        """A float32 constant."""
        return self.constant((self.rng.normal(size=shape) * 0.5).astype(np.float32))

    # What is there.

    def shape(self, name: str) -> tuple[int | None, ...]:
        """The shape of a value, None where the size is free."""
        shapes = [array.shape for array in self.values[name]]
        if len({len(shape) for shape in shapes}) != 1:
            raise Unfit("its rank is free")
        return tuple(
            sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True)
        )

    def known_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value without free sizes."""
        shape = self.shape(name)
        sizes = tuple(size for size in shape if size is not None)
        if len(sizes) != len(shape):
            raise Unfit("a size is free")
        return sizes

    def rank(self, name: str) -> int:
        return len(self.shape(name))

    def dtype(self, name: str) -> str:
        return str(self.values[name][0].dtype)

    def axis(self, name: str, *, known: bool = False, least: int = 0) -> int:
        """An axis of a value, counted from either end.

        Args:
            name: Of the value.
            known: Only one whose size is not free.
            least: The size must be at least that, in all worlds.
        """
        shape = self.shape(name)
        fitting = [
            axis
            for axis, size in enumerate(shape)
            if (size is not None or not known)
            and all(array.shape[axis] >= least for array in self.values[name])
        ]
        self.require(bool(fitting))
        return int(self.pick(fitting)) - (len(shape) if self.chance(0.3) else 0)

    def require(self, condition: bool) -> None:
        """Give up the step that is under way unless this holds."""
        if not condition:
            raise Unfit("the step does not fit")

    def floats(self, name: str) -> None:
        """Give up the step that is under way unless the value is float32."""
        self.require(self.dtype(name) == "float32")

    # Growing.

    def input(
        self, shape: Sequence[int | str], dtype: str = "float32", array: Array | None = None
    ) -> str:
        """A new input; its values are random, or those of an array."""
        name = self._fresh("x")
        self.inputs[name] = tuple(shape)
        worlds = []
        for world in range(WORLDS):
            sizes = [self.sizes[s][world] if isinstance(s, str) else s for s in shape]
            worlds.append(self.array(dtype, sizes) if array is None else array)
        self.values[name] = tuple(worlds)
        return name

    def constant(self, array: Array) -> str:
        """A new constant, at times one that a node gives."""
        array = np.asarray(array)
        if self.chance(0.1):
            tensor = numpy_helper.from_array(array)
            return self.add("Constant", [], value=tensor)[0]
        name = self._fresh("c")
        self.constants[name] = array
        self.values[name] = (array,) * WORLDS
        return name

    def operand(self, array: Array, at_run_time: float = 0.15) -> str:
        """A value that is constant most of the time, and else given or computed at run time."""
        array = np.asarray(array)
        if not self.chance(at_run_time):
            return self.constant(array)
        if array.dtype.kind not in "iuf" or self.chance(0.5):
            return self.input(array.shape, str(array.dtype), array)
        half = array // 2 if array.dtype.kind in "iu" else (array / 2).astype(array.dtype)
        given = self.input(array.shape, str(array.dtype), half)
        return self.add("Add", [given, self.constant((array - half).astype(array.dtype))])[0]

    def add(
        self, operator: str, inputs: Sequence[str], outputs: int = 1, **options: Any
    ) -> list[str]:
        """Add a node.

        Args:
            operator: Its type.
            inputs: Names; "" is an input that is left out.
            outputs: How many it has.
            options: Attributes, or inputs by their name in the operator's definition: whichever
                the model's opset has. Names may say an input's value, arrays become operands.

        Raises:
            Unfit: If the opset lacks the operator or an option, or if no engine can compute it.
        """
        schema = self.schema(operator)
        given, attributes = list(inputs), {}
        places = {entry.name.lower(): place for place, entry in enumerate(schema.inputs)}
        for option, value in options.items():
            if value is None:
                continue
            named = isinstance(value, str) and value in self.values
            if option in schema.attributes:
                self.require(not named)
                attributes[option] = value.tolist() if isinstance(value, np.ndarray) else value
                continue
            self.require(option in places)
            given += [""] * (places[option] + 1 - len(given))
            given[places[option]] = value if named else self.operand(np.asarray(value))
        return self.append(operator, given, outputs, attributes)

    def append(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: int,
        attributes: Mapping[str, Any],
        captured: Sequence[str] = (),
    ) -> list[str]:
        """Add a node exactly as it is said, and compute it; `captured` is what its bodies read."""
        made = [self._fresh("v") for _ in range(outputs)]
        name = self.pick([f"node{len(self.nodes)}", "twin", ""])
        node = helper.make_node(operator, list(inputs), made, name=name, **attributes)
        results = self._compute(node, [*filter(None, inputs), *captured])
        for world in results:
            for array in world:
                self._judge(array)
        self.nodes.append(node)
        for position, output in enumerate(made):
            self.values[output] = tuple(world[position] for world in results)
        return made

    def schema(self, operator: str) -> Any:
        """The definition of an operator in the model's opset."""
        try:
            schema: Any = defs.get_schema(operator, self.opset, "")
        except defs.SchemaError as error:
            raise Unfit(f"no {operator} in opset {self.opset}") from error
        self.require(not schema.deprecated)
        return schema

    def mark(self) -> tuple[int, int, int, int]:
        """Where the draft is now."""
        return len(self.nodes), len(self.inputs), len(self.constants), len(self.values)

    def back_to(self, mark: tuple[int, int, int, int]) -> None:
        """Forget what was added since then."""
        nodes, inputs, constants, values = mark
        del self.nodes[nodes:]
        entries: tuple[dict[str, Any], ...] = (self.inputs, self.constants, self.values)
        for kept, count in zip(entries, (inputs, constants, values), strict=True):
            for name in list(kept)[count:]:
                del kept[name]

    # The result.

    def model(self) -> Any:
        """The model, with the shapes of its outputs inferred."""
        graph = helper.make_graph(
            self.nodes,
            "random",
            [
                helper.make_tensor_value_info(name, self._element_type(name), list(shape))
                for name, shape in self.inputs.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in self.outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=_IR_VERSION
        )
        model = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
        del model.graph.value_info[:]
        for output in model.graph.output:
            if not output.type.tensor_type.HasField("shape"):
                # An exporter has run the model and knows more.
                known = helper.make_tensor_value_info(
                    output.name, self._element_type(output.name), self.shape(output.name)
                )
                output.CopyFrom(known)
        onnx.checker.check_model(model)
        return model

    def feeds(self, world: int) -> dict[str, Array]:
        """The inputs of one world."""
        return {name: self.values[name][world] for name in self.inputs}

    def expected(self, world: int) -> dict[str, Array]:
        """The outputs that belong to them."""
        return {name: self.values[name][world] for name in self.outputs}

    def _element_type(self, name: str) -> int:
        return int(helper.np_dtype_to_tensor_dtype(self.values[name][0].dtype))

    def _compute(self, node: Any, read: Sequence[str]) -> list[list[Array]]:
        names = list(dict.fromkeys(read))
        fixed = {name: self.constants[name] for name in names if name in self.constants}
        feeds = [
            {name: self.values[name][world] for name in names if name not in fixed}
            for world in range(WORLDS)
        ]
        return compute(node, self.opset, fixed, feeds)

    def _judge(self, array: Array) -> None:
        self.require(isinstance(array, np.ndarray) and array.size <= _LARGEST)
        self.require(array.size > 0 or self.may_be_empty)
        if array.dtype.kind == "f" and array.size:
            wide = np.abs(array.astype(np.float64))
            # Nor so small that nothing but the rounding before is left.
            self.require(bool(np.isfinite(wide).all()) and _LEAST <= float(wide.max()) <= _GREATEST)

    def _fresh(self, kind: str) -> str:
        name = self._naming(kind, len(self.values))
        while name in self.values:
            name += "_"
        # Taken at once: a node has several outputs.
        self.values[name] = ()
        return str(name)
