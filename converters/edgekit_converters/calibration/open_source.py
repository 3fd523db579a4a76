"""Tell what kind of calibration data a user named, and open it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_converters.calibration.array_file import ArrayFile
from edgekit_converters.calibration.folder import open_folder
from edgekit_converters.calibration.generated import Generated
from edgekit_converters.calibration.parquet_table import ParquetTable
from edgekit_converters.calibration.text_table import TextTable
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import require_file

if TYPE_CHECKING:
    from edgekit_converters.calibration.source import SampleSource
    from edgekit_runtime.bundle.manifest import Step
    from edgekit_runtime.tensors import TensorSpec

_KINDS: Final = (
    "the data: an .npz or .npy file, a .csv, .tsv or .parquet table, a folder of "
    "images or WAV files, or package.module:function"
)
_FUNCTION: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_TEXT_TABLES: Final = frozenset({".csv", ".tsv"})


def require_data(path: Path) -> Path:
    """Return `path` if it names a function, a folder, or a readable file that is not empty.

    Raises:
        UsageError: If it does not.
    """
    return path if path.is_dir() or _is_function(path) else require_file(path, kind=_KINDS)


def open_source(
    path: Path,
    specs: Sequence[TensorSpec],
    *,
    steps: Sequence[Step] | None = None,
    kind: str = "calibration",
) -> SampleSource:
    """Open calibration data of any kind, told by its name.

    Args:
        path: As the user gave it.
        specs: The model's inputs.
        steps: Preprocessing, for images and sound alone; None: as the folder says.
        kind: What the data is for, for errors.

    Raises:
        UsageError: If there is no such data, it is damaged, or it does not fit the model.
        EnvironmentLackError: If a package is missing that reads it.
    """
    require_data(path)
    if path.is_dir():
        return open_folder(path, specs, steps=steps)
    if steps:
        raise UsageError(
            "preprocessing is for folders of images or sound",
            where=str(path),
            fix="leave it out: arrays, tables and functions give what the model takes",
        )
    if _is_function(path):
        return Generated(str(path), specs, kind=kind)
    suffix = path.suffix.lower()
    if suffix in _TEXT_TABLES:
        return TextTable(path, specs)
    return ParquetTable(path, specs) if suffix == ".parquet" else ArrayFile(path, specs, kind=kind)


def _is_function(path: Path) -> bool:
    return _FUNCTION.fullmatch(str(path)) is not None and not path.exists()
