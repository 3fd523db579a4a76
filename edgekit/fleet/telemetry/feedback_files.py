"""Feedback from a file: counts, or labels for samples that devices have sent.

CSV with a head, or JSON with an object a line. Either each line says how many answers were right:

    device,bundle,version,right,wrong[,id]

or it gives the true label of a sample that lies, as `edgekit fleet request samples --output` wrote
it, in a folder of its device:

    device,sample,label
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from edgekit.fleet.telemetry.feedback import ID_PATTERN, MAX_ANSWERS, Feedback
from edgekit_runtime.bundle.manifest import NAME_PATTERN
from edgekit_runtime.errors import EdgekitError, UsageError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.files import require_file
from edgekit_runtime.protocol import ID_PATTERN as DEVICE_PATTERN
from edgekit_runtime.versions import VERSION_PATTERN

_MOST_BYTES: Final = 64 << 20
_MOST_SAMPLE_BYTES: Final = 64 << 20
_MOST_LINES: Final = 1_000_000
_SHOWN_FAULTS: Final = 10
_SAMPLE: Final = re.compile(r"\d{1,20}-(?P<name>.{3,200})-(?:random|low-confidence)\.npz")
_COUNTS: Final = frozenset({"device", "bundle", "version", "right", "wrong", "id"})
_LABELS: Final = frozenset({"device", "sample", "label"})

#: The names of a version's classes; empty where they are not known.
ClassNames = Callable[[str, str], tuple[str, ...]]


def read_feedback(
    path: Path,
    *,
    samples: Path | None = None,
    class_names: ClassNames = lambda _bundle, _version: (),
) -> tuple[Feedback, ...]:
    """Read a file; the same file again gives the same ids.

    Args:
        path: `.csv`, or JSON with an object a line.
        samples: The folder of the samples, for labels.
        class_names: Turns labels that are names into numbers.

    Raises:
        UsageError: If it cannot be read, or a line is wrong; the first ten are named.
    """
    require_file(path, kind="the feedback")
    if path.stat().st_size > _MOST_BYTES:
        raise UsageError(f"it is larger than {_MOST_BYTES >> 20} MB", where=str(path))
    data = path.read_bytes()
    lines = _lines(data, path)
    if len(lines) > _MOST_LINES:
        raise UsageError(f"it has more than {_MOST_LINES} lines", where=str(path))
    digest = hashlib.sha256(data).hexdigest()[:16]
    found: list[Feedback] = []
    faults: list[str] = []
    for number, line in lines:
        reader = FieldReader(line, path=f"line {number}")
        if "label" in reader.names():
            item = _labelled(reader, samples, class_names)
        else:
            item = _counted(reader, usual_id=f"{digest}:{number}")
        faults += reader.faults
        if item is not None and not reader.faults:
            found.append(item)
        if len(faults) > _SHOWN_FAULTS:
            break
    if faults or not found:
        raise UsageError(
            "the feedback cannot be used: " + ("; ".join(faults[:_SHOWN_FAULTS]) or "it is empty"),
            where=str(path),
            fix="give lines of device,bundle,version,right,wrong, or of device,sample,label",
        )
    return tuple(found)


def _lines(data: bytes, path: Path) -> list[tuple[int, Any]]:
    try:
        text = data.decode("utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            return [(rows.line_num, _typed(row)) for row in rows]
        lines = enumerate(text.splitlines(), start=1)
        return [(number, json.loads(line)) for number, line in lines if line.strip()]
    except (UnicodeDecodeError, ValueError, csv.Error, RecursionError) as error:
        raise UsageError(
            f"the feedback cannot be read: {' '.join(str(error).split())[:200]}",
            where=str(path),
            fix="write CSV with a head in a .csv file, or an object of JSON on each line",
        ) from error


def _typed(row: Mapping[str | None, Any]) -> dict[str, Any]:
    """A line of CSV: counts are numbers, and what stands beyond the head is a fault."""
    typed: dict[str, Any] = {}
    for name, value in row.items():
        if name is None:
            typed["beyond the head"] = value
        elif value is not None and value != "":
            number = name in {"right", "wrong"} and re.fullmatch(r"\d{1,9}", value)
            typed[name] = int(value) if number else value
    return typed


def _counted(reader: FieldReader, *, usual_id: str) -> Feedback:
    _refuse_unknown(reader, _COUNTS)
    right, wrong = reader.raw("right"), reader.raw("wrong")
    if isinstance(right, bool) and wrong is None:
        # One answer.
        counts = (int(right), int(not right))
    else:
        counts = (
            reader.integer("right", most=MAX_ANSWERS),
            reader.integer("wrong", most=MAX_ANSWERS),
        )
        if sum(counts) == 0:
            reader.fault("right", "is 0, and so is wrong")
    return Feedback(
        device=_word(reader, "device", DEVICE_PATTERN, like="oven-001"),
        bundle=_word(reader, "bundle", NAME_PATTERN, like="digits"),
        version=_word(reader, "version", VERSION_PATTERN, like="1.4.0"),
        id=reader.text("id", pattern=ID_PATTERN, default=usual_id),
        right=counts[0],
        wrong=counts[1],
    )


def _labelled(
    reader: FieldReader, samples: Path | None, class_names: ClassNames
) -> Feedback | None:
    _refuse_unknown(reader, _LABELS)
    device = _word(reader, "device", DEVICE_PATTERN, like="oven-001")
    sample = reader.text("sample", most=256)
    label = str(reader.raw("label"))
    if samples is None:
        reader.fault("label", "needs the folder of the samples: --samples")
    named = _version_of(sample)
    if named is None:
        reader.fault("sample", "names no bundle and version")
    if reader.faults or samples is None or named is None:
        return None
    bundle, version = named
    answer = _answer(reader, samples / device / sample)
    names = class_names(bundle, version)
    wanted = names.index(label) if label in names else None
    if wanted is None and re.fullmatch(r"\d{1,9}", label):
        wanted = int(label)
    if wanted is None:
        known = f"; {bundle} {version} has {', '.join(names[:10])}" if names else ""
        reader.fault("label", f"{label[:80]!r} is no class number, and no name of a class{known}")
    if answer is None or wanted is None:
        return None
    return Feedback(
        device=device,
        bundle=bundle,
        version=version,
        id=f"sample:{hashlib.sha256(sample.encode()).hexdigest()[:32]}",
        right=int(answer == wanted),
        wrong=int(answer != wanted),
    )


def _version_of(sample: str) -> tuple[str, str] | None:
    """Bundle and version of a sample's name; both may hold dashes."""
    found = _SAMPLE.fullmatch(sample)
    parts = found["name"].split("-") if found else []
    for place in range(1, len(parts)):
        bundle, version = "-".join(parts[:place]), "-".join(parts[place:])
        if re.fullmatch(NAME_PATTERN, bundle) and re.fullmatch(VERSION_PATTERN, version):
            return bundle, version
    return None


