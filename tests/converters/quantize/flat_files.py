"""What the tests of LiteRT files share: their operators and types, and runs in the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

_CODES = {v: k for k, v in vars(schema.BuiltinOperator).items() if k.isupper()}
_TYPES = {v: k.lower() for k, v in vars(schema.TensorType).items() if k.isupper()}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatOperator:
    """One operator of a file; types of its inputs and outputs in their order."""

    code: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    names: tuple[str, ...]


def tree_of(path: Path) -> Any:
    """The object tree of a file."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))


def operators_of(path: Path, graph: int = 0) -> list[FlatOperator]:
    """The operators of one graph of a file."""
    model = tree_of(path)
    tensors = model.subgraphs[graph].tensors
    found = []
    for operator in model.subgraphs[graph].operators:
        code = model.operatorCodes[operator.opcodeIndex]
        found.append(
            FlatOperator(
                code=_CODES[code.builtinCode],
                version=code.version,
                inputs=tuple(_TYPES[tensors[n].type] for n in operator.inputs if n >= 0),
                outputs=tuple(_TYPES[tensors[n].type] for n in operator.outputs),
                names=tuple(tensors[n].name.decode() for n in operator.outputs),
            )
        )
    return found


def types_of(path: Path) -> dict[str, str]:
    """The element type of each tensor of the first graph, by name."""
    return {t.name.decode(): _TYPES[t.type] for t in tree_of(path).subgraphs[0].tensors}


def run_flat(
    path: Path, feeds: Mapping[str, NDArray[Any]], *, plain: bool = False
) -> dict[str, NDArray[Any]]:
    """Run a file through its signature, `plain` without the delegate that takes most operators."""
    resolver = (
        litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        if plain
        else litert.OpResolverType.AUTO
    )
    interpreter = litert.Interpreter(
        model_path=str(path), num_threads=1, experimental_op_resolver_type=resolver
    )
    runner = interpreter.get_signature_runner()
    return {name: np.asarray(value) for name, value in runner(**feeds).items()}
