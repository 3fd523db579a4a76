"""One step of a recurrent network: what LSTM, GRU and RNN compute of an input and their state.

Formulas, names and the order of gates after the operators LSTM, GRU and RNN of the ONNX
specification. States are (batch, hidden); a state that is None is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_converters.litert.lower.builder import RefusedNodeError
from edgekit_converters.litert.program import Tensor

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.lower.steps import Steps

States = tuple[Tensor | None, ...]
Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The parameters of one direction, each constant, computed, or None where it is left out.

    Attributes:
        weights: (gates * hidden, inputs).
        recurrence: (gates * hidden, hidden).
        input_bias: (gates * hidden,), added to what comes from the input.
        state_bias: (gates * hidden,), added to what comes from the state.
        peepholes: (3 * hidden,), of an LSTM: input, output, forget.
    """

    weights: Tensor
    recurrence: Tensor
    input_bias: Tensor | None
    state_bias: Tensor | None
    peepholes: Tensor | None


class Cell:
    """What all three kinds share."""

    gates: int
    states: int

    def __init__(
        self, steps: Steps, node: Node, parameters: Parameters, activations: Sequence[Activation]
    ) -> None:
        self._steps = steps
        self._node = node
        self._parameters = parameters
        self._activations = activations
        recurrence = parameters.recurrence
        self.hidden = node.integer("hidden_size", recurrence.shape[-1] or 0)
        self._clip = node.attributes.get("clip")

    def project(self, inputs: Tensor) -> Tensor:
        """What all steps take from their inputs at once: (..., gates * hidden)."""
        return self.multiply(inputs, self._parameters.weights, self.projected_bias())

    def projected_bias(self) -> Tensor | None:
        """The biases that can be added before the first step."""
        return self.total(self._parameters.input_bias, self._parameters.state_bias)

    def advance(self, projected: Tensor, states: States) -> tuple[Tensor, ...]:
        """The states after a step; the first of them is the step's output."""
        raise NotImplementedError

    def multiply(self, inputs: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """Rows times a turned matrix, with a bias."""
        steps = self._steps
        shape = (*inputs.shape[:-1], matrix.shape[0])
        if matrix.data is not None and (bias is None or bias.data is not None):
            return steps.step(
                "FULLY_CONNECTED", [inputs, matrix, bias], shape, inputs.dtype,
                fusedActivationFunction="NONE", weightsFormat="DEFAULT",
                keepNumDims=len(shape) != 2,  # noqa: PLR2004
            )  # fmt: skip
        product = steps.matmul(inputs, matrix, turn_second=True)
        return product if bias is None else steps.add(product, bias)

    def from_state(self, state: Tensor | None, matrix: Tensor) -> Tensor | None:
        """What a step takes from its state."""
        return None if state is None else self.multiply(state, matrix, None)

    def total(self, *terms: Tensor | None) -> Tensor | None:
        """The sum of what is there; of constants, at once."""
        there = [term for term in terms if term is not None]
        constants = [term.data for term in there if term.data is not None]
        if len(constants) == len(there) > 1:
            return self._steps.constant(np.sum(np.stack(constants), axis=0), "bias")
        result: Tensor | None = None
        for term in there:
            result = term if result is None else self._steps.add(result, term)
        return result

    def parts(self, tensor: Tensor, count: int = 0) -> list[Tensor]:
        """A tensor cut into its gates."""
        count = count or self.gates
        if count == 1:
            return [tensor]
        return self._steps.split(tensor, [self.hidden] * count, -1)

    def activate(self, which: int, tensor: Tensor) -> Tensor:
        """An activation function, its input clipped first where the node says so."""
        steps = self._steps
        if self._clip is not None:
            bound = float(self._clip)
            tensor = steps.minimum(steps.maximum(tensor, -bound), bound)
        return self._activations[which](tensor)


class RnnCell(Cell):
    """Ht = f(Xt*(Wi^T) + Ht-1*(Ri^T) + Wbi + Rbi)."""

    gates = 1
    states = 1

    def advance(self, projected: Tensor, states: States) -> tuple[Tensor, ...]:
        """See `Cell.advance`."""
        recurrent = self.from_state(states[0], self._parameters.recurrence)
        return (self.activate(0, self.total(projected, recurrent) or projected),)


class GruCell(Cell):
    """Gates: update, reset, hidden."""

    gates = 3
    states = 1

    @property
    def _resets_product(self) -> bool:
        return bool(self._node.integer("linear_before_reset", 0))

    def projected_bias(self) -> Tensor | None:
        """Without the bias that the reset gate multiplies."""
        bias = self._parameters.state_bias
        if bias is None or not self._resets_product:
            return super().projected_bias()
        mask = np.repeat(np.array([1, 1, 0], dtype=np.float32), self.hidden)
        outer = (
            self._steps.mul(bias, self._steps.constant(mask, "mask"))
            if bias.data is None
            else self._steps.constant(bias.data * mask, "bias")
        )
        return self.total(self._parameters.input_bias, outer)

    def advance(self, projected: Tensor, states: States) -> tuple[Tensor, ...]:
        """See `Cell.advance`."""
        steps, state = self._steps, states[0]
        update, reset, hidden = self.parts(projected)
        recurrence, bias = self._parameters.recurrence, self._hidden_bias()
        if state is None:
            update = self.activate(0, update)
            inner = bias if self._resets_product else None
            if inner is not None:
                inner = steps.mul(self.activate(0, reset), inner)
            candidate = self.activate(1, self.total(hidden, inner) or hidden)
            return (steps.sub(candidate, steps.mul(update, candidate)),)
        if self._resets_product:
            from_state = self.parts(self.multiply(state, recurrence, None))
            update = self.activate(0, steps.add(update, from_state[0]))
            reset = self.activate(0, steps.add(reset, from_state[1]))
            inner = steps.mul(reset, self.total(from_state[2], bias) or from_state[2])
        else:
            outer = steps.slice_axis(recurrence, 0, 0, 2 * self.hidden)
            from_state = self.parts(self.multiply(state, outer, None), 2)
            update = self.activate(0, steps.add(update, from_state[0]))
            reset = self.activate(0, steps.add(reset, from_state[1]))
            own = steps.slice_axis(recurrence, 0, 2 * self.hidden, self.hidden)
            inner = self.multiply(steps.mul(reset, state), own, None)
        candidate = self.activate(1, steps.add(hidden, inner))
        kept = steps.mul(update, state)
        return (steps.add(steps.mul(steps.sub(1.0, update), candidate), kept),)

    def _hidden_bias(self) -> Tensor | None:
        bias = self._parameters.state_bias
        if bias is None or not self._resets_product:
            return None
        return self._steps.slice_axis(bias, 0, 2 * self.hidden, self.hidden)


class LstmCell(Cell):
    """Gates: input, output, forget, cell. States: hidden, cell."""

    gates = 4
    states = 2

    def advance(self, projected: Tensor, states: States) -> tuple[Tensor, ...]:
        """See `Cell.advance`."""
        steps, (hidden, cell) = self._steps, states
        recurrent = self.from_state(hidden, self._parameters.recurrence)
        into, out, forget, candidate = self.parts(self.total(projected, recurrent) or projected)
        peep_in, peep_out, peep_forget = self._peepholes()
        into = self.activate(0, self._with_peephole(into, peep_in, cell))
        if self._node.integer("input_forget", 0):
            forget = steps.sub(1.0, into)
        else:
            forget = self.activate(0, self._with_peephole(forget, peep_forget, cell))
        fresh = steps.mul(into, self.activate(1, candidate))
        cell = fresh if cell is None else steps.add(steps.mul(forget, cell), fresh)
        out = self.activate(0, self._with_peephole(out, peep_out, cell))
        return steps.mul(out, self._activations[2](cell)), cell

    def _peepholes(self) -> list[Tensor | None]:
        peepholes = self._parameters.peepholes
        return [None] * 3 if peepholes is None else [*self.parts(peepholes, 3)]

    def _with_peephole(self, gate: Tensor, peephole: Tensor | None, cell: Tensor | None) -> Tensor:
        if peephole is None or cell is None:
            return gate
        return self._steps.add(gate, self._steps.mul(peephole, cell))


CELLS: Final[dict[str, type[Cell]]] = {"LSTM": LstmCell, "GRU": GruCell, "RNN": RnnCell}
_DEFAULTS: Final = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
# The alpha and beta that a function has unless the node gives others.
_CONSTANTS: Final = {
    "Affine": (1.0, 0.0),
    "LeakyRelu": (0.01, 0.0),
    "ThresholdedRelu": (1.0, 0.0),
    "ScaledTanh": (1.0, 1.0),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0, 0.0),
}
# How many of the two a function takes from the node's lists.
_TAKES: Final = {"LeakyRelu": (1, 0), "ThresholdedRelu": (1, 0), "Elu": (1, 0)}


