"""Write a candidate as a file, and see what the engine makes of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.quantize.write_litert import write_litert
from edgekit_converters.quantize.write_onnx import write_onnx
from edgekit_runtime.errors import UsageError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.session import open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.litert.layout import Permutation
    from edgekit_converters.repair.attempts import Candidate
    from edgekit_converters.repair.simulation import Batch

#: Gives what is lost by a model whose outputs these are.
DropOf = Callable[[Mapping[str, "NDArray[Any]"]], float]

_WHERE: Final = "the candidate"


def write_candidate(
    candidate: Candidate, target: ModelFormat, output: Path
) -> Mapping[str, Permutation]:
    """Write the quantized model that a candidate stands for.

    Args:
        candidate: What to write.
        target: In which format; a LiteRT file's inputs and outputs keep the source's order of axes.
        output: The file; its folder exists.

    Returns:
        The inputs and outputs whose axes are in another order all the same.

    Raises:
        UnsupportedModelError: If the format cannot express the model.
    """
    if target is ModelFormat.ONNX:
        write_onnx(candidate.model, candidate.plan, output, where=_WHERE)
        return {}
    compiled = compile_to_litert(candidate.model, where=_WHERE)
    write_litert(compiled, candidate.plan, output, where=_WHERE, normalised=candidate.model)
    return compiled.borders


def written_answers(
    candidate: Candidate, target: ModelFormat, batches: Iterable[Batch]
) -> dict[str, NDArray[Any]]:
    """What the engine computes from a candidate's file, all batches one behind the other.

    onnxruntime runs its plain kernels, which do not saturate on x86; LiteRT's do not either way.

    Raises:
        UsageError: If there are no batches.
        UnsupportedModelError: If the format cannot express the model, or the engine fails.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / f"candidate{target.suffix}"
        write_candidate(candidate, target, path)
        session = open_session(path, reference_kernels=target is ModelFormat.ONNX)
        try:
            parts = [session.run(batch) for batch in batches]
        finally:
            session.close()
    if not parts:
        raise UsageError("there is no data to run the model on")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def confirmed_drop(
    targets: Sequence[ModelFormat], batches: Sequence[Batch], drop_of: DropOf
) -> Callable[[Candidate], float]:
    """What `Judges.confirm` wants: the largest drop of a candidate's files in some formats.

    Args:
        targets: The formats that will be written.
        batches: Data to evaluate on.
        drop_of: What is lost, by the outputs for all of it.
    """

    def confirm(candidate: Candidate) -> float:
        return max(drop_of(written_answers(candidate, target, batches)) for target in targets)

    return confirm
