"""What a bundle's maker says of pre- and postprocessing: a TOML or JSON file, or some options.

The file may be the `preprocessing.json` that lies beside the pictures of a calibration set; a
bundle needs no more than that. Which tensors there are is known later: see `pipeline_fit`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgekit_converters.calibration.preprocessing import FILE_NAME
from edgekit_runtime.bundle.manifest import Step
from edgekit_runtime.errors import UsageError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.files import require_file, sha256_of
from edgekit_runtime.media.image import COLOURS, FITS

_MOST_BYTES: Final = 1 << 20
_MOST_STEPS: Final = 64
#: What each step may be told.
PARAMETERS: Final[Mapping[str, frozenset[str]]] = {
    "affine": frozenset({"scale", "offset", "axis"}),
    "argmax": frozenset(),
    "cast": frozenset({"dtype"}),
    "clip": frozenset({"low", "high"}),
    "image": frozenset({"colour", "fit"}),
    "sigmoid": frozenset(),
    "softmax": frozenset(),
    "sound": frozenset({"sample_rate_hz"}),
}
# Only calibration asks for these: a bundle's tensors have the sizes of its models.
_OF_CALIBRATION: Final = frozenset({"size", "length"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The steps of a bundle, before it is known which tensors its models have.

    Attributes:
        preprocessing: Between an application's input and the model; a step whose tensor is "" is
            of the only one.
        postprocessing: Between the model and an application's output.
        dtypes: What applications give, by input, where it is not to be found out.
        meanings: For people, by input or output.
        where: The file, for errors and the lineage; "" for options.
        sha256: Of the file.
        implied: How many of the first steps were not written as steps; errors count the others.
    """

    preprocessing: tuple[Step, ...] = ()
    postprocessing: tuple[Step, ...] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)
    where: str = ""
    sha256: str = ""
    implied: int = 0


def read_pipeline(path: Path) -> Pipeline:
    """Read a pipeline from a `.toml` or `.json` file.

    Raises:
        UsageError: If there is no such file, it cannot be read, or it holds something else; every
            field that is wrong is named.
    """
    require_file(path, kind="the pipeline")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"the pipeline cannot be read: {' '.join(str(error).split())[:200]}",
            where=str(path),
            fix="write TOML in a .toml file, or JSON in a .json file",
        ) from error
    reader = FieldReader(document)
    known = {"preprocessing", "postprocessing", "inputs", "outputs"}
    media = {"colour", "fit", "sample_rate_hz"}
    for name in sorted(set(reader.names()) - known - media - _OF_CALIBRATION):
        reader.fault(name, f"is unknown; known are {', '.join(sorted(known | media))}")
    dtypes: dict[str, str] = {}
    meanings: dict[str, str] = {}
    for side in ("inputs", "outputs"):
        tensors = reader.nested(side, optional=True)
        for name in tensors.names():
            _read_tensor(tensors.nested(name), name, side, dtypes, meanings)
    implied = _media_steps(reader)
    found = Pipeline(
        preprocessing=(
            *implied,
            *reader.items("preprocessing", _read_step, optional=True, most=_MOST_STEPS),
        ),
        postprocessing=reader.items("postprocessing", _read_step, optional=True, most=_MOST_STEPS),
        dtypes=dtypes,
        meanings=meanings,
        where=str(path),
        sha256=sha256_of(path),
        implied=len(implied),
    )
    if reader.faults:
        raise pipeline_error(reader.faults, where=str(path))
    return found


def pipeline_beside(data: Path) -> Pipeline | None:
    """The pipeline in a folder of pictures or sound, where one lies there."""
    beside = data / FILE_NAME
    return read_pipeline(beside) if data.is_dir() and beside.is_file() else None


