"""How a graph hangs together: who makes a tensor, who reads it, what is constant, what fuses."""

from __future__ import annotations

from typing import Final

from edgekit_runtime.graph.kinds import Kind, kind_of
from edgekit_runtime.graph.model import Graph, Operator

_PRODUCTS: Final = frozenset({Kind.CONVOLUTION, Kind.TRANSPOSED, Kind.DENSE})
_SUMS: Final = frozenset({"Add", "Sum", "QLinearAdd", "ADD"})
_RANDOM: Final = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "Multinomial"})


class Structure:
    """The links of a graph, made once and asked often."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._makers: dict[str, Operator] = {}
        self._readers: dict[str, int] = {}
        constants = {n for n, t in graph.tensors.items() if t.constant_bytes is not None}
        for operator in graph.operators:
            for name in operator.outputs:
                self._makers[name] = operator
            for name in operator.inputs:
                self._readers[name] = self._readers.get(name, 0) + 1
            # An engine folds what depends on nothing but constants.
            folds = operator.type not in _RANDOM and operator.outputs
            if folds and all(name in constants for name in operator.inputs if name):
                constants.update(operator.outputs)
        self.constants = frozenset(constants)

    def is_fused(self, operator: Operator) -> bool:
        """Whether engines compute it inside the product that feeds it.

        That is an activation function, a folded normalisation, or the addition of a constant
        bias, where nothing else reads the product's result.
        """
        bias = operator.type in {*_SUMS, "Mul", "MUL"} and self._adds_constant(operator)
        if kind_of(operator) is not Kind.ACTIVATION and not bias:
            return False
        maker = self._only_maker(operator)
        return maker is not None and (kind_of(maker) in _PRODUCTS or self.is_fused(maker))

    def follows_sum(self, operator: Operator) -> bool:
        """Whether an activation function directly follows the sum of two computed tensors."""
        maker = self._only_maker(operator)
        return maker is not None and maker.type in _SUMS and not self._adds_constant(maker)

    def _adds_constant(self, operator: Operator) -> bool:
        computed = [name for name in operator.inputs if name and name not in self.constants]
        return len(computed) == 1

    def _only_maker(self, operator: Operator) -> Operator | None:
        """The operator that makes the one computed input, through casts, if nobody else reads."""
        computed = [name for name in operator.inputs if name and name not in self.constants]
        if len(computed) != 1:
            return None
        maker = self._makers.get(computed[0])
        if maker is None or self._readers.get(computed[0], 0) != 1:
            return None
        return self._only_maker(maker) if kind_of(maker) is Kind.CAST else maker
