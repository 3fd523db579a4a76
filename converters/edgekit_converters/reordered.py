"""A model whose images are channels last, seen as its source is: axes in the source's order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgekit_converters.litert.layout import inverse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.litert.layout import Permutation
    from edgekit_runtime.session import RuntimeInfo, Session
    from edgekit_runtime.tensors import TensorSpec

Borders = Mapping[str, "Permutation"]


class ReorderedSession:
    """Takes and gives arrays in the source's order, and turns them for the session behind it."""

    def __init__(self, session: Session, borders: Borders) -> None:
        """Wrap a session.

        Args:
            session: The converted model.
            borders: Axis i of `name` is the source's axis `borders[name][i]`.
        """
        self._session = session
        self._borders = borders
        self.inputs = tuple(self._as_source(spec) for spec in session.inputs)
        self.outputs = tuple(self._as_source(spec) for spec in session.outputs)

    @property
    def runtime(self) -> RuntimeInfo:
        """The engine of the wrapped session."""
        return self._session.runtime

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Run one inference; see `Session.run`."""
        values = self._session.run(reorder(inputs, self._borders))
        return {
            name: value.transpose(inverse(self._borders[name])) if name in self._borders else value
            for name, value in values.items()
        }

    def close(self) -> None:
        """Let go of the wrapped session."""
        self._session.close()

    def _as_source(self, spec: TensorSpec) -> TensorSpec:
        order = self._borders.get(spec.name)
        if order is None:
            return spec
        return dataclasses.replace(spec, shape=tuple(spec.shape[axis] for axis in inverse(order)))


def reorder(
    arrays: Mapping[str, NDArray[np.generic]], borders: Borders
) -> dict[str, NDArray[np.generic]]:
    """Arrays in the source's order as the converted model takes them."""
    return {
        name: np.ascontiguousarray(array.transpose(borders[name])) if name in borders else array
        for name, array in arrays.items()
    }
