"""An ONNX file: it is its own ONNX form, and onnxruntime runs it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, Final

from edgekit_converters.onnx_source import read_onnx
from edgekit_converters.onnx_source.tensors import stored_bytes, type_name
from edgekit_converters.onnx_source.walk import tensors
from edgekit_converters.sources.idle import IdleSession
from edgekit_converters.sources.imported import ImportedModel, Progress
from edgekit_converters.sources.options import SourceOptions
from edgekit_runtime.session import open_session

# onnxruntime (1.32) holds the weights of a model that it optimises three times, others once.
_MOST_OPTIMISED_BYTES: Final = 1 << 25


def import_onnx_file(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Read and check an ONNX file; see `read_onnx` and `open_session` for the errors."""
    del options, progress
    model = read_onnx(source)
    if _weight_bytes(model) <= _MOST_OPTIMISED_BYTES:
        return ImportedModel(model=model, reference=open_session(source))
    plain = partial(open_session, source, reference_kernels=True)
    return ImportedModel(model=model, reference=IdleSession(plain))


def _weight_bytes(model: Any) -> int:
    return sum(
        stored_bytes(math.prod(tensor.dims), type_name(tensor.data_type))
        for _, tensor in tensors(model)
    )
