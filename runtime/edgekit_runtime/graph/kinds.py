"""What each operator of either format costs: its class, by type.

The classes are those that latency measurements are calibrated on; `workload` counts them.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from edgekit_runtime.graph.model import Operator


class Kind(Enum):
    """How an operator is counted."""

    CONVOLUTION = "convolution"
    TRANSPOSED = "transposed convolution"
    DENSE = "dense"
    RECURRENT = "recurrent"
    POOL = "pool"
    ACTIVATION = "activation"
    ELEMENTWISE = "elementwise"
    SHAPE_ONLY = "shape only"
    CAST = "quantize or dequantize"
    OTHER = "other"


def _types(kind: Kind, names: str) -> dict[str, Kind]:
    return dict.fromkeys(names.split(), kind)


KINDS: Final[dict[str, Kind]] = (
    _types(
        Kind.CONVOLUTION,
        "Conv FusedConv ConvInteger QLinearConv CONV_2D CONV_3D DEPTHWISE_CONV_2D",
    )
    | _types(Kind.TRANSPOSED, "ConvTranspose TRANSPOSE_CONV CONV_3D_TRANSPOSE")
    | _types(
        Kind.DENSE,
        "Gemm FusedGemm QGemm MatMul FusedMatMul MatMulInteger QLinearMatMul MatMulNBits "
        "FULLY_CONNECTED BATCH_MATMUL",
    )
    | _types(
        Kind.RECURRENT,
        "LSTM GRU RNN UNIDIRECTIONAL_SEQUENCE_LSTM UNIDIRECTIONAL_SEQUENCE_RNN "
        "BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN SVDF",
    )
    | _types(
        Kind.POOL,
        "MaxPool AveragePool GlobalAveragePool GlobalMaxPool QLinearAveragePool "
        "QLinearGlobalAveragePool ReduceMean AVERAGE_POOL_2D MAX_POOL_2D L2_POOL_2D MEAN",
    )
    | _types(
        Kind.ACTIVATION,
        "Relu Clip LeakyRelu BatchNormalization RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 LEAKY_RELU",
    )
    | _types(
        Kind.SHAPE_ONLY,
        "Reshape Flatten Squeeze Unsqueeze Identity Dropout Shape Constant ConstantOfShape Size "
        "RESHAPE SQUEEZE EXPAND_DIMS SHAPE RANK",
    )
    | _types(
        Kind.CAST,
        "QuantizeLinear DequantizeLinear DynamicQuantizeLinear Cast QUANTIZE DEQUANTIZE CAST "
        "FAKE_QUANT",
    )
    | _types(
        Kind.ELEMENTWISE,
        "Add Sub Mul Div Pow Sqrt Exp Log Abs Neg Erf Tanh Sigmoid Softmax LogSoftmax HardSigmoid "
        "HardSwish Gelu Elu Selu Softplus PRelu Concat Sum Max Min LRN QLinearAdd QLinearMul "
        "QLinearConcat QLinearSigmoid QLinearSoftmax QLinearLeakyRelu LayerNormalization "
        "InstanceNormalization Split Slice Transpose Gather Pad Resize Upsample Where "
        "ADD SUB MUL DIV POW SQRT RSQRT EXP LOG ABS NEG TANH LOGISTIC SOFTMAX LOG_SOFTMAX "
        "HARD_SWISH GELU ELU PRELU CONCATENATION SUM MAXIMUM MINIMUM SQUARED_DIFFERENCE SQUARE "
        "LOCAL_RESPONSE_NORMALIZATION SPLIT SPLIT_V STRIDED_SLICE SLICE TRANSPOSE GATHER PAD "
        "PADV2 MIRROR_PAD RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SELECT SELECT_V2 PACK UNPACK",
    )
)


def kind_of(operator: Operator) -> Kind:
    """The class of an operator; OTHER for one that nothing is known about.

    Contributed operators of onnxruntime's own domain are known by their type.
    """
    return KINDS.get(operator.type, Kind.OTHER)
