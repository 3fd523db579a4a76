"""Sound from a WAV file, as the samples that an input takes."""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_runtime.errors import InvalidBundleError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_RATE_HZ: Final = 768_000
_LOBES: Final = 16
_BLOCK: Final = 2048
UNREADABLE: Final = (wave.Error, EOFError, ValueError, RuntimeError, OSError)
"""What reading a damaged file ends in; `wave` itself raises all of these."""


def decode_sound(
    data: bytes | bytearray | memoryview,
    shape: Sequence[int | None],
    parameters: Mapping[str, object],
    *,
    where: str,
) -> NDArray[np.float32]:
    """The samples of a WAV file, -1 to 1, mono, as a batch of one.

    Sound that is too long is cut, sound that is too short is followed by silence, and sound of
    another sampling rate is resampled.

    Args:
        data: PCM with 8, 16, 24 or 32 bits; several channels are averaged.
        shape: Of the input with its batch axis: `[batch, samples]` or `[batch, samples, 1]`.
        parameters: Of the bundle's `sound` step: `sample_rate_hz`.
        where: The input, for the error.

    Raises:
        UsageError: If the input takes no sound, or this is no such file.
        InvalidBundleError: If the parameter is wrong.
    """
    rate_hz = parameters.get("sample_rate_hz")
    if (
        not isinstance(rate_hz, int)
        or isinstance(rate_hz, bool)
        or not 0 < rate_hz <= _MOST_RATE_HZ
    ):
        raise InvalidBundleError("the step `sound` needs a sample_rate_hz", where=where)
    sample = [size for size in shape[1:] if size != 1]
    if len(sample) > 1:
        raise UsageError("this input takes no sound", where=where, fix="send a tensor")
    samples, given_hz = read_wave(data)
    samples = resample(samples, given_hz, rate_hz)
    length = sample[0] if sample and sample[0] is not None else len(samples)
    fitted = np.zeros(length, dtype=np.float32)
    fitted[: min(length, len(samples))] = samples[:length]
    return fitted.reshape([1, *(length if size != 1 else 1 for size in shape[1:])])


def read_wave(data: bytes | bytearray | memoryview) -> tuple[NDArray[np.float32], int]:
    """Mono samples from -1 to 1, and their rate in Hz.

    Raises:
        UsageError: If it is no PCM WAV file.
    """
    try:
        sound = read_frames(io.BytesIO(data))
        if not len(sound.samples) or sound.rate_hz > _MOST_RATE_HZ:
            raise ValueError("it holds no sound")
    except UNREADABLE as error:
        raise UsageError(
            f"this sound cannot be read: {str(error) or type(error).__name__}",
            fix="send a WAV file with PCM samples",
        ) from error
    return sound.samples.astype(np.float32), sound.rate_hz


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """What a WAV file holds.

    Attributes:
        samples: From -1 to 1; the mean of the channels.
        rate_hz: Samples a second.
        bits: Of a sample, as it is stored.
    """

    samples: NDArray[np.float64]
    rate_hz: int
    bits: int


def read_frames(file: str | IO[bytes], *, most: int | None = None) -> Frames:
    """The first samples of a WAV file with 8, 16, 24 or 32 bits; a torn last one is left out.

    Raises:
        Exception: One of `UNREADABLE`.
    """
    with wave.open(file, "rb") as stream:
        width, channels = stream.getsampwidth(), stream.getnchannels()
        rate_hz = stream.getframerate()
        raw = stream.readframes(stream.getnframes() if most is None else most)
    if rate_hz <= 0:
        raise ValueError("it has no sampling rate")
    whole = raw[: len(raw) // (width * channels) * width * channels]
    samples = _integers(whole, width).reshape(-1, channels).mean(axis=1)
    return Frames(samples=samples / (1 << (8 * width - 1)), rate_hz=rate_hz, bits=8 * width)


def resample(samples: NDArray[np.float32], given_hz: int, wanted_hz: int) -> NDArray[np.float32]:
    """Sound at another rate: a windowed sinc, which lets no frequency pass that would fold back."""
    if given_hz == wanted_hz:
        return samples
    common = math.gcd(given_hz, wanted_hz)
    up, down = wanted_hz // common, given_hz // common
    cutoff = min(1.0, up / down)
    reach = math.ceil(_LOBES / cutoff)
    count = -(-len(samples) * up // down)
    padded = np.concatenate([np.zeros(reach), samples, np.zeros(reach + 1)])
    made = np.empty(count, dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    # Outputs of one phase lie at the same place between two inputs, and so share their weights.
    for phase in range(min(up, count)):
        places = np.arange(phase, count, up) * down // up
        distance = np.arange(-reach, reach + 1) - phase * down % up / up
        window = np.cos(np.pi / 2 * distance / (reach + 1)) ** 2
        weights = cutoff * np.sinc(cutoff * distance) * window
        weights /= weights.sum()
        # In blocks: picking the windows out copies them.
        parts = [
            windows[places[start : start + _BLOCK]] @ weights
            for start in range(0, len(places), _BLOCK)
        ]
        made[phase::up] = np.concatenate(parts)
    return made


def _integers(frames: bytes, width: int) -> NDArray[Any]:
    if width == 1:
        return np.frombuffer(frames, dtype=np.uint8).astype(np.float64) - 128
    if width == 3:  # noqa: PLR2004 - 24 bits have no dtype
        parts = np.frombuffer(frames, dtype=np.uint8).reshape(-1, 3).astype(np.int32)
        joined = parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16
        return (joined << 8 >> 8).astype(np.float64)
    if width in (2, 4):
        return np.frombuffer(frames, dtype=f"<i{width}").astype(np.float64)
    raise ValueError(f"{8 * width} bits a sample are not supported")
