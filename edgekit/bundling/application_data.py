"""Data as applications give it to a bundle: arrays, or files that are decoded as on a device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.calibration.images import IMAGE_SUFFIXES
from edgekit_converters.calibration.labels import LabelNumbers
from edgekit_converters.calibration.sound import SOUND_SUFFIXES
from edgekit_converters.calibration.source import Chunk, samples_per_chunk
from edgekit_converters.evaluation import EvaluationSet
from edgekit_converters.samples import Samples, read_samples
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import sha256_of
from edgekit_runtime.media.image import decode_picture, picture_layout
from edgekit_runtime.media.sound import decode_sound
from edgekit_runtime.processing import apply_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.bundling.pipeline_fit import FittedPipeline
    from edgekit_runtime.bundle.manifest import Step
    from edgekit_runtime.tensors import TensorSpec

Arrays = Mapping[str, "NDArray[Any]"]
_MOST_FILES: Final = 1_000_000


class ApplicationData(Protocol):
    """Samples as an application would give them.

    Attributes:
        path: As the user named it.
        sha256: Of all that it holds.
        count: How many samples; at least one.
        labels: Class numbers, one a sample, where it has labels.
    """

    path: Path
    sha256: str
    count: int
    labels: NDArray[Any] | None

    def take(self, positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Some samples, along the first axis, by input."""
        ...


