"""WAV files, brought to the length that a model takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_runtime.errors import UsageError
from edgekit_runtime.media.sound import UNREADABLE, read_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.calibration.preprocessing import Preprocessing
    from edgekit_runtime.tensors import TensorSpec

SOUND_SUFFIXES: Final = frozenset({".wav"})

_INT16_BITS: Final = 16


class SoundDecoder:
    """Decodes sound for one input: the mean of its channels, cut or filled with silence."""

    #: What a sound's values are where no preprocessing changes them.
    values = "sound from -1 to 1"

    def __init__(self, spec: TensorSpec, preprocessing: Preprocessing, *, where: str) -> None:
        """Find out how long the input is.

        Raises:
            UsageError: If it is no plain sound, or its length is known to nobody.
        """
        sizes = spec.shape[1:]
        long = [axis for axis, size in enumerate(sizes) if size != 1]
        length = sizes[long[0]] if len(long) == 1 else None
        length = length or (preprocessing.length if len(long) == 1 else None)
        if length is None or (preprocessing.length or length) != length:
            shape = ", ".join(str(size or "?") for size in spec.shape)
            raise UsageError(
                f"the model's input {spec.name!r} [{shape}] takes no sound of a known length",
                where=where,
                fix='write "length" (in samples) into preprocessing.json where the model leaves '
                "it free; for a model that takes features, such as MFCC, give an .npz of them",
            )
        self._shape = tuple(length if axis in long else 1 for axis in range(len(sizes)))
        self._length = length
        self._rate = preprocessing.sample_rate_hz
        self._first: Path | None = None
        self._integers = spec.dtype == "int16"

    def decode(self, path: Path) -> NDArray[Any]:
        """A sound's beginning, -1 to 1, or as it is stored for an input of 16-bit integers.

        Raises:
            UsageError: If it cannot be decoded, or was sampled at another rate than the others.
        """
        try:
            sound = read_frames(str(path), most=self._length)
        except UNREADABLE as error:
            raise _unusable(path, " ".join(str(error).split())[:200] or "it ends early") from error
        rate = sound.rate_hz
        if self._rate is None:
            self._rate, self._first = rate, path
        if rate != self._rate:
            other = f"{self._first.name} has" if self._first else "preprocessing.json says"
            raise _unusable(path, f"it is sampled at {rate} Hz, and {other} {self._rate} Hz")
        if self._integers and sound.bits != _INT16_BITS:
            raise _unusable(path, f"it has {sound.bits} bits a sample, the model takes 16")
        if not len(sound.samples):
            raise _unusable(path, "it holds no samples")
        filled = np.zeros(self._length)
        filled[: len(sound.samples)] = sound.samples[: self._length]
        if self._integers:
            return np.rint(filled * (1 << 15)).astype(np.int16).reshape(self._shape)
        return filled.astype(np.float32).reshape(self._shape)


def _unusable(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"this sound cannot be used: {reason}",
        where=str(path),
        fix="save it as WAV with integer samples (PCM) at the rate that the model was trained on",
    )
