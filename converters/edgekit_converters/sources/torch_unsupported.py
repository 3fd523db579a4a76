"""Name every operator of a PyTorch model that has no ONNX form, and the line that asks for it.

The exporters themselves stop at the first. What is asked here is internal to PyTorch: where another
version has it elsewhere, nothing is found, and the exporter's own message stands alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from edgekit_converters.sources.quiet import quiet

_MAX_NAMED: Final = 20
_SOURCE_LINE: Final = re.compile(r'File "([^"]+)", line (\d+)')


def in_program(program: Any) -> list[str]:
    """The nodes of an exported program that torch.onnx has no function for."""
    try:
        from torch.onnx._internal.exporter import _core, _dispatching, _registration

        with quiet():
            registry = _registration.ONNXRegistry.from_torchlib()
            plain = _core._prepare_exported_program_for_export(program, registry=registry)
            nodes = [
                node
                for node in plain.graph.nodes
                if node.op == "call_function" and _dispatching.dispatch(node, registry)[0] is None
            ]
    except Exception:  # noqa: BLE001 - see the module's text
        return []
    return [_described(node.name, str(node.target), node.meta) for node in nodes]


def in_script(torch: Any, module: Any, arrays: Iterable[Any]) -> list[str]:
    """The operators of a TorchScript module that torch.onnx has no function for."""
    try:
        from torch.onnx._internal.torchscript_exporter import utils

        with quiet(), torch.no_grad():
            tensors = tuple(torch.from_numpy(array.copy()) for array in arrays)
            _, names = utils.unconvertible_ops(module, tensors)
    except Exception:  # noqa: BLE001 - see the module's text
        return []
    return sorted(set(names))


def listed(nodes: list[str]) -> str:
    """For an error: as many as a person reads."""
    more = len(nodes) - _MAX_NAMED
    return ", ".join(nodes[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _described(name: str, target: str, meta: dict[str, Any]) -> str:
    places = _SOURCE_LINE.findall(str(meta.get("stack_trace", "")))
    own = [place for place in places if "/torch/" not in place[0].replace("\\", "/")]
    where = f", {own[-1][0]}:{own[-1][1]}" if own else ""
    return f"{name} ({target}{where})"
