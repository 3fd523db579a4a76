"""What a user may say about a source besides its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.sources.kind import (
    TAKES_EXAMPLES,
    TAKES_TRUST,
    SourceKind,
)
from edgekit_runtime.arrays import read_arrays
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import require_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SEED: Final = 20240229
_MAX_ELEMENTS: Final = 1 << 28
_DTYPES: Final = (
    "float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class InputShape:
    """An example input by its shape alone.

    Attributes:
        name: Of the input; "" where the model has only one.
        sizes: One entry an axis, the batch first.
        dtype: A numpy type name.
    """

    name: str
    sizes: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Everything that helps to read a source.

    Attributes:
        shapes: Example inputs by their shapes.
        example: Example inputs: an `.npz` with an array an input.
        weights: A state dict, for a PyTorch factory.
        trust_pickle: Whether code in the file may run.
    """

    shapes: tuple[InputShape, ...] = ()
    example: Path | None = None
    weights: Path | None = None
    trust_pickle: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, which `from_json` reads."""
        return {
            "shapes": [asdict(shape) for shape in self.shapes],
            "example": str(self.example) if self.example else None,
            "weights": str(self.weights) if self.weights else None,
            "trust_pickle": self.trust_pickle,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SourceOptions:
        """What `to_json` wrote."""
        return cls(
            shapes=tuple(
                InputShape(name=item["name"], sizes=tuple(item["sizes"]), dtype=item["dtype"])
                for item in document["shapes"]
            ),
            example=Path(document["example"]) if document["example"] else None,
            weights=Path(document["weights"]) if document["weights"] else None,
            trust_pickle=bool(document["trust_pickle"]),
        )


def parse_input_shape(text: str) -> InputShape:
    """Read `NAME:1,3,224,224`, `NAME:1,128:int64`, or without the name for a single input.

    Raises:
        UsageError: If it has another form, or a size or type that cannot be.
    """
    head, _, dtype = text.rpartition(":")
    if dtype.strip() not in _DTYPES:
        head, dtype = text, "float32"
    name, _, sizes = head.rpartition(":")
    try:
        numbers = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1 or int(np.prod(numbers, dtype=object)) > _MAX_ELEMENTS:
        raise UsageError(
            f"{text!r} is no input shape",
            where="input-shape",
            fix="write NAME:1,3,224,224, with the batch first, for integers NAME:1,128:int64; "
            f"types: {', '.join(_DTYPES)}",
        )
    return InputShape(name=name.strip(), sizes=numbers, dtype=dtype.strip())


def check_options(kind: SourceKind, options: SourceOptions, *, where: str) -> None:
    """Refuse options that mean nothing for a kind of source, and files that are not there.

    Raises:
        UsageError: Naming all of them.
    """
    faults = []
    if options.shapes and options.example:
        faults.append("--input-shape and --example both say what the inputs are")
    if (options.shapes or options.example) and kind not in TAKES_EXAMPLES:
        faults.append("--input-shape and --example: this file says itself what its inputs are")
    if options.weights and kind is not SourceKind.TORCH_FACTORY:
        faults.append("--weights is for package.module:factory; this file has its weights in it")
    if options.trust_pickle and kind not in TAKES_TRUST:
        faults.append("--trust-pickle: nothing in a file of this kind is executed")
    if faults:
        raise UsageError("; ".join(faults), where=where, fix="leave the option out")
    for path, what in ((options.example, "the example inputs"), (options.weights, "the weights")):
        if path is not None:
            require_file(path, kind=what)


def example_inputs(
    options: SourceOptions, parameters: Sequence[str], *, where: str
) -> dict[str, NDArray[np.generic]]:
    """The example inputs that the options describe.

    Args:
        options: With shapes, or with the path of an `.npz`.
        parameters: The names that the model itself has for its inputs, in its order.
        where: The source, for errors.

    Returns:
        An array for each input that was given, in the model's order.

    Raises:
        UsageError: If there are none, a name is unknown, or a file cannot be read.
    """
    if options.example is None and not options.shapes:
        raise UsageError(
            "this model does not say what its inputs look like",
            where=where,
            fix=f"its forward() takes {', '.join(parameters)}: give "
            + " ".join(f"--input-shape {name}:1,..." for name in parameters)
            + ", with all sizes, the batch first; or --example inputs.npz with an array for each",
        )
    if options.example is not None:
        given: Mapping[str, NDArray[np.generic]] = read_arrays(options.example, kind="examples")
    else:
        rng = np.random.default_rng(_SEED)
        given = {shape.name: _random(rng, shape) for shape in options.shapes}
        if len(given) < len(options.shapes):
            raise UsageError("an input shape is given twice", where="input-shape")
    if len(given) == 1 and len(parameters) == 1 and "" in given:
        return {parameters[0]: next(iter(given.values()))}
    unknown = [name or "(no name)" for name in given if name not in parameters]
    if unknown:
        raise UsageError(
            f"the model has no input {', '.join(map(repr, unknown))}",
            where=where,
            fix=f"its inputs are, in this order: {', '.join(parameters)}",
        )
    flat = [name for name, array in given.items() if array.ndim == 0]
    if flat:
        raise UsageError(
            f"the example of {', '.join(map(repr, flat))} has no axis", where=where,
            fix="the first axis is the batch",
        )  # fmt: skip
    return {name: np.ascontiguousarray(given[name]) for name in parameters if name in given}


def _random(rng: np.random.Generator, shape: InputShape) -> NDArray[np.generic]:
    if np.dtype(shape.dtype).kind == "f":
        return rng.standard_normal(shape.sizes).astype(shape.dtype)
    # Zeros and ones are valid wherever integers are: as indices, as masks, as labels.
    return rng.integers(0, 2, shape.sizes).astype(shape.dtype)
