"""Read arrays that a user saved with numpy; nothing that such a file holds is ever executed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import require_file

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_arrays(path: Path, *, kind: str) -> dict[str, NDArray[np.generic]]:
    """The arrays of an `.npz` by name, or the one of an `.npy` under the empty name.

    Args:
        path: What the user named.
        kind: What it is to the user, for the error: "calibration data", "inputs".

    Raises:
        UsageError: If it is missing, empty, damaged, or holds Python objects.
    """
    require_file(path, kind=f"the {kind}, an .npz or .npy file")
    try:
        # Opened here, because numpy leaves a damaged archive open.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": loaded}
            with loaded:
                return {name: np.asarray(loaded[name]) for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"these are no readable {kind}: {' '.join(str(error).split())[:200]}",
            where=str(path),
            fix="save them with numpy.savez(path, INPUT_NAME=array), without pickled objects",
        ) from error
