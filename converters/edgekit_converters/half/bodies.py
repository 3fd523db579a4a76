"""The weights inside of branches and loops: stored in float16, computed with in float32."""

from __future__ import annotations

from typing import Any, Final

from edgekit_converters.half.limits import misfit
from edgekit_converters.onnx_graphs import bodies_of, replace_nodes

# Fewer elements save less than the name and the cast take.
_LEAST_ELEMENTS: Final = 128


def store_halves_in_bodies(graph: Any) -> frozenset[str]:
    """Store the large constants of all bodies in float16, each behind a cast, in place.

    Engines make the cast once, when they load the model. What float16 cannot hold stays.

    Args:
        graph: An `onnx.GraphProto`; its own constants are left as they are.

    Returns:
        The names of the nodes of which some body has such constants now.
    """
    changed = set()
    for node in graph.node:
        for body in bodies_of(node):
            inner = store_halves_in_bodies(body)
            if _store(body) or inner:
                changed.add(str(node.name))
    return frozenset(changed)


def _store(body: Any) -> bool:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    taken = {tensor.name for tensor in body.initializer}
    taken.update(name for node in body.node for name in (*node.input, *node.output))
    casts = []
    for tensor in body.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(tensor)
        if array.size < _LEAST_ELEMENTS or misfit(array):
            continue
        name, stored = tensor.name, f"{tensor.name}/half"
        while stored in taken:
            stored += "_"
        taken.add(stored)
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=name, to=TensorProto.FLOAT))
    if casts:
        replace_nodes(body, [*casts, *body.node])
    return bool(casts)
