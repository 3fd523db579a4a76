from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

Left = Callable[..., dict[str, int]]

RNG = np.random.default_rng(3)


def constants(gates: int) -> dict[str, object]:
    return {
        "w": RNG.normal(scale=0.4, size=(1, gates * 4, 3)).astype(np.float32),
        "r": RNG.normal(scale=0.4, size=(1, gates * 4, 4)).astype(np.float32),
        "state": RNG.normal(size=(1, 1, 4)).astype(np.float32),
    }


ZEROS = """s = Shape(x) b = Gather(s, one) u = Unsqueeze(b, first) k = Concat<axis = 0>(i, u, f)
    z = ConstantOfShape(k)"""
NUMBERS = """int64 one = {1}, int64[1] first = {0}, int64[1] i = {1}, int64[1] f = {4},
    float[1,1,4] none = {0.0, 0.0, 0.0, 0.0}, int64[1] end = {1}"""


@pytest.mark.parametrize(
    "body",
    [
        f"{ZEROS} y = LSTM<hidden_size = 4>(x, w, r, , , z, z)",
        """s = Shape<start = 1, end = 2>(x) k = Concat<axis = 0>(i, s, f) z = Expand(none, k)
        a = Slice(z, first, end, first) y = LSTM<hidden_size = 4>(x, w, r, , , a, z)""",
    ],
    ids=["torchscript", "dynamo"],
)
def test_zeros_of_a_free_batch_are_no_initial_state(body: str, left: Left) -> None:
    text = f"(float[5,n,3] x) => (float[5,1,n,4] y) <{NUMBERS}> {{ {body} }}"
    assert left(text, constants(4)) == {"LSTM": 1}


def test_gru_too(left: Left) -> None:
    text = f"""(float[5,n,3] x) => (float[5,1,n,4] y) <{NUMBERS}>
    {{ {ZEROS} y = GRU<hidden_size = 4>(x, w, r, , , z) }}"""
    assert left(text, constants(3)) == {"GRU": 1}


def test_other_states_stay(left: Left) -> None:
    text = f"""(float[5,n,3] x) => (float[5,1,n,4] y) <{NUMBERS}>
    {{ {ZEROS} t = Add(z, state) y = GRU<hidden_size = 4>(x, w, r, , , t) }}"""
    assert left(text, constants(3))["Add"] == 1


def test_a_state_that_is_given_stays(left: Left) -> None:
    text = """(float[5,2,3] x, float[1,2,4] h) => (float[5,1,2,4] y)
    { y = GRU<hidden_size = 4>(x, w, r, , , h) }"""
    assert left(text, constants(3)) == {"GRU": 1}
