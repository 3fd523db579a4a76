"""What the attributes of ONNX's own operators may be, where the engines check too little.

A stride of zero divides by zero inside an engine, and an unknown mode is silently taken for
another one. The ranges are those of https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS
from edgekit_converters.onnx_source.tensors import type_name
from edgekit_converters.onnx_source.walk import label, scopes

# What is wrong with a value, in words that follow "allowed:", or "" where nothing is.
Rule = Callable[[Any], str]

# Sizes and steps are 32-bit in the kernels; sums of a few of them stay below 64 bits.
_MAX_SIZE: Final = 2**31 - 1
# Words that are counted together; onnxruntime goes through all distances between them.
_MAX_GRAM: Final = 1000
_EQUATION: Final = re.compile(r"(?:[A-Za-z ]|,|->|\.\.\.){1,256}")


def between(least: float, most: float) -> Rule:
    """Numbers, or lists of numbers, within bounds."""
    text = f"{least} or more" if most == _MAX_SIZE else f"{least} to {most}"
    return lambda value: "" if all(least <= item <= most for item in _items(value)) else text


def one_of(*choices: object) -> Rule:
    """One of some texts or numbers."""
    text = " or ".join(str(choice) for choice in choices)
    return lambda value: "" if value in choices else text


def each_of(*choices: str) -> Rule:
    """A list of some texts, upper and lower case alike."""
    known = {choice.lower() for choice in choices}
    text = "a list of " + ", ".join(choices)
    return lambda value: "" if all(str(item).lower() in known for item in value) else text


def _finite(value: Any) -> str:
    return "" if all(math.isfinite(item) for item in _items(value)) else "finite numbers"


def _positive(value: Any) -> str:
    fits = all(math.isfinite(item) and item > 0 for item in _items(value))
    return "" if fits else "finite numbers above 0"


def _scale(value: Any) -> str:
    return "" if all(0 < item < _MAX_SIZE for item in _items(value)) else "above 0 and below 2**31"


def _permutation(value: Any) -> str:
    fits = sorted(value) == list(range(len(value)))
    return "" if fits else f"each of the axes 0 to {len(value) - 1} once"


def _distinct(value: Any) -> str:
    return "" if len(set(value)) == len(value) else "each axis once"


def _equation(value: Any) -> str:
    # onnx 1.23 never comes back from an equation with other characters.
    fits = isinstance(value, str) and _EQUATION.fullmatch(value) and value.count("->") <= 1
    return "" if fits else "letters, commas, '...' and one '->'"


def _element_type(value: Any) -> str:
    return "" if type_name(value) not in {"", "UNDEFINED"} else "an element type that exists"


_SIZES: Final = between(1, _MAX_SIZE)
_COUNTS: Final = between(0, _MAX_SIZE)
_FLAG: Final = one_of(0, 1)
_AXES: Final = between(-32, 31)
_RECURRENT: Final = (
    "Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh",
    "HardSigmoid", "Elu", "Softsign", "Softplus",
)  # fmt: skip

# Attributes that mean the same wherever they occur.
_ANYWHERE: Final[Mapping[str, Rule]] = {
    "align_corners": _FLAG,
    "allowzero": _FLAG,
    "antialias": _FLAG,
    "approximate": one_of("none", "tanh"),
    "auto_pad": one_of("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"),
    "axes": _AXES,
    "axis": _AXES,
    "batch_axis": _AXES,
    "batch_dims": between(0, 31),
    "block_size": _COUNTS,
    "blocksize": _SIZES,
    "ceil_mode": _FLAG,
    "center_point_box": _FLAG,
    "clip": _positive,
    "count_include_pad": _FLAG,
    "dilations": _SIZES,
    "directions": one_of(0, 1),
    "dtype": _element_type,
    "epsilon": between(0.0, 1e6),
    "exclude_outside": _FLAG,
    "exclusive": _FLAG,
    "fmod": _FLAG,
    "group": _SIZES,
    "hidden_size": _SIZES,
    "input_forget": _FLAG,
    "interleaved": _FLAG,
    "is_causal": _FLAG,
    "keep_aspect_ratio_policy": one_of("stretch", "not_larger", "not_smaller"),
    "keepdims": _FLAG,
    "kernel_shape": _SIZES,
    "kv_num_heads": _COUNTS,
    "largest": _FLAG,
    "layout": _FLAG,
    "linear_before_reset": _FLAG,
    "nearest_mode": one_of("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
    "noop_with_empty_axes": _FLAG,
    "num_groups": _SIZES,
    "num_heads": _COUNTS,
    "num_outputs": _SIZES,
    "offset_group": _SIZES,
    "output_height": _SIZES,
    "output_padding": _COUNTS,
    "output_shape": _COUNTS,
    "output_width": _SIZES,
    "perm": _permutation,
    "pooled_shape": _SIZES,
    "q_num_heads": _COUNTS,
    "qk_matmul_output_mode": between(0, 3),
    "sample_size": _SIZES,
    "sampling_ratio": _COUNTS,
    "round_mode": one_of("up", "down", "nearest"),
    "saturate": _FLAG,
    "sorted": _FLAG,
    "spatial_scale": _positive,
    "split": _COUNTS,
    "storage_order": _FLAG,
    "strides": _SIZES,
    "time_axis": _AXES,
    "to": _element_type,
    "training_mode": _FLAG,
    "update_rule": one_of("linear", "gated", "delta", "gated_delta"),
}

# Attributes whose meaning depends on the operator.
_BY_OPERATOR: Final[Mapping[tuple[str, str], Rule]] = {
    **{(op, "direction"): one_of("forward", "reverse", "bidirectional")
       for op in ("RNN", "GRU", "LSTM")},
    **{(op, "activations"): each_of(*_RECURRENT) for op in ("RNN", "GRU", "LSTM")},
    **{(op, name): _finite for op in ("RNN", "GRU", "LSTM")
       for name in ("activation_alpha", "activation_beta")},
    **{(op, "alpha"): _finite
       for op in ("Elu", "Gemm", "HardSigmoid", "LRN", "LeakyRelu", "Selu", "Swish",
                  "ThresholdedRelu")},
    **{(op, "beta"): _finite for op in ("Gemm", "HardSigmoid", "LRN")},
    **{(op, "pads"): _COUNTS
       for op in ("AveragePool", "Col2Im", "Conv", "ConvInteger", "ConvTranspose", "DeformConv",
                  "LpPool", "MaxPool", "MaxUnpool", "QLinearConv")},
    **{(op, "p"): between(1, _MAX_SIZE) for op in ("LpPool", "GlobalLpPool")},
    **{(op, "reverse"): _FLAG for op in ("CumSum", "CumProd")},
    ("BitShift", "direction"): one_of("LEFT", "RIGHT"),
    ("Celu", "alpha"): _positive,
    ("DepthToSpace", "mode"): one_of("DCR", "CRD"),
    ("Dropout", "ratio"): between(0.0, 1.0),
    ("Einsum", "equation"): _equation,
    ("GridSample", "mode"): one_of("bilinear", "nearest", "bicubic", "linear", "cubic"),
    ("GridSample", "padding_mode"): one_of("zeros", "border", "reflection"),
    ("LRN", "bias"): _finite,
    ("LRN", "size"): _SIZES,
    ("LpNormalization", "p"): one_of(1, 2),
    ("Pad", "mode"): one_of("constant", "reflect", "edge", "wrap"),
    ("Pad", "pads"): between(-_MAX_SIZE, _MAX_SIZE),
    ("Resize", "coordinate_transformation_mode"): one_of(
        "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
        "tf_crop_and_resize", "tf_half_pixel_for_nn",
    ),
    ("Resize", "cubic_coeff_a"): _finite,
    ("Resize", "mode"): one_of("nearest", "linear", "cubic"),
    ("RoiAlign", "coordinate_transformation_mode"): one_of("half_pixel", "output_half_pixel"),
    ("RoiAlign", "mode"): one_of("avg", "max"),
    ("ScatterElements", "reduction"): one_of("none", "add", "mul", "max", "min"),
    ("ScatterND", "reduction"): one_of("none", "add", "mul", "max", "min"),
    ("Selu", "gamma"): _finite,
    ("Shrink", "bias"): _finite,
    ("Shrink", "lambd"): _finite,
    ("SpaceToDepth", "mode"): one_of("DCR", "CRD"),
    ("TfIdfVectorizer", "max_gram_length"): between(1, _MAX_GRAM),
    ("TfIdfVectorizer", "max_skip_count"): between(0, _MAX_GRAM),
    ("TfIdfVectorizer", "min_gram_length"): between(1, _MAX_GRAM),
    ("TopK", "k"): _SIZES,
    ("Trilu", "upper"): _FLAG,
    ("Upsample", "mode"): one_of("nearest", "linear", "bilinear"),
    ("Upsample", "scales"): _scale,
    ("Upsample", "height_scale"): _scale,
    ("Upsample", "width_scale"): _scale,
}  # fmt: skip


def attribute_faults(model: Any) -> list[str]:
    """Every attribute whose value its operator cannot have, with the node and what is allowed."""
    faults = []
    for scope in scopes(model):
        for node in scope.body.node:
            if node.domain in STANDARD_DOMAINS:
                faults += [scope.at(f"{label(node)}: {fault}") for fault in _faults_of(node)]
    return faults


def attribute_value(attribute: Any) -> Any:
    """A number, a text, or a list of these; None for any other kind."""
    kinds = type(attribute)
    value: Any = None
    match attribute.type:
        case kinds.INT:
            value = attribute.i
        case kinds.FLOAT:
            value = attribute.f
        case kinds.STRING:
            value = attribute.s.decode("utf-8", "replace")
        case kinds.INTS:
            value = list(attribute.ints)
        case kinds.FLOATS:
            value = list(attribute.floats)
        case kinds.STRINGS:
            value = [text.decode("utf-8", "replace") for text in attribute.strings]
    return value


def _faults_of(node: Any) -> list[str]:
    faults = []
    for attribute in node.attribute:
        name = attribute.name
        rule = _BY_OPERATOR.get((node.op_type, name)) or _ANYWHERE.get(name)
        value = attribute_value(attribute)
        if rule is None or value is None or attribute.ref_attr_name:
            continue
        try:
            allowed = rule(value)
        except TypeError:
            # A text where a number belongs, or the like.
            allowed = "a value of another kind"
        if not allowed and name == "axes" and isinstance(value, list):
            allowed = _distinct(value)
        if allowed:
            shown = repr(value) if isinstance(value, str) else value
            faults.append(f"{name} is {shown}, allowed: {allowed}")
    return faults


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]
