"""Activations that exporters write out: Gelu, HardSwish, HardSigmoid, Softplus.

Swish, x * Sigmoid(x), and Mish stay as they are written: no standard operator of the opsets in use
is quantized better than their parts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.patterns.arithmetic import (
    Product,
    bounds,
    close,
    number_attribute,
    other_input,
    product_of,
    with_scalar,
)
from edgekit_converters.patterns.graph import Rewrite
from edgekit_converters.patterns.registry import recognises

if TYPE_CHECKING:
    from edgekit_converters.patterns.graph import PatternGraph

_ROOT_HALF: Final = math.sqrt(0.5)
_TANH_SCALE: Final = math.sqrt(2 / math.pi)
_TANH_CUBE: Final = 0.044715
_CUBE: Final = 3
# log(1 + exp(17)) and 17 are one float32.
_SOFTPLUS_IS_LINE: Final = 17.0
_MAX_CLIMB: Final = 3


@recognises("Erf", opset=20)
def exact_gelu(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Half of x times 1 + erf(x / sqrt(2)) or 1 - erf(-x / sqrt(2)), in every order of factors."""
    inner = product_of(graph, node.input[0])
    if len(inner.factors) != 1:
        return None
    for sign in (1, -1):
        if close(inner.scale, sign * _ROOT_HALF):
            return _gelu(graph, node, inner.factors[0], inner.nodes, "none", sign)
    return None


@recognises("Tanh", opset=20)
def tanh_gelu(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Half of x times 1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)), in every order."""
    inner = product_of(graph, node.input[0])
    for number, name in enumerate(inner.factors):
        total = graph.producer(name, "Add")
        if total is None or graph.uses(name) != 1:
            continue
        rest = inner.factors[:number] + inner.factors[number + 1 :]
        found = _cubic(graph, total, rest, inner.scale)
        if found is not None:
            source, nodes = found
            return _gelu(graph, node, source, (*inner.nodes, total, *nodes), "tanh", 1)
    return None


def _cubic(
    graph: PatternGraph, total: Any, rest: tuple[str, ...], scale: float
) -> tuple[str, tuple[Any, ...]] | None:
    """Read scale * rest * (a + b) as sqrt(2 / pi) * (x + 0.044715 * x**3)."""
    terms = []
    for name in total.input:
        number = graph.scalar(name)
        terms.append(
            Product(scale=number, factors=(), nodes=())
            if number is not None
            else product_of(graph, name)
        )
    line, cube = sorted(terms, key=lambda term: len(term.factors))
    line_factors, cube_factors = (tuple(sorted(rest + term.factors)) for term in (line, cube))
    if len(line_factors) != 1 or cube_factors != line_factors * _CUBE:
        return None
    if not close(scale * line.scale, _TANH_SCALE):
        return None
    if not close(scale * cube.scale, _TANH_SCALE * _TANH_CUBE):
        return None
    return line_factors[0], (*line.nodes, *cube.nodes)


def _gelu(
    graph: PatternGraph,
    node: Any,
    source: str,
    nodes: tuple[Any, ...],
    approximate: str,
    sign: int,
) -> Rewrite | None:
    from onnx import helper

    plus = _one_plus(graph, node.output[0], sign)
    if plus is None or not graph.is_float(source):
        return None
    total, share, between = plus
    top = total
    for _ in range(_MAX_CLIMB):
        reader = graph.sole_reader(top, "Mul")
        if reader is None:
            return None
        top = reader.output[0]
        product = product_of(graph, top, whole=True)
        if product.factors != tuple(sorted((source, total))):
            continue
        if close(product.scale * share, 0.5) and graph.same_rank(source, top):
            attributes = {} if approximate == "none" else {"approximate": approximate}
            gelu = helper.make_node("Gelu", [source], [top], name=reader.name, **attributes)
            return Rewrite(removes=[*nodes, node, *between, *product.nodes], adds=[gelu])
    return None


def _one_plus(
    graph: PatternGraph, name: str, sign: int
) -> tuple[str, float, tuple[Any, ...]] | None:
    """Follow a value to share * (1 + sign * value): the sum, the share, and what computes it."""
    share, nodes = 1.0, []
    reader = graph.sole_reader(name, "Mul", "Add", "Sub")
    if reader is not None and reader.op_type == "Mul":
        pair = with_scalar(graph, reader)
        if pair is None:
            return None
        share = pair[1]
        nodes.append(reader)
        name = reader.output[0]
        reader = graph.sole_reader(name, "Add", "Sub")
    if reader is None:
        return None
    if reader.op_type == "Sub":
        whole = (
            reader.input[1] == name and sign == -1 and close(graph.scalar(reader.input[0]), share)
        )
    else:
        whole = sign == 1 and other_input(graph, reader, share) is not None
    return (reader.output[0], share, (*nodes, reader)) if whole else None


@recognises("Mul", opset=14)
def hard_swish(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Times x: Clip(x + 3, 0, 6) / 6, or HardSigmoid(x) with the slope of a sixth."""
    from onnx import helper

    product = product_of(graph, node.output[0], whole=True)
    if len(product.factors) != 2 or not graph.is_float(node.output[0]):  # noqa: PLR2004 - x, gate
        return None
    for source, gate in (product.factors, product.factors[::-1]):
        nodes: tuple[Any, ...] = ()
        sigmoid = graph.producer(gate, "HardSigmoid")
        if sigmoid is not None and sigmoid.input[0] == source and close(product.scale, 1.0):
            slope = number_attribute(sigmoid, "alpha", 0.2)
            if close(slope, 1 / 6) and close(number_attribute(sigmoid, "beta", 0.5), 0.5):
                nodes = (sigmoid,)
        elif close(product.scale, 1 / 6):
            shifted = _clipped_shift(graph, gate)
            if shifted is not None and shifted[0] == source:
                nodes = shifted[1]
        if nodes and graph.same_rank(source, node.output[0]):
            swish = helper.make_node("HardSwish", [source], node.output, name=node.name)
            return Rewrite(removes=[*nodes, *product.nodes], adds=[swish])
    return None


