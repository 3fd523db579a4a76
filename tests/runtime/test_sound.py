"""WAV files, and other sampling rates."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit_runtime.errors import EdgekitError, InvalidBundleError
from edgekit_runtime.media.sound import decode_sound, read_wave, resample


def tone(hertz: float, rate_hz: int, seconds: float = 0.5) -> NDArray[np.float32]:
    times = np.arange(int(rate_hz * seconds)) / rate_hz
    return np.sin(2 * np.pi * hertz * times).astype(np.float32)


@pytest.mark.parametrize(
    ("given_hz", "wanted_hz"),
    [(44_100, 16_000), (48_000, 16_000), (8_000, 16_000), (16_000, 44_100)],
)
def test_a_tone_stays_the_same_at_another_rate(given_hz: int, wanted_hz: int) -> None:
    made = resample(tone(440, given_hz), given_hz, wanted_hz)
    expected = tone(440, wanted_hz)
    assert len(made) == len(expected)
    np.testing.assert_allclose(made[500:-500], expected[500:-500], atol=1e-3)


def test_what_a_lower_rate_cannot_hold_does_not_fold_back() -> None:
    made = resample(tone(15_000, 44_100), 44_100, 16_000)
    assert np.abs(made[500:-500]).max() < 1e-3


def test_resampling_agrees_with_scipy() -> None:
    from scipy.signal import resample_poly

    noise = np.random.default_rng(0).normal(size=8000).astype(np.float32)
    # Below the edge of both filters: they differ in how steep they are.
    low = resample_poly(resample_poly(noise, 1, 8), 8, 1).astype(np.float32)
    ours, theirs = resample(low, 48_000, 16_000), resample_poly(low, 1, 3)
    np.testing.assert_allclose(ours[200:-200], theirs[200:-200], atol=0.02)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_of_samples(width: int) -> None:
    values = [-1.0, -0.5, 0.0, 0.25]
    whole = [int(value * (1 << 8 * width - 1)) for value in values]
    raw = b"".join(
        (number + 128).to_bytes(1) if width == 1 else number.to_bytes(width, "little", signed=True)
        for number in whole
    )
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, width, 8000, 4, "NONE", ""))
        sound.writeframes(raw)
    samples, rate_hz = read_wave(file.getvalue())
    assert rate_hz == 8000
    assert samples.tolist() == values


@given(st.binary(max_size=200), st.integers(0, 44))
def test_no_bytes_bring_it_down(tail: bytes, cut: int) -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((2, 2, 8000, 4, "NONE", ""))
        sound.writeframes(bytes(16))
    data = file.getvalue()[:cut] + tail
    try:
        samples, _ = read_wave(data)
    except EdgekitError:
        return
    assert np.isfinite(samples).all()


def test_the_step_must_say_the_rate() -> None:
    with pytest.raises(InvalidBundleError, match="sample_rate_hz"):
        decode_sound(b"", (None, 4), {}, where="x")
