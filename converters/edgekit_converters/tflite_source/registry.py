"""Which function imports which LiteRT operator, and the walk over a model that calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.tflite_source.border import element_type, value_info
from edgekit_converters.tflite_source.builder import Builder
from edgekit_converters.tflite_source.emission import Emission
from edgekit_converters.tflite_source.values import RefusedOperatorError, TensorValues, identity
from edgekit_runtime.errors import UnsupportedModelError

if TYPE_CHECKING:
    from edgekit_converters.tflite_source.model import Model, Operator

ImportFunction = Callable[[Builder], None]

_STATEFUL: Final = frozenset(
    {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE", "SVDF", "RNN", "LSTM"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """How one LiteRT operator is imported.

    Attributes:
        function: Emits ONNX nodes, or raises `RefusedOperatorError` with the reason.
        inputs: The least and the most inputs that it has.
        options: The schema's table of its options, or empty where it needs none.
        moves: Whether it only moves numbers, so that it may work on the integers themselves
            where all its tensors mean the same numbers by them.
    """

    function: ImportFunction
    inputs: tuple[int, int]
    options: str
    moves: bool


# What a damaged file says about shapes, axes and options need not make sense.
_CONTRADICTIONS: Final = (ArithmeticError, LookupError, TypeError, ValueError)

_REGISTRY: dict[str, Importer] = {}


def imports(
    *codes: str, inputs: tuple[int, int], options: str = "", moves: bool = False
) -> Callable[[ImportFunction], ImportFunction]:
    """Register a function as the importer of these LiteRT operators."""

    def register(function: ImportFunction) -> ImportFunction:
        for code in codes:
            _REGISTRY[code] = Importer(
                function=function, inputs=inputs, options=options, moves=moves
            )
        return function

    return register


def registered() -> Mapping[str, Importer]:
    """Every importer, by its LiteRT operator."""
    return _REGISTRY


def import_graph(model: Model, *, where: str) -> Any:
    """Say a whole model in ONNX's operators.

    Returns:
        An `onnx.GraphProto`.

    Raises:
        UnsupportedModelError: Naming every operator that cannot be imported, and why.
    """
    from onnx import helper

    emission = Emission(tensor.name for tensor in (*model.inputs, *model.outputs))
    values = TensorValues(model, emission)
    faults = [
        f"{tensor.name} ({tensor.dtype}): ONNX has no such type"
        for tensor in (*model.inputs, *model.outputs)
        if not element_type(tensor.dtype)
    ]
    for operator in model.operators:
        reason = _refusal(operator) or _import(operator, values, emission)
        if reason:
            faults.append(f"{operator.name} ({operator.code}): {reason}")
            # So that the operators behind it are looked at, too.
            for tensor in operator.outputs:
                values.bind(tensor, tensor.name, identity(tensor.rank))
    if not faults:
        try:
            outputs = values.outputs()
        except RefusedOperatorError as refusal:
            faults.append(f"the output: {refusal}")
        except _CONTRADICTIONS as error:
            faults.append(f"the output: its parts contradict each other: {error}")
    if faults:
        raise UnsupportedModelError(
            f"{len(faults)} part(s) of the model cannot be converted to ONNX: " + "; ".join(faults),
            where=where,
            fix="convert the model that this file was made from instead",
        )
    inputs = [value_info(model, tensor, tensor.name) for tensor in model.inputs]
    return helper.make_graph(emission.nodes, model.name, inputs, outputs, emission.initializers)


def _refusal(operator: Operator) -> str:
    """What can be refused by the operator's name, options and operands alone."""
    importer = _REGISTRY.get(operator.code)
    if importer is None:
        if operator.code in _STATEFUL:
            return "it keeps a state from one inference to the next, which an ONNX model cannot"
        return "no ONNX equivalent is known"
    least, most = importer.inputs
    if not least <= len(operator.inputs) <= most:
        return f"it has {len(operator.inputs)} inputs, supported: {least} to {most}"
    if importer.options and operator.options_table not in {"", importer.options}:
        return f"its options are those of another operator: {operator.options_table}"
    if not operator.outputs:
        return "it has no output"
    return ""


def _import(operator: Operator, values: TensorValues, emission: Emission) -> str:
    """Import one operator; returns the reason where it cannot be."""
    importer = _REGISTRY[operator.code]
    twice = [tensor.name for tensor in operator.outputs if values.knows(tensor)]
    if twice:
        return f"it writes {twice[0]!r} a second time"
    try:
        importer.function(Builder(operator, values, emission, moves=importer.moves))
    except RefusedOperatorError as refusal:
        return str(refusal)
    except _CONTRADICTIONS as error:
        return f"its parts contradict each other: {error}"
    missing = [tensor.name for tensor in operator.outputs if not values.knows(tensor)]
    return f"its output {missing[0]!r} is not supported" if missing else ""
