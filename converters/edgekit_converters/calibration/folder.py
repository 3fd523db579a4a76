"""A folder of images or of sound: one sample a file, one class a subfolder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.calibration.images import IMAGE_SUFFIXES, ImageDecoder
from edgekit_converters.calibration.preprocessing import FILE_NAME, read_preprocessing
from edgekit_converters.calibration.sound import SOUND_SUFFIXES, SoundDecoder
from edgekit_converters.calibration.source import Chunk, samples_per_chunk
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import sha256_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_converters.calibration.preprocessing import Preprocessing
    from edgekit_runtime.bundle.manifest import Step
    from edgekit_runtime.tensors import TensorSpec

_SEED: Final = 20240229
_FLOAT_BYTES: Final = 4


class Folder:
    """The files of a folder, in an order that mixes its subfolders and is the same each time."""

    def __init__(
        self,
        folder: Path,
        files: Sequence[Path],
        decode: Callable[[Path], NDArray[Any]],
        *,
        spec: TensorSpec,
        preprocessing: Preprocessing,
        doubts: tuple[str, ...],
    ) -> None:
        """Name the files; they are read later.

        Args:
            folder: Where they are.
            files: At least one.
            decode: Gives the sample of a file.
            spec: The input that takes it.
            preprocessing: Of what was decoded.
            doubts: What is odd about it.
        """
        self._folder = folder
        self._files = sorted(files)
        self._decode = decode
        self._spec = spec
        self._preprocessing = preprocessing
        # Subfolders are classes where every file is in one.
        parts = [file.relative_to(folder).parts for file in self._files]
        self._classes = [p[0] for p in parts] if all(len(p) > 1 for p in parts) else None
        self.doubts = doubts

    def chunks(self) -> Iterator[Chunk]:
        """See `SampleSource`."""
        order = np.random.default_rng(_SEED).permutation(len(self._files))
        first = self._decode(self._files[order[0]])
        size = samples_per_chunk(first.size * _FLOAT_BYTES)
        for start in range(0, len(order), size):
            picked = order[start : start + size]
            decoded = np.stack([self._decode(self._files[index]) for index in picked])
            labels = None
            if self._classes is not None:
                labels = np.array([self._classes[index] for index in picked])
            yield Chunk(
                arrays={self._spec.name: self._preprocessing.apply(decoded, self._spec)},
                labels=labels,
            )

    def sha256(self) -> str:
        """See `SampleSource`."""
        digest = hashlib.sha256()
        settings = self._folder / FILE_NAME
        for file in (*self._files, *([settings] if settings.is_file() else [])):
            name = file.relative_to(self._folder).as_posix()
            digest.update(f"{sha256_of(file)}  {name}\n".encode())
        return digest.hexdigest()


def open_folder(
    folder: Path, specs: Sequence[TensorSpec], *, steps: Sequence[Step] | None
) -> Folder:
    """Find the images or the sound files in a folder and its subfolders.

    Args:
        folder: Hidden files, and files of other kinds, are passed over.
        specs: The model's inputs; there must be one.
        steps: A bundle's preprocessing; None: as the folder's `preprocessing.json` says.

    Raises:
        UsageError: If there are none or of both kinds, or the model takes nothing like them.
        EnvironmentLackError: If images are to be decoded and Pillow is not installed.
    """
    where = str(folder)
    if len(specs) != 1:
        raise UsageError(
            f"a folder serves a model with one input, this one has {len(specs)}",
            where=where,
            fix="give an .npz with an array for each input",
        )
    found = [file for file in folder.rglob("*") if _counts(file.relative_to(folder))]
    images = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    sounds = [file for file in found if file.suffix.lower() in SOUND_SUFFIXES and file.is_file()]
    if bool(images) == bool(sounds):
        raise UsageError(
            "the folder holds images and sound"
            if images
            else "the folder holds no image and no sound",
            where=where,
            fix=f"give a folder of images ({', '.join(sorted(IMAGE_SUFFIXES))}) or of sound "
            f"({', '.join(sorted(SOUND_SUFFIXES))})",
        )
    spec = specs[0]
    preprocessing, given = read_preprocessing(folder, spec, steps=steps)
    decoder: ImageDecoder | SoundDecoder
    if images:
        decoder = ImageDecoder(spec, preprocessing, where=where)
    else:
        decoder = SoundDecoder(spec, preprocessing, where=where)
    doubts: tuple[str, ...] = ()
    if not given and spec.dtype.startswith("float"):
        doubts = (f"there is no {FILE_NAME} beside the files: the model gets {decoder.values}",)
    return Folder(
        folder,
        images or sounds,
        decoder.decode,
        spec=spec,
        preprocessing=preprocessing,
        doubts=doubts,
    )


def _counts(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)
