"""What all PyTorch sources share: run a module, export it, keep its batch free where that works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.sources.imported import (
    Arrays,
    ImportedModel,
    Progress,
    ReferenceSession,
    specs_of,
)
from edgekit_converters.sources.quiet import one_line, quiet, root_cause
from edgekit_converters.sources.torch_unsupported import listed
from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.extras import require
from edgekit_runtime.session import RuntimeInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPSET: Final = 18
BATCH: Final = "batch"
# torch.export takes a size of 0 or 1 for a constant; three more samples show what a batch does.
_TRACED_BATCH: Final = 2
_PROBED_BATCHES: Final = (1, 3)
_BATCH_TOLERANCE: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """One way from a module to ONNX.

    Attributes:
        name: For messages and the report.
        export: Takes the example inputs in order and whether the batch is to be free; returns an
            `onnx.ModelProto` whose inputs have the module's names.
        unsupported: Names the operators that it cannot export, as far as it can tell.
    """

    name: str
    export: Callable[[Arrays, bool], Any]
    unsupported: Callable[[], list[str]]


def require_torch(progress: Progress) -> Any:
    """Import PyTorch, which takes seconds."""
    progress("loading PyTorch")
    torch: Any = require("torch", extra="torch")
    require("onnxscript", extra="torch")
    require("onnx", extra="convert")
    return torch


def import_module(
    torch: Any,
    module: Callable[..., Any],
    examples: Arrays,
    exporters: Sequence[Exporter],
    *,
    where: str,
    progress: Progress,
) -> ImportedModel:
    """Export a module with a free batch; with the batch of the examples where it has to be fixed.

    Args:
        torch: The package.
        module: What is called with the inputs as tensors; in evaluation mode.
        examples: An array an input, by the module's names and in its order.
        exporters: Tried one after the other, the best first.
        where: The source, for errors.
        progress: Told each step.

    Raises:
        UsageError: If the module does not run with the examples.
        UnsupportedModelError: If no exporter can say it in ONNX; every reason is given.
    """
    run = _runner(torch, module)
    try:
        outputs = run(examples)
    except Exception as error:
        raise UsageError(
            f"the model does not run with these example inputs: {one_line(error)}",
            where=where,
            fix="give other shapes or types with --input-shape or --example",
        ) from error
    if not outputs:
        raise UnsupportedModelError("the model returns no tensors", where=where)
    failures: list[str] = []
    reasons: list[str] = []
    for free in (True, False):
        if free and not _may_be_free(examples, run):
            reasons.append("the model itself takes no other batch size than that of the examples")
            continue
        inputs = _with_batch(examples, _TRACED_BATCH) if free else examples
        for exporter in exporters:
            progress(
                f"exporting to ONNX with {exporter.name}" + ("" if free else ", with a fixed batch")
            )
            try:
                with quiet(), torch.no_grad():
                    model = exporter.export(inputs, free)
            except Exception as error:  # noqa: BLE001 - whatever the framework raises
                cause = root_cause(error)
                reason = f"{type(cause).__name__}: {one_line(cause)}"
                failures.append(f"{exporter.name}: {reason}")
                continue
            _correct_ranks(model, outputs)
            _name_batch(model)
            difference = _difference(model, run, examples, _PROBED_BATCHES if free else ())
            if difference is None:
                return ImportedModel(
                    model=model,
                    reference=reference_for(torch, run, model, where=where),
                    exporter=f"{exporter.name} {torch.__version__}",
                    warnings=() if _has_free_batch(model) else (_fixed_batch(examples, reasons),),
                )
            (reasons if free else failures).append(f"{exporter.name}: {difference}")
    named = next(filter(None, (exporter.unsupported() for exporter in exporters)), [])
    raise UnsupportedModelError(
        f"ONNX has no form of these operators of the model: {listed(named)}"
        if named
        else f"PyTorch cannot export this model to ONNX; {'; '.join(dict.fromkeys(failures))}",
        where=where,
        fix="write that part of forward() with operators that ONNX has, or leave it to the "
        "program that uses the model",
    )


def reference_for(
    torch: Any, run: Callable[[Mapping[str, Any]], list[Any]], model: Any, *, where: str
) -> ReferenceSession:
    """The module itself as a session, with the names and types of its ONNX form."""
    inputs, outputs = specs_of(model)
    return ReferenceSession(
        inputs=inputs,
        outputs=outputs,
        runtime=RuntimeInfo(
            name="torch", version=str(torch.__version__), threads=torch.get_num_threads()
        ),
        predict=run,
        where=where,
    )


def output_names(value: Any) -> list[str]:
    """Names for what a module returns: a mapping's own keys, else output, or output_0 and on."""
    if not isinstance(value, Mapping | list | tuple):
        return ["output"]
    names = [
        name.removeprefix("output_") if isinstance(value, Mapping) else name
        for name in _paths(value, "output")
    ]
    return ["output"] if len(names) == 1 and not isinstance(value, Mapping) else names


