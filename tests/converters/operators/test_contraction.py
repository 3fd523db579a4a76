"""Einsum in all its notations, and determinants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
F = np.float32
EQUATIONS = [
    ("ij->ji", [(3, 4)]),
    ("ijk->j", [(2, 3, 4)]),
    ("ij->", [(3, 4)]),
    ("ii->i", [(3, 3)]),
    ("ii", [(3, 3)]),
    ("...ii->...i", [(2, 3, 4, 4)]),
    ("iji->j", [(3, 2, 3)]),
    ("bij", [(2, 3, 4)]),
    ("i,i->", [(4,), (4,)]),
    ("i,j->ij", [(4,), (3,)]),
    ("ij,jk->ik", [(3, 4), (4, 5)]),
    ("ij,jk", [(3, 4), (4, 5)]),
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
    ("bid,hdk->bhik", [(2, 3, 4), (5, 4, 2)]),
    ("...ij,...jk->...ik", [(2, 1, 3, 4), (1, 6, 4, 5)]),
    ("... ij, jk -> ... ik", [(2, 6, 3, 4), (4, 5)]),
    ("ij,ij->ij", [(3, 4), (3, 4)]),
    ("ij,kl->ijkl", [(2, 3), (4, 5)]),
    ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
    ("ij,ik,il->jkl", [(2, 3), (2, 4), (2, 5)]),
    ("abc,cd,bd->a", [(2, 3, 4), (4, 5), (3, 5)]),
    ("aab,b->a", [(3, 3, 4), (4,)]),
    ("ij,ij->i", [(3, 1), (3, 4)]),
]


def _x(*shape: int, dtype: Any = F, seed: int = 3) -> Any:
    return np.random.default_rng(seed).integers(-4, 5, size=shape).astype(dtype)


@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS)
@pytest.mark.parametrize("free", [False, True])
def test_einsum(equation: str, shapes: Any, free: bool, agree: Any) -> None:
    names = [f"x{at}" for at in range(len(shapes))]
    arrays = {name: _x(*s, seed=at) for at, (name, s) in enumerate(zip(names, shapes, strict=True))}
    wide = {name: [at for at, size in enumerate(array.shape) if size > 1]
            for name, array in arrays.items()}  # fmt: skip
    expected = np.asarray(np.einsum(equation, *arrays.values()), dtype=F)
    agree(node("Einsum", names, ["y"], equation=equation), arrays, free=wide if free else {},
          expected=[{"y": expected}], tolerance=1e-5)  # fmt: skip


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float16])
def test_einsum_of_other_types(dtype: Any, agree: Any) -> None:
    arrays = {"a": _x(2, 3, 4, dtype=dtype), "b": _x(4, 5, dtype=dtype)}
    agree(node("Einsum", ["a", "b"], ["y"], equation="bij,jk->bik"), arrays,
          expected=[{"y": np.einsum("bij,jk->bik", *arrays.values())}])  # fmt: skip


def test_axes_of_any_type_are_moved(agree: Any) -> None:
    x = _x(3, 4).astype(np.float64)
    agree(node("Einsum", ["x"], ["y"], equation="ij->ji"), {"x": x})
    with pytest.raises(UnsupportedModelError, match="adds numbers of type float64"):
        agree(node("Einsum", ["x"], ["y"], equation="ij->j"), {"x": x})


def test_constant_weights_are_a_dense_layer(agree: Any) -> None:
    codes = agree(node("Einsum", ["x", "w"], ["y"], equation="bti,io->bto"),
                  [{"x": _x(2, 3, 4)}, {"x": _x(5, 3, 4)}], constants={"w": _x(4, 6)},
                  free={"x": [0]})  # fmt: skip
    assert "FULLY_CONNECTED" in codes
    assert "BATCH_MATMUL" not in codes


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
@pytest.mark.parametrize("free", [False, True])
def test_det(size: int, leading: Any, free: bool, agree: Any) -> None:
    x = np.random.default_rng(size).normal(size=(*leading, size, size)).astype(F)
    expected = np.asarray(np.linalg.det(x.astype(np.float64)), dtype=F)
    agree(node("Det", ["x"], ["y"]), {"x": x}, free={"x": range(len(leading)) if free else []},
          expected=[{"y": expected}], tolerance=1e-4)  # fmt: skip


def test_det_of_matrices_that_need_pivots(agree: Any) -> None:
    x = np.array([
        [[0, 1, 0], [1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
        [[1, 2, 3], [2, 4, 6], [1, 0, 1]], [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[1e-8, 1, 0], [1, 1, 0], [0, 0, 2]],
    ], dtype=F)  # fmt: skip
    agree(node("Det", ["x"], ["y"]), {"x": x}, expected=[
        {"y": np.array([-1, 1, 0, 0, -2], dtype=F)}])  # fmt: skip
