"""An ONNX file: it is its own ONNX form, and onnxruntime runs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.onnx_source import read_onnx
from edgekit_converters.onnx_source.tensors import stored_bytes, type_name
from edgekit_converters.onnx_source.walk import tensors
from edgekit_converters.sources.imported import Arrays, ImportedModel, Progress
from edgekit_converters.sources.options import SourceOptions
from edgekit_runtime.session import Session, open_session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# onnxruntime (1.32) holds the weights of a model that it optimises three times, others once.
_MOST_OPTIMISED_BYTES: Final = 1 << 25


def import_onnx_file(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Read and check an ONNX file; see `read_onnx` and `open_session` for the errors."""
    del options, progress
    model = read_onnx(source)
    if _weight_bytes(model) <= _MOST_OPTIMISED_BYTES:
        return ImportedModel(model=model, reference=open_session(source))
    plain = partial(open_session, source, reference_kernels=True)
    return ImportedModel(model=model, reference=_IdleSession(plain))


class _IdleSession:
    """A session whose engine lets go of the model until it is first asked to run it."""

    def __init__(self, open_again: Callable[[], Session]) -> None:
        """Open it once: that the engine takes the model, and what it says about it, is known."""
        session = open_again()
        self.inputs, self.outputs = session.inputs, session.outputs
        self.runtime = session.runtime
        session.close()
        self._open_again = open_again
        self._session: Session | None = None

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run one inference; see `Session.run`."""
        if self._session is None:
            self._session = self._open_again()
        return self._session.run(inputs)

    def close(self) -> None:
        """Let go of the model."""
        if self._session is not None:
            self._session.close()
            self._session = None


def _weight_bytes(model: Any) -> int:
    return sum(
        stored_bytes(math.prod(tensor.dims), type_name(tensor.data_type))
        for _, tensor in tensors(model)
    )
