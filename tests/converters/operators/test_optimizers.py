"""Steps of training against their definitions, on one and on several tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

DOMAIN = "ai.onnx.preview.training"
F = np.float32


def adagrad(r: Any, t: Any, x: Any, g: Any, h: Any, norm: float, decay: float, eps: float) -> Any:
    slope = norm * x + g
    total = h + slope * slope
    return x - r / (1 + t * decay) * slope / (np.sqrt(total) + eps), total


def adam(
    r: Any, t: Any, x: Any, g: Any, v: Any, h: Any,
    alpha: float, beta: float, norm: float, post: float, eps: float,
) -> Any:  # fmt: skip
    slope = norm * x + g
    mean, squares = alpha * v + (1 - alpha) * slope, beta * h + (1 - beta) * slope * slope
    rate = r * np.sqrt(1 - beta**t) / (1 - alpha**t) if t > 0 else r
    return (1 - post) * (x - rate * mean / (np.sqrt(squares) + eps)), mean, squares


def momentum(
    r: Any, t: Any, x: Any, g: Any, v: Any, alpha: float, beta: float, norm: float, mode: str
) -> Any:
    slope = norm * x + g
    gained = alpha * v + (beta if t > 0 else 1) * slope
    return x - r * (gained if mode == "standard" else slope + alpha * gained), gained


CASES: list[tuple[str, Any, int, dict[str, Any], dict[str, Any]]] = [
    ("Adagrad", adagrad, 3, {}, {"norm": 0, "decay": 0, "eps": 1e-6}),
    (
        "Adagrad", adagrad, 3, {"norm_coefficient": 0.1, "decay_factor": 0.2, "epsilon": 1e-4},
        {"norm": 0.1, "decay": 0.2, "eps": 1e-4},
    ),
    ("Adam", adam, 4, {}, {"alpha": 0.9, "beta": 0.999, "norm": 0, "post": 0, "eps": 1e-6}),
    (
        "Adam", adam, 4,
        {"alpha": 0.8, "beta": 0.95, "norm_coefficient": 0.01, "norm_coefficient_post": 0.02,
         "epsilon": 1e-3},
        {"alpha": 0.8, "beta": 0.95, "norm": 0.01, "post": 0.02, "eps": 1e-3},
    ),
    *(
        (
            "Momentum", momentum, 3,
            {"alpha": 0.9, "beta": 0.7, "norm_coefficient": 0.01, "mode": mode},
            {"alpha": 0.9, "beta": 0.7, "norm": 0.01, "mode": mode},
        )
        for mode in ("standard", "nesterov")
    ),
]  # fmt: skip


@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 3), (4,), ()]])
@pytest.mark.parametrize("count", [0, 1, 500])
@pytest.mark.parametrize(("operator", "formula", "kinds", "attributes", "numbers"), CASES)
def test_a_step(
    operator: str, formula: Any, kinds: int, attributes: Any, numbers: Any, count: int,
    shapes: Any, evaluate: Any,
) -> None:  # fmt: skip
    rng = np.random.default_rng(1)
    arrays = {"r": np.asarray(F(0.1)), "t": np.asarray(count, dtype=np.int64)}
    for kind in "xgvh"[:kinds]:
        for position, shape in enumerate(shapes):
            arrays[f"{kind}{position}"] = np.asarray(rng.uniform(0.1, 1, shape), dtype=F)
    outputs = [f"{kind}{k}" for kind in "abc"[: kinds - 1] for k in range(len(shapes))]
    step = helper.make_node(operator, [*arrays], outputs, domain=DOMAIN, **attributes)
    found = evaluate(step, arrays, outputs, domains=[(DOMAIN, 1)])
    for position in range(len(shapes)):
        own = [arrays[f"{kind}{position}"].astype(float) for kind in "xgvh"[:kinds]]
        for kind, expected in zip("abc", formula(0.1, count, *own, **numbers), strict=False):
            np.testing.assert_allclose(
                found.outputs[f"{kind}{position}"], expected, rtol=1e-5, atol=1e-6
            )


def test_an_unknown_mode_is_refused(evaluate: Any) -> None:
    arrays = {"r": np.asarray(F(0.1)), "t": np.asarray(1), "x": F([1]), "g": F([1]), "v": F([1])}
    step = helper.make_node(
        "Momentum", [*arrays], ["y", "w"], name="culprit", domain=DOMAIN,
        alpha=1.0, beta=1.0, norm_coefficient=0.0, mode="heavy",
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=r"culprit .*mode is 'heavy'"):
        evaluate(step, arrays, ["y", "w"], domains=[(DOMAIN, 1)])
