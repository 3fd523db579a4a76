"""Images, decoded and brought to the size and the order of axes that a model takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from edgekit_runtime.errors import UsageError
from edgekit_runtime.extras import require
from edgekit_runtime.media.image import read_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.calibration.preprocessing import Preprocessing
    from edgekit_runtime.tensors import TensorSpec

IMAGE_SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

_CHANNELS: Final = (1, 3, 4)
_RANKS: Final = (2, 3)


class ImageDecoder:
    """Decodes images for one input."""

    #: What an image's values are where no preprocessing changes them.
    values = "pixels from 0 to 255"

    def __init__(self, spec: TensorSpec, preprocessing: Preprocessing, *, where: str) -> None:
        """Find out where the input has its height, width and channels.

        Raises:
            UsageError: If it has none, or their sizes are known to nobody.
            EnvironmentLackError: If Pillow is not installed.
        """
        require("PIL.Image", extra="images")
        self._reverse = preprocessing.colour == "bgr"
        self._fit = preprocessing.fit
        sizes = spec.shape[1:]
        self._axis = _channel_axis(sizes)
        if len(sizes) not in _RANKS or self._axis is None:
            raise _no_image(spec, where, "is no image")
        inner = [size for axis, size in enumerate(sizes) if axis != self._axis]
        height, width = inner
        free = preprocessing.size or (None, None)
        height, width = height or free[0], width or free[1]
        channels = 1 if self._axis < 0 else sizes[self._axis] or 3
        if height is None or width is None:
            raise _no_image(spec, where, "leaves the size of images free")
        if channels not in _CHANNELS:
            raise _no_image(spec, where, f"has {channels} channels")
        if preprocessing.size and preprocessing.size != (height, width):
            raise _no_image(spec, where, f"takes {height} x {width}, not {preprocessing.size}")
        self._height, self._width, self._channels = height, width, channels

    def decode(self, path: Path) -> NDArray[np.uint8]:
        """The pixels of an image, 0 to 255, in the input's order of axes and without its batch.

        Raises:
            UsageError: If it cannot be decoded.
        """
        try:
            pixels = read_pixels(
                path,
                channels=self._channels,
                height=self._height,
                width=self._width,
                fit=self._fit,
            )
        except ValueError as error:
            raise UsageError(
                f"this image cannot be used: {error}",
                where=str(path),
                fix="save it again as 8-bit PNG or JPEG, or take it out of the folder",
            ) from error
        if self._axis is not None and self._axis < 0:
            return pixels
        pixels = pixels.reshape(pixels.shape[0], pixels.shape[1], -1)
        if self._reverse:
            pixels = pixels[:, :, ::-1]
        return np.ascontiguousarray(np.moveaxis(pixels, 2, self._axis or 0))


def _channel_axis(sizes: tuple[int | None, ...]) -> int | None:
    """Which axis of a sample has the channels; -1 where there is none, None where it is no image.

    Three channels are likelier than one, one than four; a free size has them where no other can.
    """
    if len(sizes) != max(_RANKS):
        return -1 if len(sizes) == min(_RANKS) else None
    for channels in (3, 1, 4, None):
        for axis in (0, 2):
            if sizes[axis] == channels:
                return axis
    return None


def _no_image(spec: TensorSpec, where: str, reason: str) -> UsageError:
    shape = ", ".join(str(size or "?") for size in spec.shape)
    return UsageError(
        f"the model's input {spec.name!r} [{shape}] {reason}",
        where=where,
        fix='images need a height, a width and 1, 3 or 4 channels; write "size": [height, width] '
        "into preprocessing.json where the model leaves them free, or give an .npz",
    )