class ArrayData:
    """An `.npz` or `.npy` file."""

    def __init__(self, path: Path, specs: Sequence[TensorSpec]) -> None:
        """Read it.

        Raises:
            UsageError: If it is damaged, or not what the bundle's inputs take.
        """
        samples = read_samples(path, specs, kind="bundle")
        self.path, self.sha256 = path, samples.sha256
        self.count = samples.count
        self.labels = LabelNumbers(samples.labels).of(samples.labels)
        self._arrays = samples.arrays

    def take(self, positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        """See `ApplicationData`."""
        return {name: array[np.asarray(positions)] for name, array in self._arrays.items()}


class FileData:
    """A folder of pictures or sound; a subfolder each is a class, if every file is in one."""

    def __init__(
        self, folder: Path, files: Sequence[Path], spec: TensorSpec, step: Step,
        *, classes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Name the files; they are decoded later, as a device does.

        Args:
            folder: Where they are.
            files: At least one.
            spec: The input that takes them.
            step: `image` or `sound`, of that input.
            classes: Names of the classes, in the order of their numbers, where they are known.

        Raises:
            UsageError: If a subfolder is no class.
        """
        self.path = folder
        self._files, self._spec, self._step = sorted(files), spec, step
        self.count = len(self._files)
        self.labels = self._class_numbers(tuple(classes))
        digest = hashlib.sha256()
        for file in self._files:
            name = file.relative_to(folder).as_posix()
            digest.update(f"{sha256_of(file)}  {name}\n".encode())
        self.sha256 = digest.hexdigest()

    def take(self, positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        """See `ApplicationData`.

        Raises:
            UsageError: If a file cannot be decoded, or has another size than the others.
        """
        files = [self._files[position] for position in positions]
        decoded = [self._decode(file) for file in files]
        for file, array in zip(files, decoded, strict=True):
            if array.shape != decoded[0].shape:
                raise UsageError(
                    f"it becomes {list(array.shape[1:])} and others {list(decoded[0].shape[1:])}: "
                    "the models leave the size free",
                    where=str(file),
                    fix="bring all files to one size",
                )
        return {self._spec.name: np.concatenate(decoded).astype(self._spec.dtype, copy=False)}

    def _decode(self, file: Path) -> NDArray[Any]:
        shape, parameters, name = self._spec.shape, self._step.parameters, self._spec.name
        try:
            data = file.read_bytes()
            if self._step.op == "image":
                return decode_picture(data, picture_layout(shape, parameters, where=name))
            return decode_sound(data, shape, parameters, where=name)
        except OSError as error:
            raise UsageError(f"it cannot be read: {error.strerror}", where=str(file)) from error
        except UsageError as error:
            raise UsageError(error.what, where=str(file), fix=error.fix) from error

    def _class_numbers(self, classes: tuple[str, ...]) -> NDArray[Any] | None:
        parts = [file.relative_to(self.path).parts for file in self._files]
        if not all(len(each) > 1 for each in parts):
            return None
        names = [each[0] for each in parts]
        if not classes:
            return LabelNumbers(np.array(names)).of(np.array(names))
        unknown = sorted(set(names) - set(classes))
        if unknown:
            raise UsageError(
                f"the folders {', '.join(unknown[:10])} are none of the classes "
                f"{', '.join(classes[:10])}",
                where=str(self.path),
                fix="name each folder after one of --labels",
            )
        return np.array([classes.index(name) for name in names])


def find_files(folder: Path) -> tuple[str, tuple[Path, ...]]:
    """The pictures or sounds in a folder and its subfolders, and the step that they need.

    Raises:
        UsageError: If there are none, or both.
    """
    found: dict[str, list[Path]] = {"image": [], "sound": []}
    for file in folder.rglob("*"):
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue
        kind = _kind_of(file)
        if kind is not None and file.is_file():
            found[kind].append(file)
        if sum(map(len, found.values())) > _MOST_FILES:
            raise UsageError(f"it holds more than {_MOST_FILES} files", where=str(folder))
    if bool(found["image"]) == bool(found["sound"]):
        raise UsageError(
            "the folder holds pictures and sound"
            if found["image"]
            else "the folder holds no picture and no sound",
            where=str(folder),
            fix=f"give a folder of pictures ({', '.join(sorted(IMAGE_SUFFIXES))}) or of sound "
            f"({', '.join(sorted(SOUND_SUFFIXES))}), or an .npz",
        )
    kind = "image" if found["image"] else "sound"
    return kind, tuple(found[kind])


class PreparedSource:
    """Application data after a bundle's preprocessing, as `evaluation` reads samples."""

    doubts: tuple[str, ...] = ()

    def __init__(self, data: ApplicationData, pipeline: FittedPipeline) -> None:
        self._data = data
        self._pipeline = pipeline

    def prepared(self, positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Some samples as the models take them."""
        if not self._pipeline.preprocessing:
            return self._data.take(positions)
        # One by one, as on a device: a step's result may depend on the whole tensor.
        parts = [
            apply_steps(self._pipeline.preprocessing, self._data.take([position]))
            for position in positions
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def chunks(self) -> Iterator[Chunk]:
        """See `SampleSource`."""
        first = self.prepared([0])
        size = samples_per_chunk(sum(array.nbytes for array in first.values()))
        for start in range(0, self._data.count, size):
            positions = range(start, min(start + size, self._data.count))
            labels = self._data.labels
            yield Chunk(
                arrays=self.prepared(positions),
                labels=None if labels is None else labels[positions.start : positions.stop],
            )

    def sha256(self) -> str:
        """See `SampleSource`."""
        return self._data.sha256

    def evaluation_set(self, specs: Sequence[TensorSpec]) -> EvaluationSet:
        """All samples, to judge a model by."""
        first = next(self.chunks())
        samples = Samples(
            path=self._data.path,
            sha256=self._data.sha256,
            arrays=first.arrays,
            labels=first.labels,
            count=first.count,
        )
        prepared = CalibrationSet(
            samples=samples,
            count=self._data.count,
            labels=self._data.labels,
            batch_size=1,
            warnings=(),
            numbering="",
            digests=np.zeros(0, np.uint64),
            source=self,
        )
        return EvaluationSet.of(prepared, specs, origin="bundle data")


def _kind_of(file: Path) -> str | None:
    suffix = file.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "sound" if suffix in SOUND_SUFFIXES else None
