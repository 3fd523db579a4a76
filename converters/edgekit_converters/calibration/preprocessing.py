"""How the files of a folder become what a model takes: the bundle's steps, and how to decode."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_runtime.bundle.archive import BundleArchive
from edgekit_runtime.bundle.manifest import Step
from edgekit_runtime.errors import EdgekitError, UsageError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.media.image import COLOURS, FITS
from edgekit_runtime.processing import apply_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.tensors import TensorSpec

#: The file in a folder of images or sound that says how to preprocess them.
FILE_NAME: Final = "preprocessing.json"

_MOST_BYTES: Final = 1 << 20
_LARGEST_SIDE: Final = 1 << 14
_LONGEST: Final = 1 << 27


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What `preprocessing.json` says.

    Attributes:
        steps: As in a bundle's manifest, under `preprocessing`: run on what was decoded.
        colour: The order of an image's channels: "rgb" or "bgr".
        fit: How an image gets the model's size: "stretch", "crop" (its middle) or "pad" (black).
        size: Height and width of images where the model leaves them free.
        length: Samples of sound where the model leaves them free.
        sample_rate_hz: What every sound must have been recorded with; None: all the same.
    """

    steps: tuple[Step, ...] = ()
    colour: str = "rgb"
    fit: str = "stretch"
    size: tuple[int, int] | None = None
    length: int | None = None
    sample_rate_hz: int | None = None

    def apply(self, decoded: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
        """Run the steps on samples of an input, and give them its dtype.

        Raises:
            UsageError: If what comes out does not fit the input.
        """
        made = apply_steps(self.steps, {spec.name: decoded})[spec.name]
        if made.shape != decoded.shape or not np.can_cast(
            made.dtype, np.dtype(spec.dtype), casting="same_kind"
        ):
            raise UsageError(
                f"preprocessing makes {made.dtype.name}{list(made.shape[1:])} of a file, the "
                f"input {spec.name!r} takes {spec.dtype}{list(decoded.shape[1:])}",
                where=FILE_NAME,
                fix="leave out the steps that the model does not need",
            )
        return np.ascontiguousarray(made, np.dtype(spec.dtype))


def bundle_steps(bundle: Path) -> tuple[Step, ...]:
    """The preprocessing of a bundle.

    Raises:
        UsageError: If the file is missing, or the bundle has none.
        InvalidBundleError: If it is no bundle.
    """
    with BundleArchive(bundle) as archive:
        steps = archive.manifest.preprocessing
    if not steps:
        raise UsageError(
            "the bundle has no preprocessing",
            where=str(bundle),
            fix=f"leave it out, or write a {FILE_NAME} into the folder of the data",
        )
    return steps


def read_preprocessing(
    folder: Path, spec: TensorSpec, *, steps: Sequence[Step] | None
) -> tuple[Preprocessing, bool]:
    """Read what a folder says of the preprocessing of its files.

    Args:
        folder: It may hold a `preprocessing.json`.
        spec: The input that the steps must name.
        steps: Of a bundle; they replace those of the folder.

    Returns:
        The preprocessing, and whether steps were given at all.

    Raises:
        UsageError: If the file is no such JSON, or a step is unknown, or for another input.
    """
    path = folder / FILE_NAME
    found, given = Preprocessing(), False
    if path.is_file():
        found, given = _read(path), True
    if steps is not None:
        found, given = replace(found, steps=tuple(steps)), True
    found = _decoding(found, where=str(path))
    others = sorted({step.tensor for step in found.steps} - {spec.name})
    if others:
        raise UsageError(
            f"preprocessing names {', '.join(others)}, the model's input is {spec.name!r}",
            where=str(path),
            fix=f'write "tensor": "{spec.name}" in every step',
        )
    try:
        apply_steps(found.steps, {spec.name: np.zeros((1, 1), np.uint8)})
    except EdgekitError as error:
        raise UsageError(error.what, where=str(path), fix=error.fix) from error
    return found, given


def _decoding(found: Preprocessing, *, where: str) -> Preprocessing:
    """The preprocessing that decodes files as a device does: by its steps `image` and `sound`."""
    for step in found.steps:
        if step.op == "image":
            colour = step.parameters.get("colour", found.colour)
            fit = step.parameters.get("fit", found.fit)
            if colour not in COLOURS or fit not in FITS:
                raise UsageError(
                    f"the step `image` takes a colour ({', '.join(COLOURS)}) and a fit "
                    f"({', '.join(FITS)})",
                    where=where,
                )
            found = replace(found, colour=str(colour), fit=str(fit))
        elif step.op == "sound":
            rate_hz = step.parameters.get("sample_rate_hz")
            if isinstance(rate_hz, int):
                found = replace(found, sample_rate_hz=rate_hz)
    return found


def _read(path: Path) -> Preprocessing:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
        document = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"this is no readable JSON: {' '.join(str(error).split())[:200]}",
            where=str(path),
            fix="write an object, with a bundle's steps under 'preprocessing'",
        ) from error
    reader = FieldReader(document)
    sizes = reader.sequence("size", optional=True, most=2)
    whole = [s for s in sizes if isinstance(s, int) and not isinstance(s, bool)]
    if len(whole) not in {0, 2} or len(whole) != len(sizes) or not all(
        0 < size <= _LARGEST_SIDE for size in whole
    ):  # fmt: skip
        reader.fault("size", "must be a height and a width in pixels")
    known = {"preprocessing", "colour", "fit", "size", "length", "sample_rate_hz"}
    for name in set(reader.names()) - known:
        reader.fault(name, f"is not known; known are {', '.join(sorted(known))}")
    found = Preprocessing(
        steps=reader.items("preprocessing", _step, optional=True, most=64),
        colour=reader.text("colour", pattern="rgb|bgr", default="rgb"),
        fit=reader.text("fit", pattern="stretch|crop|pad", default="stretch"),
        size=(whole[0], whole[1]) if len(whole) == 2 else None,  # noqa: PLR2004 - as above
        length=_optional(reader, "length"),
        sample_rate_hz=_optional(reader, "sample_rate_hz"),
    )
    if reader.faults:
        raise UsageError(
            f"this preprocessing cannot be used: {'; '.join(sorted(reader.faults))}",
            where=str(path),
            fix="see docs/quantization-data.md",
        )
    return found


def _optional(reader: FieldReader, name: str) -> int | None:
    return reader.integer(name, least=1, most=_LONGEST) if name in reader.names() else None


def _step(reader: FieldReader) -> Step:
    parameters = reader.raw("parameters")
    if not isinstance(parameters, Mapping | None):
        reader.fault("parameters", "must be an object")
    return Step(
        op=reader.text("op"),
        tensor=reader.text("tensor"),
        parameters=dict(parameters) if isinstance(parameters, Mapping) else {},
    )
