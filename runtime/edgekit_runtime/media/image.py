"""A picture, decoded and brought to the size, the channels and the layout of an input."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_runtime.errors import InvalidBundleError, UsageError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}
# Three channels are likelier than one, one than four.
_LIKELY_CHANNELS: Final = (3, 1, 4)
FITS: Final = ("stretch", "crop", "pad")
COLOURS: Final = ("rgb", "bgr")


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLayout:
    """Where an input has the parts of a picture.

    Attributes:
        height: In pixels; None to take it from the picture.
        width: In pixels; None to take it from the picture.
        channels: 1, 3 or 4.
        channels_axis: Of one sample: 0, 2, or -1 where there is no axis for them.
        colour: "rgb" or "bgr".
        fit: How a picture gets that size: "stretch", "crop" (its middle) or "pad" (with black).
    """

    height: int | None
    width: int | None
    channels: int
    channels_axis: int
    colour: str = "rgb"
    fit: str = "stretch"


def picture_layout(
    shape: Sequence[int | None], parameters: Mapping[str, object], *, where: str
) -> PictureLayout:
    """Find the layout of an input.

    Args:
        shape: Of the input with its batch axis.
        parameters: Of the bundle's `image` step: `colour` and `fit`; empty for none.
        where: The input, for the error.

    Raises:
        UsageError: If the input takes no pictures.
        InvalidBundleError: If a parameter is wrong.
    """
    colour, fit = parameters.get("colour", "rgb"), parameters.get("fit", "stretch")
    if colour not in COLOURS or fit not in FITS:
        raise InvalidBundleError(
            f"the step `image` takes a colour ({', '.join(COLOURS)}) and a fit ({', '.join(FITS)})",
            where=where,
        )
    sample = shape[1:]
    axis, channels = _channels(sample)
    if not channels:
        raise UsageError("this input takes no pictures", where=where, fix="send a tensor")
    height, width = (size for position, size in enumerate(sample) if position != axis)
    return PictureLayout(
        height=height,
        width=width,
        channels=channels,
        channels_axis=axis,
        colour=str(colour),
        fit=str(fit),
    )


def decode_picture(
    data: bytes | bytearray | memoryview, layout: PictureLayout
) -> NDArray[np.uint8]:
    """The pixels, 0 to 255, as a batch of one.

    Args:
        data: A PNG, JPEG, WebP, BMP or TIFF file.
        layout: What to make of it.

    Raises:
        UsageError: If it is none of these, damaged, or far too large.
        EnvironmentLackError: If Pillow is not installed.
    """
    try:
        pixels = read_pixels(
            io.BytesIO(data),
            channels=layout.channels,
            height=layout.height,
            width=layout.width,
            fit=layout.fit,
        )
    except ValueError as error:
        raise UsageError(
            f"this picture cannot be read: {error}", fix="send an 8-bit PNG or JPEG"
        ) from error
    if layout.channels_axis < 0:
        return pixels[np.newaxis]
    pixels = pixels.reshape(pixels.shape[0], pixels.shape[1], -1)
    if layout.colour == "bgr" and layout.channels == 3:  # noqa: PLR2004 - red, green, blue
        pixels = pixels[:, :, ::-1]
    return np.ascontiguousarray(np.moveaxis(pixels, 2, layout.channels_axis)[np.newaxis])


def read_pixels(
    file: Path | IO[bytes], *, channels: int, height: int | None, width: int | None, fit: str
) -> NDArray[np.uint8]:
    """The pixels of a picture, 0 to 255: [height, width], and channels last where it has several.

    Args:
        file: PNG, JPEG, WebP, BMP or TIFF.
        channels: 1 for grey, 3 for red, green, blue, or 4.
        height: In pixels; None to take it from the picture.
        width: In pixels; None to take it from the picture.
        fit: How it gets that size; see `PictureLayout`.

    Raises:
        ValueError: Saying on a short line why it is none of these, damaged, or far too large.
        EnvironmentLackError: If Pillow is not installed.
    """
    images: Any = require("PIL.Image", extra="images")
    try:
        with warnings.catch_warnings():
            # A small file that unpacks to gigabytes is an attack, not something to warn of.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", images.DecompressionBombWarning)
            with images.open(file) as picture:
                # Pillow would clip them at 255 without a word.
                if picture.mode.startswith(("I", "F")):
                    raise ValueError(f"mode {picture.mode}, more than 8 bits a channel")
                converted = picture.convert(_MODES[channels])
                size = (width or picture.size[0], height or picture.size[1])
                return np.asarray(_fitted(converted, size, fit), dtype=np.uint8)
    except Exception as error:  # its decoders raise anything
        raise ValueError(" ".join(str(error).split())[:200]) from error


def _fitted(picture: Any, size: tuple[int, int], fit: str) -> Any:
    if picture.size == size:
        return picture
    way = require("PIL.Image", extra="images").Resampling.BILINEAR
    operations: Any = require("PIL.ImageOps", extra="images")
    if fit == "crop":
        return operations.fit(picture, size, method=way)
    if fit == "pad":
        return operations.pad(picture, size, method=way)
    return picture.resize(size, way)


def _channels(sample: Sequence[int | None]) -> tuple[int, int]:
    """The axis of the channels and how many there are; none where it is no picture."""
    if len(sample) == 2:  # noqa: PLR2004 - height and width
        return -1, 1
    if len(sample) == 3:  # noqa: PLR2004 - and channels
        for channels in _LIKELY_CHANNELS:
            for axis in (0, 2):
                if sample[axis] == channels:
                    return axis, channels
    return -1, 0
