"""Read a source in a process of its own, which then runs it when asked.

A framework may end the process on a damaged file, write to the terminal from native code, keep
gigabytes once it is imported, or disagree with the libraries around it. None of that reaches the
conversion; and all of it ends with the conversion, however that ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from edgekit_converters.sources.decision import Decision
from edgekit_converters.sources.frames import Message, pack_array, receive, send, unpack_array
from edgekit_converters.sources.imported import (
    ImportedModel,
    Progress,
    ReferenceSession,
    specs_of,
)
from edgekit_converters.sources.kind import SourceKind
from edgekit_converters.sources.options import SourceOptions
from edgekit_runtime.errors import (
    EdgekitError,
    EnvironmentLackError,
    UnsupportedModelError,
    UsageError,
)
from edgekit_runtime.extras import require
from edgekit_runtime.session import RuntimeInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ERRORS: Final = {
    kind.__name__: kind for kind in (UsageError, UnsupportedModelError, EnvironmentLackError)
}
_SHOWN_LINES: Final = 3
_ENVIRONMENT: Final = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # With it the order of TensorFlow's additions, and so the last digits, depend on the machine.
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
}


def import_in_process(
    source: Path, kind: SourceKind, options: SourceOptions, progress: Progress
) -> ImportedModel:
    """Read a source; see `import_source` for the arguments and the errors.

    Raises:
        UnsupportedModelError: Also if the process ends: the file crashes its framework.
    """
    onnx: Any = require("onnx", extra="convert")
    child = _Child(str(source))
    try:
        answer = child.ask(
            Message(
                head={
                    "command": "load",
                    "kind": kind.value,
                    "source": str(source),
                    "paths": sys.path,
                    "options": options.to_json(),
                }
            ),
            progress,
        )
        return _described(onnx, child, answer)
    except BaseException:
        child.close()
        raise


def _described(onnx: Any, child: _Child, answer: Message) -> ImportedModel:
    head = answer.head
    model = onnx.load_from_string(answer.parts[0])
    inputs, outputs = specs_of(model)

    def predict(arrays: Mapping[str, NDArray[np.generic]]) -> list[NDArray[Any]]:
        parts = [pack_array(arrays[spec.name]) for spec in inputs]
        asked = Message(head={"command": "predict"}, parts=parts)
        return [unpack_array(part) for part in child.ask(asked).parts]

    decision = head["decision"]
    return ImportedModel(
        model=model,
        reference=ReferenceSession(
            inputs=inputs,
            outputs=outputs,
            runtime=RuntimeInfo(**head["runtime"]),
            predict=predict,
            where=child.where,
            close=child.close,
        ),
        exporter=str(head["exporter"]),
        decision=Decision(**{**decision, "classes": tuple(decision["classes"])})
        if decision
        else None,
        warnings=tuple(head["warnings"]),
    )


class _Child:
    """The process; it ends when this object or this process does."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            # Without the current folder on its path: a file there must not stand in for a package.
            [sys.executable, "-P", "-m", "edgekit_converters.sources.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **_ENVIRONMENT},
        )
        self.close = weakref.finalize(self, _end, self._process, self._log)

    def ask(self, message: Message, progress: Progress | None = None) -> Message:
        """Send a message and wait for the answer; raise the error that the answer may be."""
        answer = self._exchange(message, progress)
        if answer is None:
            raise UnsupportedModelError(
                f"the framework crashed on this model ({self._last_words()})",
                where=self.where,
                fix="the file is damaged, or made for another version: save or copy it again",
            )
        error = answer.head.get("error")
        if error is not None:
            kind: type[EdgekitError] = _ERRORS.get(error, UnsupportedModelError)
            raise kind(answer.head["what"], where=answer.head["where"], fix=answer.head["fix"])
        return answer

    def _exchange(self, message: Message, progress: Progress | None) -> Message | None:
        to, back = self._process.stdin, self._process.stdout
        if to is None or back is None:
            return None
        try:
            send(to, message)
            while (answer := receive(back)) is not None and "progress" in answer.head:
                if progress is not None:
                    progress(str(answer.head["progress"]))
        except (BrokenPipeError, ValueError):
            return None
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        if code < 0:
            return signal.Signals(-code).name
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return " / ".join(lines[-_SHOWN_LINES:]) or f"exit code {code}"


def _end(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, log):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:
                continue
