"""Folders of images and of sound, decoded and preprocessed as the device does."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.calibration import source as source_module
from edgekit_runtime.bundle.manifest import Step
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.tensors import TensorSpec

Image = pytest.importorskip("PIL.Image", reason="the extra images is not installed")

RNG = np.random.default_rng(3)
FIRST = TensorSpec(name="image", dtype="float32", shape=(None, 3, 4, 6))
LAST = TensorSpec(name="image", dtype="float32", shape=(None, 4, 6, 3))
GREY = TensorSpec(name="image", dtype="float32", shape=(None, 4, 6))
BYTES = TensorSpec(name="image", dtype="uint8", shape=(None, 4, 6, 3))
FREE = TensorSpec(name="image", dtype="float32", shape=(None, 3, None, None))
SOUND = TensorSpec(name="sound", dtype="float32", shape=(None, 100))
AFFINE = {"op": "affine", "tensor": "image", "parameters": {"scale": 2 / 255, "offset": -1}}


def _image(path: Path, pixels: Any = None) -> Any:
    pixels = RNG.integers(0, 256, (4, 6, 3), np.uint8) if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def _settings(folder: Path, **settings: Any) -> None:
    (folder / "preprocessing.json").write_text(json.dumps(settings))


def _only(folder: Path, spec: TensorSpec) -> Any:
    return CalibrationSet.load(folder, [spec]).samples.arrays[spec.name][0]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".TIFF"])
def test_both_orders_of_axes(suffix: str, tmp_path: Path) -> None:
    pixels = _image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(_only(tmp_path, LAST), pixels)
    np.testing.assert_array_equal(_only(tmp_path, FIRST), pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(_only(tmp_path, BYTES), pixels)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(_only(tmp_path, GREY), expected)


def test_steps_of_the_folder_and_of_a_bundle(tmp_path: Path) -> None:
    pixels = _image(tmp_path / "a.png")
    _settings(tmp_path, preprocessing=[AFFINE], colour="bgr")
    expected = pixels[:, :, ::-1].astype(np.float32) * np.float32(2 / 255) - 1
    np.testing.assert_array_equal(_only(tmp_path, LAST), expected)
    half = Step(op="affine", tensor="image", parameters={"scale": 0.5})
    found = CalibrationSet.load(tmp_path, [LAST], steps=[half]).samples.arrays["image"][0]
    np.testing.assert_array_equal(found, pixels[:, :, ::-1] / 2)


def test_files_are_decoded_as_the_steps_of_a_bundle_say(tmp_path: Path) -> None:
    pixels = _image(tmp_path / "a.png")
    _settings(tmp_path, colour="rgb")
    steps = [Step(op="image", tensor="image", parameters={"colour": "bgr"})]
    found = CalibrationSet.load(tmp_path, [LAST], steps=steps).samples.arrays["image"][0]
    np.testing.assert_array_equal(found, pixels[:, :, ::-1])
    wrong = [Step(op="image", tensor="image", parameters={"fit": "cut"})]
    with pytest.raises(UsageError, match="takes a colour"):
        CalibrationSet.load(tmp_path, [LAST], steps=wrong)
    (tmp_path / "a.png").unlink()
    _wave(tmp_path / "a.wav", [0] * 100, rate=8_000)
    steps = [Step(op="sound", tensor="sound", parameters={"sample_rate_hz": 16_000})]
    with pytest.raises(UsageError, match="16000 Hz"):
        CalibrationSet.load(tmp_path, [SOUND], steps=steps)


def test_missing_preprocessing_is_pointed_out(tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    assert any(
        "no preprocessing.json" in text and "0 to 255" in text
        for text in CalibrationSet.load(tmp_path, [LAST]).warnings
    )
    assert not any("json" in text for text in CalibrationSet.load(tmp_path, [BYTES]).warnings)


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "quantization-data.md"
    example = page.read_text().split("```json")[1].split("```")[0]
    (tmp_path / "preprocessing.json").write_text(example)
    pixels = _image(tmp_path / "a.png")
    np.testing.assert_allclose(_only(tmp_path, LAST), pixels / 127.5 - 1, atol=1e-6)
    assert "colour" in json.loads(example)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_other_sizes(fit: str, tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200
    _image(tmp_path / "a.png", pixels)
    _settings(tmp_path, fit=fit)
    found = _only(tmp_path, LAST)
    assert found.shape == (4, 6, 3)
    edge, middle = found[2, 0, 0], found[2, 3, 0]
    assert middle > 150
    # Cropped to the middle 30 of 60 columns, the edge is near the bright part.
    assert (edge > 20) == (fit == "crop")
    assert (found[0] == 0).all() == (fit == "pad")


def test_a_size_that_the_model_leaves_free(tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    with pytest.raises(UsageError, match="leaves the size of images free"):
        CalibrationSet.load(tmp_path, [FREE])
    _settings(tmp_path, size=[5, 7])
    assert _only(tmp_path, FREE).shape == (3, 5, 7)
    with pytest.raises(UsageError, match="takes 4 x 6"):
        CalibrationSet.load(tmp_path, [FIRST])


def test_subfolders_are_classes_and_are_mixed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(source_module, "_CHUNK_BYTES", 7 * 288)
    for name in ("cat", "dog"):
        for number in range(20):
            _image(tmp_path / name / f"{number}.png")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.png").write_bytes(b"")
    (tmp_path / "LICENSE").write_text("free")
    found = CalibrationSet.load(tmp_path, [LAST])
    assert found.count == 40
    assert found.samples.labels is not None
    assert set(found.samples.labels.tolist()) == {0, 1}
    assert set(found.samples.labels[:10].tolist()) == {0, 1}
    assert "cat = 0, dog = 1" in found.numbering
    assert not any("class" in text for text in found.warnings)
    again = CalibrationSet.load(tmp_path, [LAST])
    assert again.samples.sha256 == found.samples.sha256
    np.testing.assert_array_equal(again.digests, found.digests)
    _image(tmp_path / "cat" / "3.png")
    assert CalibrationSet.load(tmp_path, [LAST]).samples.sha256 != found.samples.sha256


def test_one_subfolder_is_one_class(tmp_path: Path) -> None:
    for number in range(3):
        _image(tmp_path / "cat" / f"{number}.png")
    assert any("one class" in text for text in CalibrationSet.load(tmp_path, [LAST]).warnings)


def _write_deep(path: Path) -> None:
    Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) * 1000).save(path)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b"no image"), "cannot identify"),
        (lambda path: path.write_bytes(b""), "cannot identify"),
        (_write_deep, "more than 8 bits"),
    ],
)
def test_images_that_cannot_be_used(
    write: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    for number in range(5):
        _image(tmp_path / f"{number}.png")
    write(tmp_path / "bad.png")
    with pytest.raises(UsageError, match=reason) as caught:
        CalibrationSet.load(tmp_path, [LAST])
    assert caught.value.where == str(tmp_path / "bad.png")


def test_an_image_that_ends_early(tmp_path: Path) -> None:
    _image(tmp_path / "a.png", RNG.integers(0, 256, (90, 90, 3), np.uint8))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    with pytest.raises(UsageError, match="cannot be used"):
        CalibrationSet.load(tmp_path, [LAST])


def test_folders_that_serve_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image and no sound"):
        CalibrationSet.load(tmp_path, [LAST])
    _image(tmp_path / "a.png")
    with pytest.raises(UsageError, match="one input, this one has 2"):
        CalibrationSet.load(tmp_path, [LAST, SOUND])
    flat = TensorSpec(name="x", dtype="float32", shape=(None, 72))
    with pytest.raises(UsageError, match="is no image"):
        CalibrationSet.load(tmp_path, [flat])
    many = TensorSpec(name="x", dtype="float32", shape=(None, 5, 6, 8))
    with pytest.raises(UsageError, match="is no image"):
        CalibrationSet.load(tmp_path, [many])
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(UsageError, match="images and sound"):
        CalibrationSet.load(tmp_path, [LAST])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "no readable JSON"),
        ("[1]", "must be an object"),
        ('{"fit": "squeeze", "gamma": 2, "size": [0, 4]}', "fit: .*gamma: is not known.*size: "),
        ('{"size": [4]}', "height and a width"),
        ('{"preprocessing": [{"op": "blur", "tensor": "image"}]}', "unknown processing step"),
        ('{"preprocessing": [{"op": "affine", "tensor": "x"}]}', "names x, the model's input"),
        ('{"preprocessing": [{"op": "affine", "tensor": "image", "parameters": 3}]}', "an object"),
    ],
)
def test_preprocessing_that_cannot_be_used(content: str, reason: str, tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    (tmp_path / "preprocessing.json").write_text(content)
    with pytest.raises(UsageError, match=reason) as caught:
        CalibrationSet.load(tmp_path, [LAST])
    assert caught.value.where == str(tmp_path / "preprocessing.json")


def test_floats_for_a_model_of_bytes(tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    _settings(tmp_path, preprocessing=[AFFINE])
    with pytest.raises(UsageError, match=r"makes float32.* takes uint8"):
        CalibrationSet.load(tmp_path, [BYTES])


def test_preprocessing_for_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 6, 3), np.float32))
    with pytest.raises(UsageError, match="for folders"):
        CalibrationSet.load(tmp_path / "a.npy", [LAST], steps=[Step(op="affine", tensor="image")])


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    _image(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "PIL.Image", raising=False)
    with pytest.raises(EnvironmentLackError) as caught:
        CalibrationSet.load(tmp_path, [LAST])
    assert "edgekit[images]" in str(caught.value.fix)


def _wave(path: Path, values: Any, *, rate: int = 16_000, width: int = 2) -> None:
    """Write numbers from -1 to 1; a second axis is the channels."""
    values = np.atleast_2d(np.asarray(values).T).T
    full = np.rint(np.clip(values, -1, 1 - 2.0**-30) * 2.0 ** (8 * width - 1)).astype("<i8")
    if width == 1:
        full = full + 128
    content = full.reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(content)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [40, 100, 250])
def test_sound_of_any_width_and_length(width: int, length: int, tmp_path: Path) -> None:
    values = RNG.uniform(-1, 1, length)
    _wave(tmp_path / "a.wav", values, width=width)
    found = _only(tmp_path, SOUND)
    expected = np.zeros(100)
    expected[: min(length, 100)] = values[:100]
    np.testing.assert_allclose(found, expected, atol=1.01 * 2.0 ** (1 - 8 * width))


@pytest.mark.parametrize("shape", [(None, 1, 100), (None, 100, 1), (1, 100)])
def test_sound_with_an_axis_of_one_channel(shape: Any, tmp_path: Path) -> None:
    _wave(tmp_path / "a.wav", np.stack([np.full(100, 0.5), np.full(100, -0.25)], 1))
    found = _only(tmp_path, TensorSpec(name="sound", dtype="float32", shape=shape))
    assert found.shape == shape[1:]
    np.testing.assert_allclose(found, 0.125, atol=1e-4)


def test_sound_as_integers(tmp_path: Path) -> None:
    spec = TensorSpec(name="sound", dtype="int16", shape=(None, 3))
    _wave(tmp_path / "a.wav", np.array([-1, 0.5, 1 / 32768]))
    assert _only(tmp_path, spec).tolist() == [-32768, 16384, 1]
    _wave(tmp_path / "a.wav", np.array([-1, 0.5, 0]), width=3)
    with pytest.raises(UsageError, match="24 bits"):
        _only(tmp_path, spec)


def test_sound_of_other_rates(tmp_path: Path) -> None:
    _wave(tmp_path / "a.wav", np.zeros(100))
    _wave(tmp_path / "b.wav", np.zeros(100), rate=8000)
    with pytest.raises(UsageError, match=r"sampled at \d+ Hz, and [ab].wav has \d+ Hz"):
        CalibrationSet.load(tmp_path, [SOUND])
    (tmp_path / "b.wav").unlink()
    _settings(tmp_path, sample_rate_hz=44_100)
    with pytest.raises(UsageError, match=r"preprocessing.json says 44100 Hz"):
        CalibrationSet.load(tmp_path, [SOUND])


def test_sound_of_a_length_that_the_model_leaves_free(tmp_path: Path) -> None:
    _wave(tmp_path / "a.wav", np.zeros(100))
    free = TensorSpec(name="sound", dtype="float32", shape=(None, None))
    with pytest.raises(UsageError, match="no sound of a known length"):
        CalibrationSet.load(tmp_path, [free])
    _settings(tmp_path, length=30)
    assert _only(tmp_path, free).shape == (30,)
    features = TensorSpec(name="mfcc", dtype="float32", shape=(None, 49, 10))
    with pytest.raises(UsageError, match="known length"):
        CalibrationSet.load(tmp_path, [features])


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\x24\x00\x00\x00WAVEfmt "])
def test_sound_that_cannot_be_used(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UsageError, match="this sound cannot be used"):
        CalibrationSet.load(tmp_path, [SOUND])


def test_sound_without_samples(tmp_path: Path) -> None:
    _wave(tmp_path / "a.wav", np.zeros((0, 1)))
    with pytest.raises(UsageError, match="holds no samples"):
        CalibrationSet.load(tmp_path, [SOUND])
