"""Verify an order: image repository and director, both with python-tuf, must agree.

The work is done on a copy of the trusted metadata. What the image repository has proven is kept
whatever becomes of the order, as TUF's workflow says. Of the director only new roots are kept
when an order is refused: all devices share its keys, and the set of another device, with higher
version numbers, must not lock this one out of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_agent.metadata import refresh_metadata, set_fetcher
from edgekit_agent.state import Target
from edgekit_runtime.durable import sync_folder, unwritable
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.limits import MAX_INDEX_BYTES
from edgekit_runtime.orders import (
    ORDER_FIELD,
    TIME_FIELD,
    BundleOrder,
    parse_index_pieces,
    parse_order,
    parse_time,
)

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile, Targets
    from tuf.ngclient import Updater

# What a verification that was killed leaves behind begins with this.
_SCRATCH: Final = ".verify-"
# More bundles than one device will ever run.
_MAX_BUNDLES: Final = 64
# The timestamp last: only with it do the others count.
_ROLES: Final = ("targets", "snapshot", "timestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedOrder:
    """What this device must run, proven.

    Attributes:
        order_version: Of the director's targets metadata.
        targets: One for each bundle.
        signed_time: When the newest of it was signed, seconds since 1970; 0 if that is not said.
    """

    order_version: int
    targets: tuple[Target, ...]
    signed_time: float = 0.0


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
            try:
                _, targets = self._refresh("director", places["director"], director, when)
                self._check_device(targets)
            except VerificationError:
                self._keep("director", places["director"], roles=())
                raise
            try:
                updater, released = self._refresh("image", places["image"], image, when)
                signed_time = max(_signed_time(place, released) for place in places.values())
            finally:
                self._keep("image", places["image"])
            found = tuple(
                self._agree(path, ordered, updater, targets.version)
                for path, ordered in sorted(targets.targets.items())
            )
            names = [target.bundle for target in found]
            if len(set(names)) != len(names):
                raise VerificationError(
                    "the order names a bundle twice", where="director", fix="order it again"
                )
            self._keep("director", places["director"])
        return VerifiedOrder(order_version=targets.version, targets=found, signed_time=signed_time)

    def _refresh(
        self, name: str, place: Path, files: Mapping[str, bytes], when: datetime
    ) -> tuple[Updater, Targets]:
        from tuf.api.metadata import Metadata

        updater = refresh_metadata(
            place,
            set_fetcher(files),
            bootstrap=self._roots[name],
            when=when,
            name=name,
            files=files,
        )
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
        order = parse_order(path, ordered.custom)
        released = _released(path, updater)
        digest = released.hashes.get("sha256")
        if (
            digest is None
            or ordered.hashes.get("sha256") != digest
            or ordered.length != released.length
        ):
            raise _disagreement(path)
        return Target(
            order=order,
            digest=digest,
            length=released.length,
            pieces=tuple(parse_index_pieces(path, released.custom, length=released.length)),
            order_version=order_version,
            shadow_pieces=_agreed_shadow(order, updater),
        )

    def _copy_trusted(self, name: str, place: Path) -> None:
        if (self._folder / name).exists():
            shutil.copytree(self._folder / name, place, symlinks=True)
        else:
            place.mkdir()

    def _keep(self, name: str, place: Path, roles: tuple[str, ...] = _ROLES) -> None:
        """Put verified metadata in the place of the trusted; a cut between leaves the older."""
        trusted = self._folder / name
        try:
            trusted.mkdir(exist_ok=True)
            history = place / "root_history"
            for root in sorted(history.iterdir()) if history.is_dir() else []:
                _move_durably(root, trusted / "root_history" / root.name)
            for role in roles:
                if (place / f"{role}.json").exists():
                    _move_durably(place / f"{role}.json", trusted / f"{role}.json")
        except OSError as error:
            raise unwritable(trusted, error) from error


def _agreed_shadow(order: BundleOrder, updater: Updater) -> tuple[tuple[str, int], ...]:
    """The pieces of what is to run beside, if both repositories agree on it; none for none."""
    if order.shadow is None:
        return ()
    path = order.target_paths[-1]
    released = _released(path, updater)
    if (released.hashes.get("sha256"), released.length) != (
        order.shadow.digest,
        order.shadow.length,
    ):
        raise _disagreement(path)
    return tuple(parse_index_pieces(path, released.custom, length=released.length))


def _released(path: str, updater: Updater) -> TargetFile:
    """What the image repository has released under a path.

    Raises:
        VerificationError: If that is nothing, or no index of a possible size.
    """
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
    if not 0 < released.length <= MAX_INDEX_BYTES:
        raise VerificationError(f"an index of {released.length} bytes", where=path)
    return released


def _disagreement(path: str) -> VerificationError:
    return VerificationError(
        f"director and image repository disagree about the content of {path}",
        where=path,
        fix="order it again; if that does not help, the director's key may be stolen",
    )


def _signed_time(place: Path, released: Targets) -> float:
    """When the timestamp metadata says that it was signed; 0 if it does not, or cannot be right.

    It moves the floor under this device's clock. A stolen online key can move it no further than
    an offline key has signed until.
    """
    document = json.loads((place / "timestamp.json").read_bytes())["signed"]
    moment = parse_time(document.get(TIME_FIELD))
    expires = parse_time(document.get("expires"))
    last = min(expires or 0.0, released.expires.timestamp())
    return moment if moment is not None and moment <= last else 0.0


def _move_durably(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    data = source.read_bytes()
    if target.exists() and not target.is_symlink() and target.read_bytes() == data:
        return
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    sync_folder(target.parent)