def pipeline_of_options(
    *,
    image: str = "",
    sound_hz: int = 0,
    scale: Sequence[float] = (),
    offset: Sequence[float] = (),
    then: Sequence[str] = (),
) -> Pipeline | None:
    """The pipeline that some options ask for, of models with one input; None for none of them.

    Args:
        image: "rgb", "bgr,crop": the input takes pictures.
        sound_hz: The input takes sound of that sampling rate.
        scale: What values are multiplied by: one number, or one a channel.
        offset: What is added afterwards.
        then: Names of steps after the model.

    Raises:
        UsageError: If the options do not fit together.
    """
    steps: list[Step] = []
    if image and sound_hz:
        raise UsageError("an input takes pictures or sound, not both")
    if image:
        colour, _, fit = image.partition(",")
        faults = [] if colour in COLOURS else [f"{colour!r} is none of {', '.join(COLOURS)}"]
        if fit and fit not in FITS:
            faults.append(f"{fit!r} is none of {', '.join(FITS)}")
        if faults:
            raise UsageError(
                f"--image: {'; '.join(faults)}", fix="write COLOUR or COLOUR,FIT: rgb,crop"
            )
        parameters: dict[str, object] = {"colour": colour}
        if fit:
            parameters["fit"] = fit
        steps.append(Step(op="image", tensor="", parameters=parameters))
    if sound_hz:
        steps.append(Step(op="sound", tensor="", parameters={"sample_rate_hz": sound_hz}))
    numbers = {"scale": scale, "offset": offset}
    given = {
        name: list(values) if len(values) > 1 else values[0]
        for name, values in numbers.items()
        if values
    }
    if given:
        steps.append(Step(op="affine", tensor="", parameters=dict(given)))
    after = tuple(Step(op=op, tensor="") for op in then)
    if not steps and not after:
        return None
    return Pipeline(preprocessing=tuple(steps), postprocessing=after)


def pipeline_error(faults: Sequence[str], *, where: str) -> UsageError:
    """The error that names every fault of a pipeline."""
    return UsageError(
        f"the pipeline cannot be used: {'; '.join(faults)}",
        where=where or None,
        fix="see docs/bundles.md for the steps and what each may be told",
    )


def _media_steps(reader: FieldReader) -> tuple[Step, ...]:
    """The steps that `preprocessing.json` says with fields of its own."""
    names = set(reader.names())
    # A calibration set's `size` is of pictures, and its `length` of sound.
    steps: list[Step] = []
    if names & {"colour", "fit"}:
        colour = reader.text("colour", pattern="|".join(COLOURS), default="rgb")
        fit = reader.text("fit", pattern="|".join(FITS), default="stretch")
        steps.append(Step(op="image", tensor="", parameters={"colour": colour, "fit": fit}))
    if "sample_rate_hz" in names:
        rate_hz = reader.integer("sample_rate_hz", least=1)
        steps.append(Step(op="sound", tensor="", parameters={"sample_rate_hz": rate_hz}))
    return tuple(steps)


def _read_step(reader: FieldReader) -> Step:
    op = reader.text("op", most=64)
    allowed = PARAMETERS.get(op)
    if allowed is None:
        if op:
            reader.fault("op", f"{op!r} is no step; there are {', '.join(PARAMETERS)}")
        allowed = frozenset()
    inside = reader.nested("parameters", optional=True)
    given = {name: inside.raw(name) for name in inside.names()}
    # TOML reads better without a table in the table.
    given |= {n: reader.raw(n) for n in reader.names() if n not in {"op", "tensor", "parameters"}}
    for name in sorted(set(given) - allowed) if op in PARAMETERS else ():
        takes = f"it takes {', '.join(sorted(allowed))}" if allowed else "it takes none"
        reader.fault(name, f"the step {op} has no such parameter; {takes}")
    for name, value in given.items():
        if not all(map(_is_plain, value if isinstance(value, list) else [value])):
            reader.fault(name, "must be a word, a finite number, or a list of numbers")
    return Step(op=op, tensor=reader.text("tensor", default="", most=256), parameters=given)


def _is_plain(value: object) -> bool:
    if isinstance(value, int | float):
        return not isinstance(value, bool) and abs(value) < float("inf")
    return isinstance(value, str)


def _read_tensor(
    reader: FieldReader, name: str, side: str, dtypes: dict[str, str], meanings: dict[str, str]
) -> None:
    known = {"meaning", "dtype"} if side == "inputs" else {"meaning"}
    for unknown in sorted(set(reader.names()) - known):
        reader.fault(unknown, f"is unknown; known are {', '.join(sorted(known))}")
    if "meaning" in reader.names():
        meanings[name] = reader.text("meaning", most=1_000)
    if "dtype" in known and "dtype" in reader.names():
        dtypes[name] = reader.text("dtype", pattern=r"float16|float32|float64|u?int(?:8|16|32|64)")
