from __future__ import annotations

from collections.abc import Callable

import pytest

Left = Callable[..., dict[str, int]]


def graph(body: str) -> str:
    return f"(float[n,3,5] x) => (float[n,3,5] y) <int64[1] last = {{-1}}> {{ {body} }}"


@pytest.mark.parametrize(
    "body",
    [
        """m = ReduceMax<axes = [-1]>(x) z = Sub(x, m) e = Exp(z) s = ReduceSum(e, last)
        y = Div(e, s)""",
        "e = Exp(x) s = ReduceSum(e, last) y = Div(e, s)",
        """k = ReduceMax<axes = [2], keepdims = 0>(x) m = Unsqueeze(k, last) z = Sub(x, m)
        e = Exp(z) t = ReduceSum<keepdims = 0>(e, last) s = Unsqueeze(t, last) y = Div(e, s)""",
    ],
    ids=["stable", "plain", "axes dropped and put back"],
)
def test_softmax(body: str, left: Left) -> None:
    assert left(graph(body)) == {"Softmax": 1}


@pytest.mark.parametrize(
    "body",
    [
        """m = ReduceMax<axes = [-1]>(x) z = Sub(x, m) e = Exp(z) s = ReduceSum(e, last)
        l = Log(s) y = Sub(z, l)""",
        "l = ReduceLogSumExp<axes = [-1]>(x) y = Sub(x, l)",
    ],
    ids=["stable", "torch.logsumexp"],
)
def test_log_softmax(body: str, left: Left) -> None:
    assert left(graph(body)) == {"LogSoftmax": 1}


def test_the_axis_is_that_of_the_sum(simplified: Callable[..., object]) -> None:
    model = simplified(
        """(float[n,3,5] x) => (float[n,3,5] y) <int64[1] middle = {1}>
        { e = Exp(x) s = ReduceSum(e, middle) y = Div(e, s) }"""
    )
    (node,) = model.graph.node  # type: ignore[attr-defined]
    assert node.attribute[0].i == 1


@pytest.mark.parametrize(
    "body",
    [
        """m = ReduceMax<axes = [1]>(x) z = Sub(x, m) e = Exp(z) s = ReduceSum(e, last)
        y = Div(e, s)""",
        """m = ReduceMin<axes = [-1]>(x) z = Sub(x, m) e = Exp(z) s = ReduceSum(e, last)
        y = Div(s, e)""",
    ],
    ids=["maximum of another axis", "upside down"],
)
def test_what_else_is_subtracted_stays(body: str, left: Left) -> None:
    # A softmax of z is right in the first, whatever z is; the maximum has to stay.
    found = left(graph(body), low=-2, high=2)
    assert "Sub" in found


def test_two_axes_are_no_softmax(left: Left) -> None:
    text = """(float[n,3,5] x) => (float[n,3,5] y) <int64[2] both = {1,2}>
    { e = Exp(x) s = ReduceSum(e, both) y = Div(e, s) }"""
    assert "Softmax" not in left(text)


def test_a_sum_that_is_needed_stays(left: Left) -> None:
    text = """(float[n,5] x) => (float[n,5] y, float[n,1] s) <int64[1] last = {-1}>
    { e = Exp(x) s = ReduceSum(e, last) y = Div(e, s) }"""
    assert "Softmax" not in left(text)