def activations_of(steps: Steps, node: Node, directions: int) -> list[list[Activation]]:
    """The activation functions of each direction of a recurrent node.

    Raises:
        RefusedNodeError: If one of them is unknown.
    """
    defaults = _DEFAULTS[node.op]
    given = node.attributes.get("activations")
    names = [str(name) for name in given] if given else list(defaults) * directions
    if len(names) != len(defaults) * directions:
        raise RefusedNodeError(f"it names {len(names)} activation functions")
    alphas = list(node.attributes.get("activation_alpha", ()))
    betas = list(node.attributes.get("activation_beta", ()))
    functions = []
    for name in names:
        key = next(
            (known for known in (*_SIMPLE, *_CONSTANTS) if known.lower() == name.lower()), ""
        )
        alpha, beta = _CONSTANTS.get(key, (0.0, 0.0))
        takes = _TAKES.get(key, (1, 1) if key in _CONSTANTS else (0, 0))
        alpha = float(alphas.pop(0)) if takes[0] and alphas else alpha
        beta = float(betas.pop(0)) if takes[1] and betas else beta
        functions.append(_activation(steps, key, name, alpha, beta))
    size = len(defaults)
    return [functions[start : start + size] for start in range(0, len(functions), size)]


_SIMPLE: Final = ("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus")