def flatten(value: Any) -> list[Any]:
    """The tensors of what a module returns, in the order that exporters give them."""
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in flatten(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in flatten(item)]
    return [value] if hasattr(value, "detach") else []


def _paths(value: Any, path: str) -> list[str]:
    if isinstance(value, Mapping):
        return [leaf for key, item in value.items() for leaf in _paths(item, f"{path}_{key}")]
    if isinstance(value, list | tuple):
        return [leaf for n, item in enumerate(value) for leaf in _paths(item, f"{path}_{n}")]
    return [path] if hasattr(value, "detach") else []


def _runner(torch: Any, module: Callable[..., Any]) -> Callable[[Mapping[str, Any]], list[Any]]:
    def run(inputs: Mapping[str, NDArray[np.generic]]) -> list[Any]:
        # A copy: a module may write into its inputs, and numpy's arrays may be read-only.
        tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
        with quiet(), torch.no_grad():
            answer = module(**tensors)
        return [tensor.detach().cpu().numpy() for tensor in flatten(answer)]

    return run


def _with_batch(examples: Arrays, batch: int) -> Arrays:
    """The same inputs with another number of samples."""
    return {
        name: np.ascontiguousarray(np.take(array, np.arange(batch) % array.shape[0], axis=0))
        for name, array in examples.items()
    }


def _may_be_free(examples: Arrays, run: Callable[[Arrays], list[Any]]) -> bool:
    """Whether the module runs with other batches, and every output follows its inputs' size."""
    if len({array.shape[0] for array in examples.values()}) > 1:
        return False
    for batch in {_TRACED_BATCH, *_PROBED_BATCHES}:
        try:
            outputs = run(_with_batch(examples, batch))
        except Exception:  # noqa: BLE001 - whatever the model raises
            return False
        if any(value.ndim == 0 or value.shape[0] != batch for value in outputs):
            return False
    return True


def _difference(
    model: Any, run: Callable[[Arrays], list[Any]], examples: Arrays, batches: Sequence[int]
) -> str | None:
    """Why an exported model is not what the module is; None where it computes the same."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = {value.name for value in session.get_inputs()}
        for inputs in (examples, *(_with_batch(examples, batch) for batch in batches)):
            expected = run(inputs)
            computed = session.run(None, {n: a for n, a in inputs.items() if n in names})
            shapes = [value.shape for value in computed]
            if shapes != [value.shape for value in expected]:
                return f"the exported model gives shapes {shapes} for a batch of another size"
            for want, have in zip(expected, computed, strict=True):
                scale = max(float(np.abs(np.nan_to_num(want)).max(initial=0.0)), 1e-6)
                off = np.abs(want.astype(np.float64) - have.astype(np.float64))
                if np.nan_to_num(off).max(initial=0.0) > _BATCH_TOLERANCE * scale:
                    return f"the exported model is off by {off.max():.3g} on the example inputs"
    except Exception as error:  # noqa: BLE001 - whatever the engine raises
        return f"the exported model does not run: {one_line(error)}"
    return None


def _has_free_batch(model: Any) -> bool:
    return any(
        value.type.tensor_type.shape.dim and value.type.tensor_type.shape.dim[0].dim_param
        for value in model.graph.input
    )


def _fixed_batch(examples: Arrays, reasons: Sequence[str]) -> str:
    batch = next(iter(examples.values())).shape[0]
    why = f" ({reasons[0]})" if reasons else ""
    return (
        f"the batch is fixed at {batch} sample(s), as in the example inputs: it could not be "
        f"kept free{why}"
    )


def _correct_ranks(model: Any, outputs: Sequence[Any]) -> None:
    """Leave the sizes of an output open whose number of axes the exporter got wrong.

    torch before 2.11 does so for the last state of an LSTM.
    """
    for declared, value in zip(model.graph.output, outputs, strict=False):
        shape = declared.type.tensor_type.shape
        if len(shape.dim) != value.ndim:
            del shape.dim[:]
            for _ in range(value.ndim):
                shape.dim.add()


def _name_batch(model: Any) -> None:
    """Call the free first axis `batch` instead of what the exporter numbered it."""
    graph = model.graph
    symbols = {
        value.type.tensor_type.shape.dim[0].dim_param
        for value in graph.input
        if value.type.tensor_type.shape.dim
    }
    symbols.discard("")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_param = BATCH
