"""Work in a hidden folder, and let the results appear all at once, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekit_runtime.durable import sync_folder, unwritable
from edgekit_runtime.errors import UsageError


@contextlib.contextmanager
def staging_for(folder: Path) -> Iterator[Path]:
    """A hidden folder on the same file system as `folder`, gone afterwards whatever happens.

    Raises:
        EnvironmentLackError: If nothing can be written there.
        UsageError: If a file stands where a folder is needed.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UsageError(
            "this is a file, a folder is needed", where=str(place), fix="choose another output"
        )
    try:
        staging = Path(tempfile.mkdtemp(prefix=".edgekit-", dir=place))
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish(moves: Sequence[tuple[Path, Path]], *, staging: Path) -> None:
    """Move staged files to where they belong; after a failure everything is as it was.

    Args:
        moves: Pairs of a staged file and its target. The targets' folder is made if needed.
        staging: The folder of `staging_for`; what is replaced waits there until all is done.

    Raises:
        EnvironmentLackError: If a target cannot be written.
    """
    made: list[Path] = []
    done: list[tuple[Path, Path | None]] = []
    target = moves[0][1]
    try:
        for staged, _ in moves:
            _sync_file(staged)
        for _, target in moves:
            _make_folder(target.absolute().parent, made)
        for number, (staged, target) in enumerate(moves):
            backup = None
            if target.exists():
                backup = staging / f"replaced-{number}"
                _copy(target, backup)
            # Noted first: an interruption between the two leaves a target that is put back.
            done.append((target, backup))
            staged.replace(target)
        for folder in {target.absolute().parent for _, target in moves}:
            sync_folder(folder)
    except BaseException as error:
        for changed, backup in reversed(done):
            if backup is not None:
                backup.replace(changed)
            else:
                changed.unlink(missing_ok=True)
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise unwritable(target, error) from error
        raise


def _make_folder(folder: Path, made: list[Path]) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for absent in reversed(missing):
        absent.mkdir()
        made.append(absent)


def _copy(target: Path, backup: Path) -> None:
    try:
        os.link(target, backup)
    except OSError:
        # Not every file system has links.
        shutil.copy2(target, backup)


def _sync_file(path: Path) -> None:
    path.chmod(0o644)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
