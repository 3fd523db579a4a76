"""Where the schema keeps an operator's options, and what the fields in it mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.litert.types import tensor_type

if TYPE_CHECKING:
    from edgekit_converters.litert.program import Operator

# Most tables are named after their operator; these are shared, or are spelt otherwise.
_TABLES: Final = {
    "ATAN2": "ATan2Options",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "BATCH_TO_SPACE_ND": "BatchToSpaceNDOptions",
    "CONV_2D": "Conv2DOptions",
    "CONV_3D": "Conv3DOptions",
    "CONV_3D_TRANSPOSE": "Conv3DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "L2_NORMALIZATION": "L2NormOptions",
    "L2_POOL_2D": "Pool2DOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "PADV2": "PadV2Options",
    "REDUCE_ALL": "ReducerOptions",
    "REDUCE_ANY": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions",
    "SPACE_TO_BATCH_ND": "SpaceToBatchNDOptions",
    "SUM": "ReducerOptions",
    "TOPK_V2": "TopKV2Options",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTMOptions",
}
# Fields that hold a member of an enumeration, by its name.
_ENUMERATIONS: Final = {
    "padding": "Padding",
    "fusedActivationFunction": "ActivationFunctionType",
    "weightsFormat": "FullyConnectedOptionsWeightsFormat",
    "mode": "MirrorPadMode",
    "reduceFunction": "ReduceWindowFunction",
    "kernelType": "LSTMKernelType",
}
# Fields that hold a tensor's element type, here as a numpy type name.
_TYPES: Final = frozenset({"inDataType", "outDataType", "outType", "outputType", "idxOutType"})


def write_options(schema: Any, written: Any, operator: Operator, bodies: dict[str, int]) -> None:
    """Fill the options table of an `OperatorT`.

    Args:
        schema: LiteRT's generated schema module.
        written: The `OperatorT`; left alone where the operator has no options.
        operator: What it says.
        bodies: The subgraphs of the operator's bodies, by the field that names them.
    """
    named = "".join(part.capitalize() for part in operator.code.split("_")) + "Options"
    table = _TABLES.get(operator.code, named)
    # Tables that came after the first union was full stand in a second one.
    if hasattr(schema.BuiltinOptions, table):
        union, prefix = schema.BuiltinOptions, "builtinOptions"
    elif hasattr(schema.BuiltinOptions2, table):
        union, prefix = schema.BuiltinOptions2, "builtinOptions2"
    else:
        return
    options = getattr(schema, f"{table}T")()
    for field, value in (*operator.options.items(), *bodies.items()):
        if not hasattr(options, field):
            raise AttributeError(f"{table} has no field {field!r}")
        setattr(options, field, _member(schema, field, value))
    setattr(written, f"{prefix}Type", getattr(union, table))
    setattr(written, prefix, options)


def _member(schema: Any, field: str, value: object) -> object:
    if field in _TYPES:
        return getattr(schema.TensorType, tensor_type(str(value)))
    enumeration = _ENUMERATIONS.get(field)
    return getattr(getattr(schema, enumeration), str(value)) if enumeration else value
