"""Functions of real numbers that LiteRT has no operator for, to a few units in the last place.

XNNPACK's own LOG, SIN and COS are only good to an absolute 1e-7, so nothing here relies on them
near their zeros.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from edgekit_converters.litert.layout import follow
from edgekit_converters.litert.lower.builder import Builder
from edgekit_converters.litert.lower.registry import lowers
from edgekit_converters.litert.lower.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit_converters.graph import Node
    from edgekit_converters.litert.program import Tensor

# erf(x) / x as a quotient of polynomials in x squared, for |x| <= 4, beyond which erf is 1 in
# float32: Eigen's generic_fast_erf, 4e-7 off at most.
_ERF_LIMIT: Final = 4.0
_ERF_ABOVE: Final = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
    -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
_ERF_BELOW: Final = (
    -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
    -1.42647390514189e-02,
)  # fmt: skip
# atanh(s) / s in s squared, for |s| <= 1 / 3: least squares over Chebyshev's nodes, 7e-8 off.
_ATANH: Final = (0.14087329, 0.13980709, 0.20012427, 0.33333158, 1.0)
_ATANH_LIMIT: Final = 1 / 3
# Above this, sqrt(x * x +- 1) is x in float32.
_LARGE: Final = 1e4
# Half of pi and the logarithm of 2 in parts, the products of which with small integers are exact
# (Cody and Waite; the parts are those of Cephes).
_HALF_PI: Final = (1.5703125, 4.837512969970703125e-4, 7.54978995489188216e-8)
_LOG_2: Final = (0.693359375, -2.12194440e-4)
# exp(100) is beyond float32.
_EXP_LIMIT: Final = 100.0


@lowers("Erf", layout=follow)
def lower_erf(build: Builder, node: Node) -> None:
    """The error function, as a quotient of polynomials."""
    steps = Steps(build, node)
    source = steps.maximum(-_ERF_LIMIT, steps.minimum(_ERF_LIMIT, steps.input()))
    squared = steps.square(source)
    above = steps.mul(source, _polynomial(steps, squared, _ERF_ABOVE))
    ratio = steps.div(above, _polynomial(steps, squared, _ERF_BELOW))
    steps.finish(steps.unary("RELU_N1_TO_1", ratio))


@lowers("Asin", "Acos", layout=follow)
def lower_arc(build: Builder, node: Node) -> None:
    """The angle of a point on the unit circle, of which the sine or the cosine is known."""
    steps = Steps(build, node)
    known = steps.input()
    other = steps.sqrt(steps.mul(steps.sub(1.0, known), steps.add(known, 1.0)))
    sine, cosine = (known, other) if node.op == "Asin" else (other, known)
    steps.finish(steps.step("ATAN2", [sine, cosine], known.shape, known.dtype))


@lowers("Atan", layout=follow)
def lower_arctangent(build: Builder, node: Node) -> None:
    """The angle of (x, 1); ATAN2 takes equal shapes only."""
    steps = Steps(build, node)
    source = steps.input()
    ones = steps.fill(steps.shape_of(source), steps.number(1.0), source.shape)
    steps.finish(steps.step("ATAN2", [source, ones], source.shape, source.dtype))


@lowers("Tan", layout=follow)
def lower_tangent(build: Builder, node: Node) -> None:
    """Of the rest of a division by half of pi; every second time the negative cotangent."""
    steps = Steps(build, node)
    source = steps.input()
    count = steps.round(steps.mul(source, 2 / math.pi))
    rest = _reduced(steps, source, count, _HALF_PI)
    sine, cosine = steps.sin(rest), steps.cos(rest)
    even = steps.equal(steps.mul(steps.floor(steps.mul(count, 0.5)), 2.0), count)
    turned = steps.div(cosine, steps.neg(sine))
    steps.finish(steps.select(even, steps.div(sine, cosine), turned))


@lowers("Cosh", "Sinh", layout=follow)
def lower_hyperbolic(build: Builder, node: Node) -> None:
    """By half of exp(|x|), which overflows no sooner than the result.

    sinh(x) is tanh(x) * cosh(x), which keeps its digits near zero.
    """
    steps = Steps(build, node)
    source = steps.input()
    size = steps.minimum(_EXP_LIMIT, steps.abs(source))
    count = steps.round(steps.mul(size, 1 / math.log(2)))
    mantissa = steps.exp(_reduced(steps, size, count, _LOG_2))
    quarter = steps.mul(mantissa, steps.pow(2.0, steps.sub(count, 2.0)))
    half = steps.mul(quarter, 2.0)
    result = steps.add(half, steps.div(0.25, half))
    if node.op == "Sinh":
        result = steps.mul(steps.tanh(source), result)
    steps.finish(result)


@lowers("Asinh", layout=follow)
def lower_area_sine(build: Builder, node: Node) -> None:
    """log(|x| + sqrt(x * x + 1)), with the sign of x."""
    steps = Steps(build, node)
    source = steps.input()
    size = steps.abs(source)
    squared = steps.square(size)
    root = steps.sqrt(steps.add(squared, 1.0))
    above = steps.add(size, steps.div(squared, steps.add(root, 1.0)))
    area = steps.select(
        steps.greater(size, _LARGE), _log_of_twice(steps, size), _log_of_one_and(steps, above)
    )
    steps.finish(steps.mul(steps.sign(source), area))


@lowers("Acosh", layout=follow)
def lower_area_cosine(build: Builder, node: Node) -> None:
    """log(x + sqrt(x * x - 1)), by the distance from 1, which is exact."""
    steps = Steps(build, node)
    source = steps.input()
    excess = steps.sub(source, 1.0)
    root = steps.mul(steps.sqrt(excess), steps.sqrt(steps.add(excess, 2.0)))
    area = _log_of_one_and(steps, steps.add(excess, root))
    large = steps.greater(source, _LARGE)
    steps.finish(steps.select(large, _log_of_twice(steps, source), area))


@lowers("Atanh", layout=follow)
def lower_area_tangent(build: Builder, node: Node) -> None:
    """Half of log((1 + x) / (1 - x)), near zero by a polynomial."""
    steps = Steps(build, node)
    source = steps.input()
    far = steps.log(steps.div(steps.add(source, 1.0), steps.sub(1.0, source)))
    small = steps.less(steps.abs(source), _ATANH_LIMIT)
    twice = steps.select(small, _twice_area_tangent(steps, source), far)
    steps.finish(steps.mul(twice, 0.5))


@lowers("Softplus", layout=follow)
def lower_softplus(build: Builder, node: Node) -> None:
    """log(1 + exp(x)), as what it is above max(x, 0): log(1 + exp(-|x|)), nowhere beyond log(2)."""
    steps = Steps(build, node)
    source = steps.input()
    decay = steps.exp(steps.neg(steps.abs(source)))
    above = _twice_area_tangent(steps, steps.div(decay, steps.add(decay, 2.0)))
    steps.finish(steps.add(steps.relu(source), above))


def _polynomial(steps: Steps, variable: Tensor, coefficients: Sequence[float]) -> Tensor:
    """By Horner's rule, the highest power first."""
    result = steps.add(steps.mul(variable, coefficients[0]), coefficients[1])
    for coefficient in coefficients[2:]:
        result = steps.add(steps.mul(result, variable), coefficient)
    return result


def _reduced(steps: Steps, value: Tensor, count: Tensor, parts: Sequence[float]) -> Tensor:
    """A value less so many times a number that is given in parts."""
    for part in parts:
        value = steps.sub(value, steps.mul(count, part))
    return value


def _log_of_one_and(steps: Steps, excess: Tensor) -> Tensor:
    """log(1 + u), up to u = 1 as 2 * atanh(u / (2 + u))."""
    ratio = steps.div(excess, steps.add(excess, 2.0))
    near = _twice_area_tangent(steps, ratio)
    far = steps.log(steps.add(excess, 1.0))
    return steps.select(steps.less(steps.abs(ratio), _ATANH_LIMIT), near, far)


def _twice_area_tangent(steps: Steps, value: Tensor) -> Tensor:
    """2 * atanh(s) up to a third."""
    doubled = [2 * coefficient for coefficient in _ATANH]
    return steps.mul(value, _polynomial(steps, steps.square(value), doubled))


def _log_of_twice(steps: Steps, value: Tensor) -> Tensor:
    """log(2 * x) of a large x; XNNPACK's LOG is infinite from 2.7e38 on."""
    return steps.add(steps.log(steps.mul(value, 2.0**-20)), 21 * math.log(2))
