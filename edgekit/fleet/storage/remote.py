"""A storage in a bucket, S3 or another that fsspec reaches, and what its drivers' errors mean.

Objects appear whole or not at all, and are there for the next reader: S3 gives read-after-write
consistency (https://aws.amazon.com/s3/consistency/), as do GCS and Azure. fsspec's own cache of
listings would take that away, and is left out.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from edgekit_runtime.errors import EdgekitError, EnvironmentLackError, UsageError
from edgekit_runtime.extras import require

# Requests that are under way at once, each with a chunk of at most 64 KiB.
_AT_ONCE: Final = 64
# The package that fsspec needs for a protocol, where its own error does not name it.
_PACKAGES: Final = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


@contextlib.contextmanager
def remote_errors(url: str) -> Iterator[None]:
    """Say what an error of fsspec or of a driver means; FileNotFoundError goes through.

    Args:
        url: What is reached for.

    Raises:
        EnvironmentLackError: If a package is missing, or the place cannot be reached.
        UsageError: If it is no URL that fsspec knows.
    """
    protocol = url.partition("://")[0] if "://" in url else "file"
    try:
        yield
    except (EdgekitError, IsADirectoryError):
        raise
    except FileNotFoundError as error:
        # Over HTTP, fsspec says this of servers as well that it does not reach.
        cause = error.__cause__
        if not isinstance(cause, OSError) or isinstance(cause, FileNotFoundError):
            raise
        raise _unreachable(cause, url) from error
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        raise EnvironmentLackError(
            f"{protocol}:// needs a package that is not installed: {error}",
            where=url,
            fix=f"pip install {package}" if package else "install the package that it names",
        ) from error
    except ValueError as error:
        raise UsageError(
            f"this is no URL that fsspec knows: {error}",
            where=url,
            fix="write it as file://, https://, s3://, gs:// or az://; or models:/NAME/VERSION",
        ) from error
    except Exception as error:
        # What drivers raise has no common base: botocore's and aiohttp's own, beside OSError.
        raise _unreachable(error, url) from error


class RemoteStorage:
    """See `Storage`.

    Args:
        url: Of the folder: "s3://bucket/prefix/chunks".
        endpoint: Of a server with S3's API that is not Amazon's; "" for the protocol's own.

    Raises:
        EnvironmentLackError: If a package is missing, or the place cannot be reached.
        UsageError: If it is no URL that fsspec knows.
    """

    def __init__(self, url: str, *, endpoint: str = "") -> None:
        fsspec: Any = require("fsspec", extra="remote")
        self._url = url.rstrip("/")
        options: dict[str, object] = {"use_listings_cache": False}
        if endpoint:
            options["endpoint_url"] = endpoint
        with remote_errors(url):
            self._files, self._root = fsspec.core.url_to_fs(self._url, **options)

    def where(self, name: str) -> str:
        """See `Storage`."""
        return f"{self._url}/{name}"

    def read(self, names: Collection[str]) -> dict[str, bytes]:
        """See `Storage`."""
        found: dict[str, bytes] = {}
        for part in _parts(names):
            with remote_errors(self._url):
                answers = self._files.cat([self._path(n) for n in part], on_error="return")
                for name in part:
                    answer = answers[self._path(name)]
                    if isinstance(answer, FileNotFoundError):
                        continue
                    if isinstance(answer, BaseException):
                        raise answer
                    found[name] = answer
        return found

    def write(self, blobs: Mapping[str, bytes]) -> None:
        """See `Storage`."""
        for part in _parts(blobs):
            with self._writing():
                self._files.pipe({self._path(name): blobs[name] for name in part})

    def sizes(self) -> dict[str, int]:
        """See `Storage`."""
        with remote_errors(self._url):
            try:
                found = self._files.find(self._root, maxdepth=1, detail=True)
            except FileNotFoundError:
                return {}
        return {path.rpartition("/")[2]: int(facts["size"]) for path, facts in found.items()}

    def remove(self, names: Collection[str]) -> None:
        """See `Storage`."""
        there = self.sizes().keys() if names else ()
        for part in _parts([name for name in names if name in there]):
            with remote_errors(self._url):
                self._files.rm([self._path(name) for name in part])

    def put_file(self, name: str, source: Path) -> None:
        """See `Storage`."""
        with self._writing():
            self._files.put_file(str(source), self._path(name))

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """See `Storage`."""
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            path = Path(folder) / name
            with remote_errors(self.where(name)):
                self._files.get_file(self._path(name), str(path))
            yield path

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with remote_errors(self._url):
                yield
        except FileNotFoundError as error:
            raise EnvironmentLackError(
                f"it cannot be reached: {error}",
                where=self._url,
                fix="make the bucket first; a storage makes none",
            ) from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _unreachable(error: Exception, url: str) -> EnvironmentLackError:
    return EnvironmentLackError(
        f"it cannot be reached: {' '.join(str(error).split())[:300] or type(error).__name__}",
        where=url,
        fix="check address, network and credentials",
    )


def _parts(names: Collection[str]) -> Iterator[tuple[str, ...]]:
    left = iter(names)
    while part := tuple(itertools.islice(left, _AT_ONCE)):
        yield part
