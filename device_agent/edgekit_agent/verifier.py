"""Verify an order: image repository and director, both with python-tuf, must agree.

The work is done on a copy of the trusted metadata, which takes the place of the trusted one only
when everything holds: a refused set leaves no trace.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from edgekit_agent.state import Target
from edgekit_runtime.durable import sync_folder, unwritable
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.limits import MAX_INDEX_BYTES
from edgekit_runtime.orders import ORDER_FIELD, parse_index_pieces, parse_order

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile, Targets
    from tuf.ngclient import FetcherInterface, Updater

# What a verification that was killed leaves behind begins with this.
_SCRATCH: Final = ".verify-"
_ORIGIN: Final = "set://metadata/"
# More bundles than one device will ever run.
_MAX_BUNDLES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedOrder:
    """What this device must run, proven.

    Attributes:
        order_version: Of the director's targets metadata.
        targets: One for each bundle.
    """

    order_version: int
    targets: tuple[Target, ...]


class Verifier:
    """Holds the roots of trust, and the folder of what was last verified."""

    def __init__(
        self, folder: Path, *, device: str, image_root: bytes, director_root: bytes
    ) -> None:
        """Trust these roots.

        Args:
            folder: Where trusted metadata is kept between runs; made if it is missing.
            device: This device's id.
            image_root: The image repository's initial `root.json`.
            director_root: The director's initial `root.json`.
        """
        self._folder = folder
        self._device = device
        self._roots = {"image": image_root, "director": director_root}
        folder.mkdir(parents=True, exist_ok=True)
        for stray in folder.glob(f"{_SCRATCH}*"):
            shutil.rmtree(stray, ignore_errors=True)

    def verify(
        self, *, image: Mapping[str, bytes], director: Mapping[str, bytes], now: float
    ) -> VerifiedOrder:
        """Prove an order, and keep the metadata that proved it.

        Args:
            image: The image repository's metadata set, by file name.
            director: The director's metadata set for this device.
            now: Seconds since 1970, by which expiry is judged.

        Raises:
            VerificationError: If anything does not hold; says what in plain words.
            EnvironmentLackError: If the trusted metadata cannot be written.
        """
        when = datetime.fromtimestamp(now, UTC)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self._folder) as scratch:
            places = {name: Path(scratch) / name for name in self._roots}
            for name, place in places.items():
                self._copy_trusted(name, place)
            _, targets = self._refresh("director", places["director"], director, when)
            self._check_device(targets)
            updater, _ = self._refresh("image", places["image"], image, when)
            found = tuple(
                self._agree(path, ordered, updater, targets.version)
                for path, ordered in sorted(targets.targets.items())
            )
            names = [target.bundle for target in found]
            if len(set(names)) != len(names):
                raise VerificationError(
                    "the order names a bundle twice", where="director", fix="order it again"
                )
            for name, place in places.items():
                self._keep(name, place)
        return VerifiedOrder(order_version=targets.version, targets=found)

    def _refresh(
        self, name: str, place: Path, files: Mapping[str, bytes], when: datetime
    ) -> tuple[Updater, Targets]:
        from tuf.api.exceptions import DownloadError, RepositoryError
        from tuf.api.metadata import Metadata
        from tuf.ngclient import Updater

        trusted = _highest(place, "targets")
        try:
            updater = Updater(
                str(place), _ORIGIN, fetcher=_set_fetcher(files), bootstrap=self._roots[name]
            )
            # The library reads the clock itself; a device without one needs the time floor.
            updater._trusted_set.reference_time = when
            updater.refresh()
        except (RepositoryError, DownloadError, ValueError) as error:
            raise VerificationError(
                explain(name, error, files=files, trusted_version=trusted),
                where=f"{name} metadata",
                fix=_FIXES[name],
            ) from error
        # What the updater verified is what it keeps: read it back through the public API.
        metadata: Metadata[Targets] = Metadata.from_file(str(place / "targets.json"))
        return updater, metadata.signed

    def _check_device(self, targets: Targets) -> None:
        field = targets.unrecognized_fields.get(ORDER_FIELD)
        named = field.get("device") if isinstance(field, dict) else None
        if named != self._device:
            raise VerificationError(
                f"the order is for {named!r}, and this device is {self._device!r}"
                if isinstance(named, str)
                else "the order does not say for which device it is",
                where="director metadata",
                fix="publish each device's order under its own topic",
            )
        if len(targets.targets) > _MAX_BUNDLES:
            raise VerificationError(
                f"the order names more than {_MAX_BUNDLES} bundles", where="director metadata"
            )

    def _agree(
        self, path: str, ordered: TargetFile, updater: Updater, order_version: int
    ) -> Target:
        from tuf.api.exceptions import DownloadError, RepositoryError

        try:
            released = updater.get_targetinfo(path)
        except (RepositoryError, DownloadError, ValueError) as error:
            raise VerificationError(str(error), where=path) from error
        if released is None:
            raise VerificationError(
                f"the director orders {path}, which the image repository has not released",
                where=path,
                fix="release it first; if somebody else ordered it, the director's key is stolen",
            )
        digest = released.hashes.get("sha256")
        if (
            digest is None
            or ordered.hashes.get("sha256") != digest
            or ordered.length != released.length
        ):
            raise VerificationError(
                f"director and image repository disagree about the content of {path}",
                where=path,
                fix="order it again; if that does not help, the director's key may be stolen",
            )
        if not 0 < released.length <= MAX_INDEX_BYTES:
            raise VerificationError(f"an index of {released.length} bytes", where=path)
        return Target(
            order=parse_order(path, ordered.custom),
            digest=digest,
            length=released.length,
            pieces=tuple(parse_index_pieces(path, released.custom, length=released.length)),
            order_version=order_version,
        )

    def _copy_trusted(self, name: str, place: Path) -> None:
        if (self._folder / name).exists():
            shutil.copytree(self._folder / name, place, symlinks=True)
        else:
            place.mkdir()

    def _keep(self, name: str, place: Path) -> None:
        """Put verified metadata in the place of the trusted; a cut between leaves the older."""
        trusted = self._folder / name
        trusted.mkdir(exist_ok=True)
        try:
            for root in sorted((place / "root_history").iterdir()):
                _move_durably(root, trusted / "root_history" / root.name)
            # The timestamp last: only with it do the others count.
            for role in ("targets", "snapshot", "timestamp"):
                _move_durably(place / f"{role}.json", trusted / f"{role}.json")
        except OSError as error:
            raise unwritable(trusted, error) from error


_FIXES: Final = {
    "image": "refresh the fleet's metadata; a forged set is no concern: nothing was changed",
    "director": "order it again; a forged order is no concern: nothing was changed",
}


def explain(  # noqa: PLR0911 - one a kind of error
    name: str, error: Exception, *, files: Mapping[str, bytes], trusted_version: int
) -> str:
    """Say in plain words why a metadata set was refused.

    Args:
        name: "image" or "director".
        error: What python-tuf raised.
        files: The set that was refused.
        trusted_version: Of the targets metadata followed so far; 0 for none.
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
            return f"{subject} expired on {_expiry(files, role)} ({role})"
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


def _highest(place: Path, role: str) -> int:
    try:
        return int(json.loads((place / f"{role}.json").read_bytes())["signed"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _set_fetcher(files: Mapping[str, bytes]) -> FetcherInterface:
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


def _move_durably(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    data = source.read_bytes()
    if target.exists() and not target.is_symlink() and target.read_bytes() == data:
        return
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    sync_folder(target.parent)