def _answer(reader: FieldReader, path: Path) -> int | None:
    """The class that the model named, by the first output of a sample."""
    from edgekit_runtime.bundle.golden import load_arrays

    try:
        if path.stat().st_size > _MOST_SAMPLE_BYTES:
            raise ValueError("it is too large")
        arrays = load_arrays(path.read_bytes(), where=str(path))
        first = next(array for name, array in arrays.items() if name.startswith("output:"))
    except (OSError, ValueError, StopIteration, EdgekitError) as error:
        why = error.what if isinstance(error, EdgekitError) else str(error) or "it has no output"
        reader.fault("sample", f"cannot be read: {why}")
        return None
    if first.size == 1:
        return int(first.reshape(-1)[0])
    if first.ndim > 1 and first.shape[0] == 1:
        return int(first.reshape(-1).argmax())
    reader.fault("sample", "holds several answers, or none that names a class")
    return None


def _word(reader: FieldReader, field: str, pattern: str, *, like: str) -> str:
    value = reader.text(field)
    if value and not re.fullmatch(pattern, value):
        reader.fault(field, f"{value[:80]!r} is none; write it like {like}")
    return value


def _refuse_unknown(reader: FieldReader, known: frozenset[str]) -> None:
    for name in sorted(set(reader.names()) - known):
        reader.fault(name, f"is unknown; known are {', '.join(sorted(known))}")
