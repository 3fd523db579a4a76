"""The process that holds a framework: reads one source, and runs it when asked.

Run as `python -m`; messages come by standard input and go by standard output, until the input ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgekit_converters.sources.frames import Message, pack_array, receive, send, unpack_array
from edgekit_converters.sources.imported import ImportedModel
from edgekit_converters.sources.kind import SourceKind
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.quiet import one_line
from edgekit_converters.sources.read import reader
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError


def main() -> None:
    """Answer messages until there are no more."""
    # Whatever a library prints must not get between the messages.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    serve(sys.stdin.buffer, answers)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer every message of a stream; the first names the source."""
    imported: ImportedModel | None = None
    where = ""
    while (message := receive(requests)) is not None:
        try:
            if imported is None:
                where = str(message.head["source"])
                imported = _load(message.head, answers)
                send(answers, _described(imported))
            else:
                names = [spec.name for spec in imported.reference.inputs]
                arrays = dict(zip(names, map(unpack_array, message.parts), strict=True))
                values = imported.reference.run(arrays).values()
                send(answers, Message(head={}, parts=[pack_array(_plain(v)) for v in values]))
        except EdgekitError as error:
            send(answers, _problem(error))
        except Exception as error:  # noqa: BLE001 - the other side tells the user
            failed = UnsupportedModelError(
                f"reading failed: {type(error).__name__}: {one_line(error)}",
                where=where,
                fix="the file may be damaged, or made for another version: save or copy it again",
            )
            send(answers, _problem(failed))


def _load(head: Any, answers: IO[bytes]) -> ImportedModel:
    sys.path.extend(path for path in head["paths"] if path and path not in sys.path)

    def progress(text: str) -> None:
        send(answers, Message(head={"progress": text}))

    read = reader(SourceKind(head["kind"]))
    return read(Path(head["source"]), SourceOptions.from_json(head["options"]), progress)


def _described(imported: ImportedModel) -> Message:
    content = imported.model.SerializeToString() if imported.model is not None else b""
    return Message(
        head={
            "runtime": asdict(imported.reference.runtime),
            "exporter": imported.exporter,
            "warnings": list(imported.warnings),
            "decision": asdict(imported.decision) if imported.decision else None,
        },
        parts=[content],
    )


def _plain(value: Any) -> Any:
    """Texts as an array of texts: an array of Python objects could only be pickled."""
    array = np.asarray(value)
    return array.astype(str) if array.dtype == object else array


def _problem(error: EdgekitError) -> Message:
    return Message(
        head={
            "error": type(error).__name__,
            "what": error.what,
            "where": error.where,
            "fix": error.fix,
        }
    )


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        main()