def _activation(steps: Steps, key: str, name: str, alpha: float, beta: float) -> Activation:
    known: dict[str, Activation] = {
        "Sigmoid": steps.logistic,
        "Tanh": steps.tanh,
        "Relu": steps.relu,
        "Softsign": lambda x: steps.div(x, steps.add(steps.abs(x), 1.0)),
        "Softplus": lambda x: steps.add(
            steps.relu(x), steps.log(steps.add(steps.exp(steps.neg(steps.abs(x))), 1.0))
        ),
        "Affine": lambda x: steps.add(steps.mul(x, alpha), beta),
        "LeakyRelu": lambda x: steps.unary("LEAKY_RELU", x, alpha=alpha),
        "ThresholdedRelu": lambda x: steps.select(steps.greater(x, alpha), x, 0.0),
        "ScaledTanh": lambda x: steps.mul(steps.tanh(steps.mul(x, beta)), alpha),
        "HardSigmoid": lambda x: steps.minimum(
            steps.maximum(steps.add(steps.mul(x, alpha), beta), 0.0), 1.0
        ),
        "Elu": lambda x: steps.add(
            steps.relu(x),
            steps.mul(steps.sub(steps.exp(steps.minimum(x, 0.0)), 1.0), alpha),
        ),
    }
    if key not in known:
        raise RefusedNodeError(f"its activation function {name!r} is unknown")
    return known[key]
