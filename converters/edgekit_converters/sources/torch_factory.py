"""`package.module:factory`: the user's own code makes the model, a state dict fills it."""

from __future__ import annotations

import importlib
import inspect
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgekit_converters.sources.imported import Arrays, ImportedModel, Progress
from edgekit_converters.sources.options import SourceOptions, example_inputs
from edgekit_converters.sources.quiet import one_line, quiet_below_python
from edgekit_converters.sources.torch_module import (
    BATCH,
    OPSET,
    Exporter,
    import_module,
    output_names,
    require_torch,
)
from edgekit_converters.sources.torch_unsupported import in_program
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError, UsageError


def import_factory(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Call a function or class that returns a `torch.nn.Module`, and load weights into it.

    Args:
        source: `package.module:factory`; found as `python -m` finds modules, the current folder
            first. It is called without arguments.
        options: Shapes or examples of the inputs; the weights.
        progress: Told each step.

    Raises:
        UsageError: If the factory cannot be found or called, returns no module, or the weights
            do not fit it.
        UnsupportedModelError: If the module cannot be exported.
        EnvironmentLackError: If the extra `torch` is not installed.
    """
    where = str(source)
    torch = require_torch(progress)
    module = _build(torch, where)
    warnings: tuple[str, ...] = ()
    if options.weights is None:
        warnings = ("no --weights were given: the model has those that its factory gives it",)
    else:
        _load_weights(torch, module, options.weights)
    made = import_eager(torch, module, options, where=where, progress=progress)
    return ImportedModel(
        model=made.model,
        reference=made.reference,
        exporter=made.exporter,
        warnings=(*warnings, *made.warnings),
    )


def import_eager(
    torch: Any, module: Any, options: SourceOptions, *, where: str, progress: Progress
) -> ImportedModel:
    """Export a `torch.nn.Module`: through torch.export, and by tracing where that fails."""
    module = module.eval().cpu()
    examples = example_inputs(options, _parameters(module.forward), where=where)
    names = _OutputNames(torch, module)

    captured: list[Any] = []

    def through_export(inputs: Arrays, free: bool) -> Any:  # noqa: FBT001 - Exporter's signature
        axes = {name: {0: torch.export.Dim.DYNAMIC} for name in inputs} if free else None
        program = torch.export.export(
            module, (), kwargs=_tensors(torch, inputs), dynamic_shapes=axes
        )
        captured.append(program)
        return program_to_onnx(torch, program, inputs, names(inputs))

    def through_tracing(inputs: Arrays, free: bool) -> Any:  # noqa: FBT001 - Exporter's signature
        return trace_to_onnx(torch, module, inputs, names(inputs), free=free)

    return import_module(
        torch,
        module,
        examples,
        (
            Exporter(
                name="torch.export",
                export=through_export,
                unsupported=lambda: in_program(captured[-1]) if captured else [],
            ),
            Exporter(name="torch.jit.trace", export=through_tracing, unsupported=list),
        ),
        where=where,
        progress=progress,
    )


def program_to_onnx(torch: Any, program: Any, inputs: Iterable[str], outputs: list[str]) -> Any:
    """Turn an exported program into ONNX."""
    made = torch.onnx.export(
        program,
        dynamo=True,
        input_names=list(inputs),
        output_names=outputs,
        opset_version=OPSET,
        verbose=False,
    )
    return made.model_proto


def trace_to_onnx(
    torch: Any, module: Any, inputs: Arrays, outputs: list[str], *, free: bool
) -> Any:
    """Export by recording one run, or the code of a TorchScript module."""
    import onnx

    buffer = io.BytesIO()
    axes = {name: {0: BATCH} for name in (*inputs, *outputs)} if free else None
    with quiet_below_python():
        torch.onnx.export(
            module,
            tuple(_tensors(torch, inputs).values()),
            buffer,
            dynamo=False,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
        )
    return onnx.load_from_string(buffer.getvalue())


class _OutputNames:
    """The names of what a module returns, found by running it once."""

    def __init__(self, torch: Any, module: Any) -> None:
        self._torch = torch
        self._module = module

    def __call__(self, inputs: Arrays) -> list[str]:
        return output_names(self._module(**_tensors(self._torch, inputs)))


def _tensors(torch: Any, inputs: Arrays) -> dict[str, Any]:
    return {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}


def _parameters(forward: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        name
        for name, parameter in inspect.signature(forward).parameters.items()
        if parameter.kind in kinds
    ]


def _build(torch: Any, where: str) -> Any:
    module_name, _, path = where.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"cannot import the factory: {one_line(error)}",
            where=where,
            fix="write package.module:factory, and run this in the folder that holds the package",
        ) from error
    try:
        module = found() if not isinstance(found, torch.nn.Module) else found
    except EdgekitError:
        raise
    except Exception as error:
        raise UsageError(
            f"the factory failed: {one_line(error)}",
            where=where,
            fix="it is called without arguments: wrap it in a function that gives them",
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"the factory returned {type(module).__name__}, not a torch.nn.Module", where=where
        )
    return module


def _load_weights(torch: Any, module: Any, path: Path) -> None:
    try:
        state = torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnsupportedModelError(
            f"these are no plain weights: {one_line(error)}",
            where=str(path),
            fix="save them with torch.save(model.state_dict(), path): tensors alone, which are "
            "read without running code",
        ) from error
    # Training scripts often keep the weights beside the optimizer's state.
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    try:
        module.load_state_dict(state)
    except Exception as error:
        raise UsageError(
            f"the weights do not fit the model: {one_line(error, limit=600)}",
            where=str(path),
            fix="give the weights that this very architecture was trained to",
        ) from error
