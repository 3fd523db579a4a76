from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.fleet.registry.catalogue import Registry
from edgekit.fleet.storage.local import FolderStorage
from edgekit.fleet.store.database import Database
from edgekit_runtime.bundle.archive import BundleArchive, write_bundle
from edgekit_runtime.bundle.manifest import Accuracy

MakeVersion = Callable[..., Path]


@pytest.fixture
def registry(database: Database, tmp_path: Path) -> Registry:
    return Registry(database, FolderStorage(tmp_path / "bundles"), actor="alice")


@pytest.fixture
def make_version(make_bundle: Callable[..., Path]) -> MakeVersion:
    """Write a bundle with a measured accuracy and a lineage."""

    def make(
        version: str = "1.0.0", *, top1: float = 0.95, revision: str = "abc", **options: object
    ) -> Path:
        path = make_bundle(version, **options)
        with BundleArchive(path) as archive:
            manifest = archive.manifest
            files = {name: archive.read(name) for name in manifest.files}
        accuracy = Accuracy(metric="top1", value=top1, samples=500, dataset_sha256="d" * 64)
        manifest = replace(
            manifest,
            variants=tuple(replace(item, accuracy=accuracy) for item in manifest.variants),
            lineage={
                "source": {"file": "digits.pt2", "sha256": "5" * 64},
                "revision": revision,
                "tools": {"onnx": "1.23.2"},
            },
            description="Reads handwritten digits",
        )
        write_bundle(path, manifest, files)
        return path

    return make