@recognises("Mul")
def hard_sigmoid(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Clip(x + 3, 0, 6) / 6."""
    from onnx import helper

    pair = with_scalar(graph, node)
    if pair is None or not close(pair[1], 1 / 6):
        return None
    shifted = _clipped_shift(graph, pair[0])
    if shifted is None or not graph.same_rank(shifted[0], node.output[0]):
        return None
    sigmoid = helper.make_node(
        "HardSigmoid", [shifted[0]], node.output, name=node.name, alpha=1 / 6, beta=0.5
    )
    return Rewrite(removes=[*shifted[1], node], adds=[sigmoid])


@recognises("Clip")
def hard_sigmoid_of_line(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Clip(a * x + b, 0, 1)."""
    from onnx import helper

    total = graph.producer(node.input[0], "Add")
    if total is None or graph.uses(node.input[0]) != 1 or bounds(graph, node) != (0.0, 1.0):
        return None
    shifted = with_scalar(graph, total)
    if shifted is None:
        return None
    line = product_of(graph, shifted[0])
    if len(line.factors) != 1 or not line.nodes or not graph.is_float(line.factors[0]):
        return None
    if not graph.same_rank(line.factors[0], node.output[0]):
        return None
    sigmoid = helper.make_node(
        "HardSigmoid", line.factors, node.output, name=node.name,
        alpha=line.scale, beta=shifted[1],
    )  # fmt: skip
    return Rewrite(removes=[*line.nodes, total, node], adds=[sigmoid])


def _clipped_shift(graph: PatternGraph, name: str) -> tuple[str, tuple[Any, ...]] | None:
    """Read a value as Clip(x + 3, 0, 6)."""
    clip = graph.producer(name, "Clip")
    if clip is None or bounds(graph, clip) != (0.0, 6.0):
        return None
    shift = graph.producer(clip.input[0], "Add")
    source = None if shift is None else other_input(graph, shift, 3.0)
    return None if source is None else (source, (shift, clip))


@recognises("Log")
def softplus(graph: PatternGraph, node: Any) -> Rewrite | None:
    """log(1 + exp(x)), which overflows where Softplus does not."""
    from onnx import helper

    total = graph.producer(node.input[0], "Add")
    inner = None if total is None else other_input(graph, total, 1.0)
    power = None if inner is None else graph.producer(inner, "Exp")
    if power is None or not graph.same_rank(power.input[0], node.output[0]):
        return None
    plain = helper.make_node("Softplus", power.input, node.output, name=node.name)
    return Rewrite(removes=[power, total, node], adds=[plain])


@recognises("Where")
def softplus_of_large_values(graph: PatternGraph, node: Any) -> Rewrite | None:
    """Where x exceeds a bound, x, else Softplus(x): the same in float32 from 17 on."""
    above = graph.producer(node.input[0], "Greater")
    softplus_node = graph.producer(node.input[2], "Softplus")
    if above is None or softplus_node is None:
        return None
    bound, source = graph.scalar(above.input[1]), softplus_node.input[0]
    if bound is None or bound < _SOFTPLUS_IS_LINE or not graph.same_rank(source, node.output[0]):
        return None
    if above.input[0] != source or node.input[1] != source:
        return None
    return Rewrite(removes=[above, node], same={node.output[0]: node.input[2]})
