"""A model over many files: one line of JSON for each request, and what went wrong with which."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from edgekit_agent.local import ARRAY_SUFFIXES, LocalModel, media_type
from edgekit_agent.plain_bodies import is_media
from edgekit_runtime.errors import EdgekitError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_FAULTS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """How a batch went.

    Attributes:
        files: How many were read to their end.
        answers: Requests that were answered.
        failed: Files that could not be read, and requests that the model did not answer.
        faults: The first of them, each with its file.
        seconds: Wall time of all.
        median_ms: Of the model with its pre- and postprocessing; 0 for no answer.
        interrupted: Whether somebody ended it before it was done.
    """

    files: int
    answers: int
    failed: int
    faults: tuple[str, ...]
    seconds: float
    median_ms: float
    interrupted: bool = False

    def to_json(self) -> dict[str, object]:
        """The summary as JSON."""
        return asdict(self)


def find_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Files, and in folders everything below them that a model can be given, by name.

    Raises:
        UsageError: If a path does not exist, or there is no such file at all.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(
                file
                for file in path.rglob("*")
                if file.is_file()
                and (file.suffix.lower() in ARRAY_SUFFIXES or is_media(media_type(file)))
            )
        elif path.exists():
            found.append(path)
        else:
            raise UsageError("no such file or folder", where=str(path), fix="check the path")
    if not found:
        raise UsageError(
            "there are no pictures, sounds or arrays",
            where=", ".join(map(str, paths)),
            fix="give .png, .jpg, .wav, .npy or .npz files, or a folder of them",
        )
    return tuple(found)


def run_batch(
    model: LocalModel,
    files: Sequence[Path],
    output: IO[str],
    *,
    progress: Callable[[Path], None] = lambda _: None,
) -> BatchSummary:
    """Answer every request in some files, and write a line of JSON for each.

    What fails is a line too, and does not end the batch. Ctrl-C ends it: what was answered stays.

    Args:
        model: Who answers.
        files: In this order.
        output: Where the lines go.
        progress: Told of every file that is done.
    """
    started = time.monotonic()
    answers, failed = 0, 0
    faults: list[str] = []
    latencies_ms: list[float] = []
    done, interrupted = 0, False
    try:
        for path in files:
            for index, outcome, milliseconds in _answers(model, path):
                line: dict[str, object] = {"file": str(path), "index": index}
                if isinstance(outcome, EdgekitError):
                    failed += 1
                    if len(faults) < _MOST_FAULTS:
                        faults.append(f"{path} [{index}]: {outcome.what}")
                    line["error"] = outcome.what
                else:
                    answers += 1
                    latencies_ms.append(milliseconds)
                    line["outputs"] = {name: array.tolist() for name, array in outcome.items()}
                output.write(json.dumps(line, separators=(",", ":")) + "\n")
            done += 1
            progress(path)
    except KeyboardInterrupt:
        interrupted = True
    return BatchSummary(
        files=done,
        interrupted=interrupted,
        answers=answers,
        failed=failed,
        faults=tuple(faults),
        seconds=time.monotonic() - started,
        median_ms=statistics.median(latencies_ms) if latencies_ms else 0.0,
    )


def _answers(
    model: LocalModel, path: Path
) -> Iterator[tuple[int, dict[str, NDArray[np.generic]] | EdgekitError, float]]:
    """Of every request in a file: its number, the answer or the error, and how long it took."""
    index = 0
    requests = model.read_file(path)
    while True:
        try:
            inputs = next(requests, None)
        except (EdgekitError, TypeError) as error:
            known = error if isinstance(error, EdgekitError) else UsageError(str(error))
            yield index, known, 0.0
            return
        if inputs is None:
            return
        began = time.perf_counter()
        try:
            outcome: dict[str, NDArray[np.generic]] | EdgekitError = model.infer(inputs)
        except EdgekitError as error:
            outcome = error
        yield index, outcome, (time.perf_counter() - began) * 1e3
        index += 1
