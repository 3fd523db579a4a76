"""Apply all patterns until none fits: bounded rounds, and the opset raised where that pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS, copy_of, opset_of
from edgekit_converters.patterns.graph import PatternGraph
from edgekit_converters.patterns.opset import raise_opset
from edgekit_converters.patterns.registry import Pattern, patterns_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# Each round takes the next layer off a nest of patterns; no exporter nests them deeper.
_MAX_ROUNDS: Final = 12


def simplify(model: Any, *, settle: Callable[[Any], Any], without: Collection[str] = ()) -> Any:
    """Rewrite every pattern in a normalised model that has its shapes inferred.

    The result computes the same up to the rounding of float arithmetic. What is read elsewhere,
    or is an output, is never taken away.

    What an exporter wrote out is recognised before constants are moved into layers: they may be
    part of what it wrote.

    Args:
        model: An `onnx.ModelProto`, changed in place.
        settle: Infers the shapes of a model whose nodes changed, and computes what is constant.
        without: Names of patterns to leave out.

    Returns:
        The model, or a new one where its opset was raised, with all shapes inferred.
    """
    for late in (False, True):
        patterns = patterns_of(late=late, without=without)
        model, wanted = _rewrite_all(model, patterns, settle)
        raised = raise_opset(model, wanted) if wanted else None
        if raised is not None:
            model, _ = _rewrite_all(settle(raised), patterns, settle)
    return model


def simplify_for(target: str, model: Any, *, settle: Callable[[Any], Any]) -> Any:
    """Rewrite what pays for one runtime alone in a model that is simplified already.

    Args:
        target: "litert".
        model: An `onnx.ModelProto`; it is not changed.
        settle: As `simplify` takes it.

    Returns:
        The model itself where nothing is to be done.
    """
    patterns = patterns_of(late=True, target=target)
    if not any(node.op_type in patterns for node in model.graph.node):
        return model
    copy = copy_of(model)
    changed, wanted = _rewrite_all(copy, patterns, settle)
    raised = raise_opset(changed, wanted) if wanted else None
    return changed if raised is None else _rewrite_all(settle(raised), patterns, settle)[0]


def _rewrite_all(
    model: Any, patterns: Mapping[str, list[Pattern]], settle: Callable[[Any], Any]
) -> tuple[Any, int]:
    """Rewrite as often as shapes that are known anew permit more.

    Returns:
        The model, and the opset that would permit still more, 0 where none would.
    """
    wanted = 0
    for _ in range(_MAX_ROUNDS):
        changed, wanted = _rewrite(model, patterns)
        if not changed:
            break
        model = settle(model)
    return model, wanted


def _rewrite(model: Any, patterns: Mapping[str, list[Pattern]]) -> tuple[bool, int]:
    """Rewrite what the model's opset permits, in place; see `_rewrite_all`."""
    opset = opset_of(model)
    graph = PatternGraph(model)
    graph.drop_unread()
    wanted = 0
    for _ in range(_MAX_ROUNDS):
        wanted, changed = 0, False
        for node in graph.nodes():
            for pattern in patterns.get(node.op_type, ()):
                if node.domain not in STANDARD_DOMAINS or not graph.holds(node):
                    break
                rewrite = pattern.recognise(graph, node)
                if rewrite is None or not graph.allows(rewrite):
                    continue
                if pattern.opset > opset:
                    wanted = max(wanted, pattern.opset)
                    continue
                graph.apply(rewrite)
                changed = True
        if not changed:
            break
        graph.drop_unread()
    graph.store()
    return graph.changed, wanted
