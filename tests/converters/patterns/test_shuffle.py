from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Left = Callable[..., dict[str, int]]


def shuffle(source: str, middle: str, order: str, result: str, last: str) -> str:
    return f"""(float[{source}] x) => (float[{result}] y)
    <int64[{middle.count(",") + 1}] a = {{{middle}}}, int64[{last.count(",") + 1}] b = {{{last}}}>
    {{ s = Reshape(x, a) t = Transpose<perm = [{order}]>(s) y = Reshape(t, b) }}"""


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (shuffle("n,8,3,4", "-1,2,2,2,3,4", "0,1,4,2,5,3", "n,2,6,8", "-1,2,6,8"), b"CRD"),
        (shuffle("n,8,3,4", "0,2,2,2,3,4", "0,3,4,1,5,2", "n,2,6,8", "0,2,6,8"), b"DCR"),
    ],
)
def test_depth_to_space(text: str, mode: bytes, simplified: Any) -> None:
    (node,) = simplified(text).graph.node
    assert node.op_type == "DepthToSpace"
    assert [a.s for a in node.attribute if a.name == "mode"] == [mode]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (shuffle("n,2,4,6", "-1,2,2,2,3,2", "0,3,5,1,2,4", "n,8,2,3", "-1,8,2,3"),
         {"SpaceToDepth": 1}),
        (shuffle("n,2,4,6", "-1,2,2,2,3,2", "0,1,3,5,2,4", "n,8,2,3", "-1,8,2,3"),
         {"SpaceToDepth": 1, "Gather": 1}),
    ],
    ids=["onnx", "torch"],
)  # fmt: skip
def test_space_to_depth(text: str, expected: dict[str, int], left: Left) -> None:
    assert left(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        shuffle("n,6,3,4", "-1,2,3,3,4", "0,2,1,3,4", "n,6,3,4", "-1,6,3,4"),
        shuffle("n,6,5", "-1,3,2,5", "0,2,1,3", "n,6,5", "-1,6,5"),
    ],
)
def test_channel_shuffle(text: str, left: Left) -> None:
    assert left(text) == {"Gather": 1}


@pytest.mark.parametrize(
    "text",
    [
        shuffle("n,12,3,4", "-1,2,2,3,3,4", "0,1,4,2,5,3", "n,2,6,12", "-1,2,6,12"),
        shuffle("n,8,3,4", "-1,2,2,2,3,4", "0,1,4,2,5,3", "n,2,8,6", "-1,2,8,6"),
        shuffle("n,8,3,4", "-1,2,2,2,3,4", "0,1,5,2,4,3", "n,2,8,6", "-1,2,8,6"),
        shuffle("n,6,3,4", "-1,2,3,3,4", "0,2,1,3,4", "n,2,3,12", "-1,2,3,12"),
        shuffle("n,6,3,4", "-1,2,3,3,4", "1,2,0,3,4", "n,6,3,4", "-1,6,3,4"),
        shuffle("2,6,3,4", "3,2,2,3,4", "0,2,1,3,4", "2,6,3,4", "2,6,3,4"),
    ],
    ids=["no square", "other sides", "turned", "other shape", "batch moves", "batch splits"],
)
def test_other_rearrangements_stay(text: str, left: Left) -> None:
    assert "Transpose" in left(text)


def test_a_value_in_the_middle_that_is_needed_stays(left: Left) -> None:
    text = shuffle("n,6,5", "-1,3,2,5", "0,2,1,3", "n,6,5", "-1,6,5")
    assert "Transpose" in left(text.replace("float[n,6,5] y", "float[n,6,5] y, float[n,2,3,5] t"))
