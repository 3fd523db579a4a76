"""Formulas over tensors: what a lowering function writes where one LiteRT operator is not enough.

`Steps(build, node)` has one method per LiteRT operator; shapes follow numpy's rules, numbers are
written as numbers, and every tensor is named after the node that it is made for. `finish` makes
the last one the node's output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_converters.litert.lower.product_steps import ProductSteps
from edgekit_converters.litert.lower.reduction_steps import ReductionSteps
from edgekit_converters.litert.lower.wide_steps import WideSteps

if TYPE_CHECKING:
    from edgekit_converters.graph import Node
    from edgekit_converters.litert.lower.builder import Builder
    from edgekit_converters.litert.program import Tensor


class Steps(WideSteps, ProductSteps, ReductionSteps):
    """The formula of one node."""

    def __init__(self, build: Builder, node: Node) -> None:
        self.build = build
        self.node = node
        self.prefix = next((name for name in node.outputs if name), node.name)

    def input(self, position: int = 0) -> Tensor:
        """An input of the node, in the order of axes that the node works in."""
        return self.build.input(self.node, position)

    def finish(self, tensor: Tensor, output: int = 0) -> None:
        """Make a tensor, in the planned order of axes, an output of the node.

        Its type is cast to what the graph says; an output that nobody asks for is passed over.
        """
        if output >= len(self.node.outputs) or not self.node.outputs[output]:
            return
        wanted = self.build.graph.dtype(self.node.outputs[output])
        self.build.result(self.node, self.cast(tensor, wanted), output)
