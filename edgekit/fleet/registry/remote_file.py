"""One file at a URL that fsspec reaches, read or written in a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from edgekit.fleet.registry.fetched import Fetched, Progress, require_size
from edgekit.fleet.storage.remote import remote_errors
from edgekit_runtime.bundle.archive import SUFFIX
from edgekit_runtime.errors import UsageError
from edgekit_runtime.extras import require

_BLOCK: Final = 1 << 20
# What stores say of a file that tells which content it had.
_FACTS: Final = {"ETag": "etag", "VersionId": "version", "version_id": "version"}


def fetch_url(
    url: str, folder: Path, *, progress: Progress, options: dict[str, object] | None = None
) -> Fetched:
    """Fetch a file.

    Args:
        url: Where from.
        folder: Where to; it takes the name `bundle.ekb`.
        progress: Told how far it is.
        options: For fsspec's driver.

    Raises:
        UsageError: If there is no such file, or it is no URL that fsspec knows.
        EnvironmentLackError: If a package is missing, or the place cannot be reached.
        GateFailedError: If it is larger than 8 GiB.
    """
    path = folder / f"bundle{SUFFIX}"
    done = 0
    with _opened(url, "rb", options or {}) as there, path.open("wb") as here:
        # Streams of servers that do not say their length have none.
        total = int(getattr(there, "size", None) or 0)
        while block := there.read(_BLOCK):
            done += len(block)
            require_size(done, url)
            here.write(block)
            progress(done, total)
        facts = getattr(there, "details", None)
    found = facts if isinstance(facts, dict) else {}
    origin = {_FACTS[k]: str(v).strip('"') for k, v in found.items() if k in _FACTS and v}
    return Fetched(path=path, origin=origin)


def send_file(file: Path, url: str) -> None:
    """Write a file to a URL; see `fetch_url`."""
    with _opened(url, "wb", {}) as there, file.open("rb") as here:
        while block := here.read(_BLOCK):
            there.write(block)


@contextmanager
def _opened(url: str, mode: str, options: dict[str, object]) -> Iterator[IO[bytes]]:
    fsspec: Any = require("fsspec", extra="remote")
    try:
        with remote_errors(url), fsspec.open(url, mode, **options) as file:
            yield file
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError("there is no such file", where=url) from error
