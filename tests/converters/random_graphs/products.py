"""Steps that multiply matrices: dense layers, products of two values, Einsum."""

from __future__ import annotations

from typing import Final

import numpy as np

from converters.random_graphs.draft import Draft


def dense(draft: Draft, x: str) -> list[str]:
    """A MatMul with a matrix or a vector, and the row that is added behind it."""
    draft.floats(x)
    shape = draft.shape(x)
    draft.require(bool(shape) and shape[-1] is not None)
    width, outputs = shape[-1] or 1, draft.between(1, 5)
    sizes = draft.pick([[width, outputs]] * 5 + [[width], [1, width, outputs], [2, width, outputs]])
    array = (draft.rng.normal(size=sizes) * 0.5).astype(np.float32)
    (y,) = draft.add("MatMul", [x, draft.operand(array, 0.1)])
    if draft.chance(0.5) and len(sizes) > 1:
        (y,) = draft.add("Add", [y, draft.operand(draft.array("float32", [outputs]), 0.1)])
    return [y]


def gemm(draft: Draft, x: str) -> list[str]:
    draft.floats(x)
    shape = draft.shape(x)
    draft.require(len(shape) == 2)
    turned = draft.chance(0.2)
    width = shape[0 if turned else 1]
    draft.require(width is not None)
    outputs, back = draft.between(1, 5), draft.between(0, 1)
    sizes = [outputs, width or 1] if back else [width or 1, outputs]
    inputs = [x, draft.operand((draft.rng.normal(size=sizes) * 0.5).astype(np.float32), 0.1)]
    if draft.chance(0.8) or draft.opset < 11:
        rows = shape[1 if turned else 0]
        bias = draft.pick([[outputs], [1, outputs], [1], [], [rows or 1, 1], [1, 1]])
        inputs.append(draft.operand(draft.array("float32", bias), 0.1))
    return draft.add(
        "Gemm", inputs, transA=1 if turned else None, transB=back,
        alpha=draft.pick([None, None, 0.5, -1.0]), beta=draft.pick([None, None, 2.0, 0.5]),
    )  # fmt: skip


def flat_layer(draft: Draft, x: str) -> list[str]:
    """An image flattened, and one or two dense layers that read it."""
    draft.floats(x)
    draft.require(draft.rank(x) >= 3)
    (flat,) = draft.add("Flatten", [x])
    features = draft.shape(flat)[1]
    draft.require(features is not None)
    outputs = []
    for _ in range(draft.between(1, 2)):
        weights = draft.weights(draft.between(1, 4), features or 1)
        outputs += draft.add("Gemm", [flat, weights, draft.weights(1)], transB=1)
    return [*outputs, flat] if draft.chance(0.15) else outputs


def of_two(draft: Draft, x: str) -> list[str]:
    """A value times itself turned round, as attention does it."""
    draft.floats(x)
    rank = draft.rank(x)
    draft.require(rank >= 2)
    order = [*range(rank - 2), rank - 1, rank - 2]
    (turned,) = draft.add("Transpose", [x], perm=order)
    return draft.add("MatMul", draft.pick([[x, turned], [turned, x]]))


def any_two(draft: Draft, x: str) -> list[str]:
    others = [name for name in draft.values if draft.dtype(name) == draft.dtype(x)]
    return draft.add("MatMul", [x, draft.pick(others)])


def whole_numbers(draft: Draft, x: str) -> list[str]:
    """Products of other types: integers, float64, float16."""
    dtype = draft.dtype(x)
    draft.require(dtype != "float32" and draft.rank(x) >= 2)
    width = draft.shape(x)[-1]
    draft.require(width is not None)
    return draft.add("MatMul", [x, draft.operand(draft.array(dtype, [width or 1, 3]))])


def einsum(draft: Draft, x: str) -> list[str]:
    draft.floats(x)
    shape = draft.shape(x)
    width = shape[-1] if shape else None
    equations = {
        1: [("a,a->", [width]), ("a,b->ab", [3]), ("i->i", None)],
        2: [("ab,bc->ac", [width, 3]), ("ab->ba", None), ("ij->i", None), ("ab,b->a", [width]),
            ("...a,ab->...b", [width, 2])],
        3: [("abc,cd->abd", [width, 2]), ("abc,c->ab", [width]), ("abc->cab", None),
            ("bij,bkj->bik", "self"), ("bij,bij->b", "self"), ("abc,dc", [2, width]),
            ("...c,cd->...d", [width, 3]), ("bij->bj", None)],
        4: [("bhqd,bhkd->bhqk", "self"), ("nchw,oc->nohw", [3, shape[1] if len(shape) > 1 else 1]),
            ("abcd->adcb", None), ("abcd,d->abc", [width]), ("bchw->bc", None)],
    }.get(len(shape), [])  # fmt: skip
    draft.require(bool(equations))
    equation, other = draft.pick(equations)
    if other is None:
        return draft.add("Einsum", [x], equation=equation)
    if other == "self":
        return draft.add("Einsum", [x, x], equation=equation)
    draft.require(None not in other)
    return draft.add("Einsum", [x, draft.operand(draft.array("float32", other))], equation=equation)


STEPS: Final = (
    dense, dense, dense, gemm, gemm, flat_layer, flat_layer, of_two, any_two, whole_numbers, einsum,
)  # fmt: skip
