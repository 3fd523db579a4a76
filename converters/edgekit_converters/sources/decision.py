"""How a classifier's label follows from its scores, and what is no difference between two of them.

Two programs that add the same numbers in another order agree on every score to the last digits, and
name different classes where two scores are equal. Both answers are right then; here they are made
the same, and labels that are text become class numbers, so that they can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.session import RuntimeInfo, Session

# Relative to the largest score; far above rounding, far below what a person calls different.
_TIE: Final = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A classifier's two outputs.

    Attributes:
        label: The name of the output with the class, a number or a text.
        scores: The name of the output with one score a class; or with one score alone, which
            speaks for the second of two classes where it is above zero.
        classes: What the label may be, in the order of the scores.
    """

    label: str
    scores: str
    classes: tuple[int | str, ...]

    @property
    def text(self) -> bool:
        """Whether the classes have names instead of numbers."""
        return any(isinstance(name, str) for name in self.classes)


class DecidedSession:
    """A classifier whose label is the first of the classes whose scores are equal.

    A label that is text is given as the position of its class, a number as itself.
    """

    def __init__(self, session: Session, decision: Decision) -> None:
        """Wrap a session; a label that ties do not explain is left as it is."""
        self._session = session
        self._decision = decision
        self.inputs = session.inputs
        self.outputs = tuple(
            TensorSpec(name=spec.name, dtype="int64", shape=spec.shape)
            if spec.name == decision.label
            else spec
            for spec in session.outputs
        )

    @property
    def runtime(self) -> RuntimeInfo:
        """The engine of the wrapped session."""
        return self._session.runtime

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Run one inference; see `Session.run`."""
        values = self._session.run(inputs)
        name = self._decision.label
        classes = self._decision.classes
        positions = _positions(values[name], classes)
        settled = _settle(positions, np.asarray(values[self._decision.scores]))
        if not self._decision.text:
            # A label that is none of the classes stays what it is, so that it is seen.
            settled = np.where(settled < 0, values[name], np.array(classes)[settled])
        values[name] = settled.astype(np.int64)
        return values

    def close(self) -> None:
        """Let go of the wrapped session."""
        self._session.close()


def _positions(labels: NDArray[Any], classes: tuple[int | str, ...]) -> NDArray[np.int64]:
    order = {name: position for position, name in enumerate(classes)}
    flat = [order.get(label, -1) for label in labels.reshape(-1).tolist()]
    return np.array(flat, dtype=np.int64).reshape(labels.shape)


def _settle(labels: NDArray[np.int64], scores: NDArray[Any]) -> NDArray[np.int64]:
    if scores.ndim != 2 or scores.shape[0] != labels.size or not scores.size:  # noqa: PLR2004
        return labels
    if scores.shape[1] == 1:
        # One number for two classes: near zero it speaks for both.
        size = np.abs(scores)
        equal = np.repeat(size <= _TIE * size.max(), 2, axis=1)
    else:
        best = scores.max(axis=1, keepdims=True)
        equal = scores >= best - _TIE * np.maximum(np.abs(best), _TIE)
    flat = labels.reshape(-1)
    known = (flat >= 0) & (flat < equal.shape[1])
    tied = known & equal[np.arange(flat.size), np.where(known, flat, 0)]
    settled = np.where(tied, equal.argmax(axis=1), flat)
    return np.asarray(settled, dtype=np.int64).reshape(labels.shape)
