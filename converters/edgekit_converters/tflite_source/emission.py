"""The ONNX graph under construction: nodes, constants and the names that are taken."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Emission:
    """Nodes in execution order, each named after its first output; equal constants only once."""

    def __init__(self, taken: Iterable[str]) -> None:
        """Start with the names of the model's inputs and outputs."""
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._taken = set(taken)
        self._stored: dict[tuple[object, ...], str] = {}

    def fresh(self, name: str) -> str:
        """A name that no value has yet."""
        found, number = name, 2
        while found in self._taken:
            found, number = f"{name}#{number}", number + 1
        self._taken.add(found)
        return found

    def store(self, array: NDArray[Any], name: str) -> str:
        """The name of an initializer with these values."""
        from onnx import numpy_helper

        whole = np.ascontiguousarray(array).reshape(array.shape)
        digest = hashlib.sha256(whole.reshape(-1).view(np.uint8).data).digest()
        key = (digest, whole.dtype.str, whole.shape)
        if key not in self._stored:
            self._stored[key] = self.fresh(name)
            self.initializers.append(numpy_helper.from_array(whole, self._stored[key]))
        return self._stored[key]

    def append(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """A node that computes `outputs`; attributes that are None are left out."""
        from onnx import helper

        kept = {key: value for key, value in (attributes or {}).items() if value is not None}
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **kept))
