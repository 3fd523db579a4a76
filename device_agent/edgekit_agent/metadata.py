"""Bring a folder of trusted metadata up to date with python-tuf, and say why it was refused.

All that edgekit adds to `tuf.ngclient` is here: where files come from, by which time expiry is
judged, and plain words. `tests/conformance` runs TUF's conformance suite against it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from edgekit_runtime.errors import VerificationError

if TYPE_CHECKING:
    from tuf.ngclient import FetcherInterface, Updater

_ORIGIN: Final = "set://metadata/"


def refresh_metadata(
    place: Path,
    fetcher: FetcherInterface,
    *,
    bootstrap: bytes,
    when: datetime,
    name: str,
    files: Mapping[str, bytes],
    origin: str = _ORIGIN,
) -> Updater:
    """Follow TUF's client workflow (specification, section 5.3 to 5.6).

    Args:
        place: The folder of trusted metadata; what is verified is written there step by step.
        fetcher: Gets what is offered.
        bootstrap: The initial `root.json`.
        when: By which expiry is judged.
        name: "image" or "director", for the error.
        files: What is offered, for the error.
        origin: What stands before the names of files.

    Raises:
        VerificationError: If anything does not hold.
    """
    from tuf.api.exceptions import DownloadError, RepositoryError
    from tuf.ngclient import Updater

    trusted = highest_version(place, "targets")
    try:
        updater = Updater(str(place), origin, fetcher=fetcher, bootstrap=bootstrap)
        # The library reads the clock itself; a device without one needs the time floor.
        updater._trusted_set.reference_time = when
        updater.refresh()
    except (RepositoryError, DownloadError, ValueError) as error:
        raise VerificationError(
            explain(name, error, files=files, trusted_version=trusted, when=when),
            where=f"{name} metadata",
            fix=_FIXES[name],
        ) from error
    return updater


_FIXES: Final = {
    "image": "refresh the fleet's metadata; a forged set is no concern: nothing was changed",
    "director": "order it again; a forged order is no concern: nothing was changed",
}


def explain(  # noqa: PLR0911 - one a kind of error
    name: str,
    error: Exception,
    *,
    files: Mapping[str, bytes],
    trusted_version: int,
    when: datetime,
) -> str:
    """Say in plain words why a metadata set was refused.

    Args:
        name: "image" or "director".
        error: What python-tuf raised.
        files: The set that was refused.
        trusted_version: Of the targets metadata followed so far; 0 for none.
        when: By which expiry was judged.
    """
    from tuf.api import exceptions

    subject = "the order" if name == "director" else "the image repository's metadata"
    match error:
        case exceptions.UnsignedMetadataError():
            role = str(error).split(" ", maxsplit=1)[0]
            return f"{subject} is signed by a key that the root does not trust ({role}: {error})"
        case exceptions.BadVersionNumberError():
            offered = _offered_version(files)
            if offered and offered < trusted_version:
                kind = "order" if name == "director" else "set of metadata"
                return (
                    f"an older {kind} (version {offered}) than the one already followed "
                    f"({trusted_version}): a replay"
                )
            return f"{subject} is older than what was already followed: a replay ({error})"
        case exceptions.ExpiredMetadataError():
            role = str(error).removeprefix("Final ").removeprefix("New ").split(".")[0].split()[0]
            return (
                f"{subject} expired on {_expiry(files, role)} ({role}); "
                f"here it is {when:%Y-%m-%d}, if this device's clock is right"
            )
        case exceptions.LengthOrHashMismatchError():
            return f"{subject} is mixed from different sets: {error}"
        case exceptions.DownloadHTTPError():
            return f"{subject} lacks a file: {error}"
        case exceptions.DownloadLengthMismatchError():
            return f"{subject} is larger than it may be: {error}"
        case _:
            return f"{subject} is invalid: {error}"


def _offered_version(files: Mapping[str, bytes]) -> int:
    versions = [
        int(name.split(".")[0])
        for name in files
        if name.endswith(".targets.json") and name.split(".")[0].isdigit()
    ]
    return max(versions, default=0)


def _expiry(files: Mapping[str, bytes], role: str) -> str:
    names = sorted(name for name in files if name.removesuffix(".json").split(".")[-1] == role)
    try:
        return str(json.loads(files[names[-1]])["signed"]["expires"]) if names else "an unknown day"
    except (ValueError, KeyError, TypeError):
        return "an unknown day"


def highest_version(place: Path, role: str) -> int:
    """The version of a role that is trusted; 0 for none."""
    try:
        return int(json.loads((place / f"{role}.json").read_bytes())["signed"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def set_fetcher(files: Mapping[str, bytes]) -> FetcherInterface:
    """What gives python-tuf the files of one set, by name."""
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import FetcherInterface

    class SetFetcher(FetcherInterface):
        """Serves metadata out of one unpacked message."""

        def _fetch(self, url: str) -> Iterator[bytes]:
            name = unquote(urlsplit(url).path).lstrip("/")
            if name not in files:
                raise DownloadHTTPError(f"no {name} in the set", 404)
            return iter((files[name],))

    return SetFetcher()
