"""A fleet's two signed repositories in memory, made with python-tuf's metadata API."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edgekit_runtime.bundle.build import Base, build_index
from edgekit_runtime.bundle.index import BundleIndex, IndexedFile, assemble
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES
from edgekit_runtime.orders import (
    ORDER_FIELD,
    TIME_FIELD,
    Budget,
    BundleOrder,
    Gates,
    index_pieces_custom,
    target_path,
)
from edgekit_runtime.protocol import pack_metadata

_TIME = "%Y-%m-%dT%H:%M:%SZ"
ROLES = ("root", "targets", "snapshot", "timestamp")


@dataclass(kw_only=True)
class SignedRepository:
    """Root, targets, snapshot, timestamp; a key for each role."""

    signers: dict[str, CryptoSigner] = field(
        default_factory=lambda: {role: CryptoSigner.generate_ed25519() for role in ROLES}
    )
    files: dict[str, bytes] = field(default_factory=dict)
    root: Metadata[Root] = field(init=False)
    versions: int = 0

    def __post_init__(self) -> None:
        root = Root(expires=_in(days=365), consistent_snapshot=True)
        for role in ROLES:
            root.add_key(self.signers[role].public_key, role)
        self.root = Metadata(root)
        self.publish_root()

    def publish_root(self, *signers: CryptoSigner) -> bytes:
        """Sign the root and offer it beside the former ones; by the root's key, or by these."""
        for place, signer in enumerate(signers or (self.signers["root"],)):
            self.root.sign(signer, append=place > 0)
        data = self.root.to_bytes()
        self.files[f"{self.root.signed.version}.root.json"] = data
        return data

    def rotate(self, *roles: str) -> dict[str, CryptoSigner]:
        """Give roles new keys, in a new root; the former keys."""
        before = {role: self.signers[role] for role in roles}
        root = self.root.signed
        for role in roles:
            root.revoke_key(before[role].public_key.keyid, role)
            self.signers[role] = CryptoSigner.generate_ed25519()
            root.add_key(self.signers[role].public_key, role)
        root.version += 1
        # A root that replaces the root's key is signed by the old one and the new one.
        if "root" in roles:
            self.publish_root(before["root"], self.signers["root"])
        else:
            self.publish_root()
        return before

    @property
    def first_root(self) -> bytes:
        return self.files["1.root.json"]

    def publish(
        self,
        targets: Mapping[str, TargetFile],
        *,
        version: int | None = None,
        expires: datetime | None = None,
        fields: dict[str, object] | None = None,
        signers: Mapping[str, CryptoSigner] | None = None,
        signed_at: datetime | None = None,
    ) -> dict[str, bytes]:
        """A new metadata set; the former one is forgotten."""
        self.versions = version if version is not None else self.versions + 1
        number, expires = self.versions, expires or _in(days=7)
        use = {**self.signers, **(signers or {})}
        signed_targets = Targets(
            version=number,
            expires=expires,
            targets=dict(targets),
            unrecognized_fields=dict(fields or {}),
        )
        snapshot = Snapshot(
            version=number, expires=expires, meta={"targets.json": MetaFile(version=number)}
        )
        timestamp = Timestamp(
            version=number,
            expires=expires,
            snapshot_meta=MetaFile(version=number),
            unrecognized_fields={} if signed_at is None else {TIME_FIELD: f"{signed_at:{_TIME}}"},
        )
        made = {name: data for name, data in self.files.items() if "root" in name}
        for role, signed, name in (
            ("targets", signed_targets, f"{number}.targets.json"),
            ("snapshot", snapshot, f"{number}.snapshot.json"),
            ("timestamp", timestamp, "timestamp.json"),
        ):
            metadata: Metadata = Metadata(signed)
            metadata.sign(use[role])
            made[name] = metadata.to_bytes()
        self.files = made
        return made


@dataclass(kw_only=True)
class SignedFleet:
    """What a control plane would publish, without a control plane."""

    image: SignedRepository = field(default_factory=SignedRepository)
    director: SignedRepository = field(default_factory=SignedRepository)
    released: dict[str, TargetFile] = field(default_factory=dict)
    chunks: dict[str, bytes] = field(default_factory=dict)
    indexes: list[BundleIndex] = field(default_factory=list)

    def release(self, name: str, version: str, files: Mapping[str, bytes]) -> str:
        """Release a bundle; the digest of its index."""
        bases = [Base(index=old, read=self.content) for old in self.indexes if old.name == name]
        index, wire = build_index(name, version, files.items(), bases=bases[-2:])
        self.indexes.append(index)
        data = index.to_json()
        pieces = []
        for start in range(0, len(data), MAX_CHUNK_WIRE_BYTES):
            piece = data[start : start + MAX_CHUNK_WIRE_BYTES]
            digest = hashlib.sha256(piece).hexdigest()
            wire[digest] = piece
            pieces.append((digest, len(piece)))
        self.chunks |= wire
        path = target_path(name, version)
        digest = hashlib.sha256(data).hexdigest()
        self.released[path] = TargetFile(
            length=len(data),
            hashes={"sha256": digest},
            path=path,
            unrecognized_fields={"custom": index_pieces_custom(pieces)},
        )
        self.image.publish(self.released)
        return digest

    def content(self, entry: IndexedFile) -> bytes:
        return b"".join(assemble(entry, lambda chunk: self.chunks[chunk.sha256]))

    def image_message(self) -> bytes:
        return pack_metadata(self.image.files)

    def order(
        self,
        device: str,
        *orders: BundleOrder,
        version: int | None = None,
        expires: datetime | None = None,
        signers: Mapping[str, CryptoSigner] | None = None,
        fields: dict[str, object] | None = None,
        signed_at: datetime | None = None,
    ) -> bytes:
        """The packed order of a device."""
        targets = {}
        for order in orders:
            released = self.released[order.target_path]
            targets[order.target_path] = TargetFile(
                length=released.length,
                hashes=dict(released.hashes),
                path=order.target_path,
                unrecognized_fields={"custom": order.to_custom()},
            )
        files = self.director.publish(
            targets,
            version=version,
            expires=expires,
            signers=signers,
            signed_at=signed_at,
            fields={ORDER_FIELD: {"device": device}} if fields is None else fields,
        )
        return pack_metadata(files)


def quick_order(
    bundle: str, version: str, *, budget: Budget | None = None, **gates: float
) -> BundleOrder:
    """An order whose gates pass as soon as a candidate serves, unless told otherwise."""
    wanted: dict[str, object] = {"min_seconds": 0.0, "deadline_seconds": 60.0, **gates}
    return BundleOrder(
        bundle=bundle,
        version=version,
        budget=budget or Budget(),
        gates=Gates(**wanted),  # type: ignore[arg-type]
    )


def _in(*, days: float) -> datetime:
    return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
