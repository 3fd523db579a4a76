"""Verify what a fleet publishes, for many devices at once. Imports tuf: use it from `crowd`.

Every device's order is verified against the director's root, signature by signature and hash by
hash; the image repository's metadata, the same for all, once for each of its versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from edgekit_agent.requests.proving import prove_request
from edgekit_agent.state import Target
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.orders import ORDER_FIELD, BundleOrder, parse_index_pieces, parse_order
from edgekit_runtime.protocol import unpack_metadata
from edgekit_runtime.requests import DeviceRequest, open_request

_T = TypeVar("_T", bound=Signed)


class OrderVerifier:
    """Believes what the two roots have signed.

    Args:
        image_root: The image repository's first `root.json`.
        director_root: The director's.
    """

    def __init__(self, image_root: bytes, director_root: bytes) -> None:
        self._roots = {
            "image": Metadata[Root].from_bytes(image_root).signed,
            "director": Metadata[Root].from_bytes(director_root).signed,
        }
        self._images: tuple[bytes, Targets] | None = None
        self._request_root: tuple[Root, bytes] | None = None

    def take_images(self, message: bytes) -> None:
        """Take the image repository's metadata set.

        Raises:
            VerificationError: If it is not what the root has signed.
        """
        mark = hashlib.sha256(message).digest()
        if self._images is None or self._images[0] != mark:
            files = unpack_metadata(message, where="image metadata")
            self._images = (mark, self._targets("image", files))

    @property
    def has_images(self) -> bool:
        """Whether orders can be verified."""
        return self._images is not None

    def verify(self, device: str, message: bytes) -> tuple[int, tuple[Target, ...]]:
        """A device's order: its version, and what it names.

        Raises:
            VerificationError: If it is not what both repositories have signed for this device.
        """
        files = unpack_metadata(message, where=f"order of {device}")
        targets = self._targets("director", files)
        owner = targets.unrecognized_fields.get(ORDER_FIELD)
        if not isinstance(owner, dict) or owner.get("device") != device:
            raise VerificationError("the order is for another device", where=device)
        released = self._images[1].targets if self._images is not None else {}
        found = []
        for path, ordered in sorted(targets.targets.items()):
            image = released.get(path)
            if image is None or image.hashes != ordered.hashes or image.length != ordered.length:
                raise _disagreement(path)
            order = parse_order(path, ordered.custom)
            found.append(
                Target(
                    order=order,
                    digest=image.hashes["sha256"],
                    length=image.length,
                    pieces=tuple(parse_index_pieces(path, image.custom, length=image.length)),
                    order_version=targets.version,
                    shadow_pieces=_agreed_shadow(order, released),
                )
            )
        return targets.version, tuple(found)

    def prove(self, device: str, message: bytes, *, last: int, now: float) -> DeviceRequest:
        """What a device is asked for.

        Args:
            device: Who was asked.
            message: As it came.
            last: The number of the last request that it followed.
            now: Seconds since 1970.

        Raises:
            VerificationError: If the director has not signed it for this device, it has expired,
                or it is older than the last one.
        """
        # Found anew where the roots were followed to another one.
        root = self._roots["director"]
        if self._request_root is None or self._request_root[0] is not root:
            self._request_root = (root, Metadata(root).to_bytes())
        return prove_request(
            open_request(message), root=self._request_root[1], device=device, last=last, now=now
        )

    def _targets(self, name: str, files: Mapping[str, bytes]) -> Targets:
        root = self._follow_roots(name, files)
        timestamp = _open(Timestamp, root, files, "timestamp.json")
        snapshot_name = f"{timestamp.snapshot_meta.version}.snapshot.json"
        snapshot = _open(Snapshot, root, files, snapshot_name)
        version = snapshot.meta["targets.json"].version
        return _open(Targets, root, files, f"{version}.targets.json")

    def _follow_roots(self, name: str, files: Mapping[str, bytes]) -> Root:
        root = self._roots[name]
        while (data := files.get(f"{root.version + 1}.root.json")) is not None:
            metadata: Metadata[Any] = Metadata.from_bytes(data)
            root.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
            metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
            root = self._roots[name] = metadata.signed
        return root


def _agreed_shadow(
    order: BundleOrder, released: Mapping[str, TargetFile]
) -> tuple[tuple[str, int], ...]:
    """The pieces of what is to run beside, if both repositories agree on it; none for none."""
    if order.shadow is None:
        return ()
    path = order.target_paths[-1]
    image = released.get(path)
    signed = (order.shadow.digest, order.shadow.length)
    if image is None or (image.hashes.get("sha256"), image.length) != signed:
        raise _disagreement(path)
    return tuple(parse_index_pieces(path, image.custom, length=image.length))


def _disagreement(path: str) -> VerificationError:
    return VerificationError("director and image repository disagree", where=path)


def _open(kind: type[_T], root: Root, files: Mapping[str, bytes], name: str) -> _T:
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(files[name])
        signed = metadata.signed
        if not isinstance(signed, kind):
            raise VerificationError(f"this is {signed.type} metadata", where=name)
        root.verify_delegate(signed.type, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, KeyError) as error:
        raise VerificationError(f"the metadata cannot be believed: {error}", where=name) from error
    return signed
