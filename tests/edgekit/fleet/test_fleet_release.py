from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgekit.fleet.chunk_store import ChunkStore
from edgekit.fleet.folder import Fleet
from edgekit.fleet.image_repository import ImageRepository
from edgekit.fleet.keys import image_root
from edgekit.fleet.release import list_releases, release_bundle
from edgekit.fleet.repositories import open_images
from edgekit.fleet.storage.setting import open_chunks
from edgekit_runtime.bundle.archive import BundleArchive
from edgekit_runtime.bundle.index import assemble
from edgekit_runtime.errors import (
    GateFailedError,
    InvalidBundleError,
    UsageError,
    VerificationError,
)
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES
from edgekit_runtime.orders import parse_index_pieces

PATH = "digits/1.0.0/index.json"


def test_a_device_rebuilds_the_bundle_from_the_release(fleet: Fleet, make_bundle, updater) -> None:
    noise = np.random.default_rng(1).bytes(300_000)
    bundle = make_bundle(model=noise)
    release = release_bundle(fleet, bundle)
    images = open_images(fleet)
    client = updater(images.published(), image_root(fleet))
    target = client.get_targetinfo(PATH)
    pieces = parse_index_pieces(PATH, target.custom, length=target.length)
    target.verify_length_and_hashes(b"".join(images.chunks.get(digest) for digest, _ in pieces))
    index = images.index_of(target)
    assert index.files[0].path == "manifest.json"
    with BundleArchive(bundle) as archive:
        for entry in index.files:
            data = b"".join(assemble(entry, lambda chunk: images.chunks.get(chunk.sha256)))
            assert data == archive.read(entry.path)
    names = list(images.chunk_names())
    assert len(names) == len(set(names)) == release.chunks + len(pieces)
    assert names[: len(pieces)] == [digest for digest, _ in pieces]
    assert all(len(images.chunks.get(name)) <= MAX_CHUNK_WIRE_BYTES for name in names)
    assert release.wire_bytes > len(noise)


def test_an_index_larger_than_a_message_travels_in_pieces(
    fleet: Fleet, make_bundle, updater
) -> None:
    # Incompressible, so that each chunk of the model is one of the index's many entries.
    release = release_bundle(fleet, make_bundle(model=np.random.default_rng(2).bytes(60_000_000)))
    assert release.index_bytes > MAX_CHUNK_WIRE_BYTES
    images = open_images(fleet)
    target = updater(images.published(), image_root(fleet)).get_targetinfo(PATH)
    assert len(target.custom["pieces"]) == 2
    assert images.index_of(target).name == "digits"


def test_the_same_content_again_changes_nothing(fleet: Fleet, make_bundle) -> None:
    first = release_bundle(fleet, make_bundle())
    before = open_images(fleet).published()
    assert release_bundle(fleet, make_bundle()) == first
    assert open_images(fleet).published() == before
    assert list_releases(fleet) == (first,)


def test_the_same_content_packed_by_another_zlib_changes_nothing(
    fleet: Fleet, make_bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = release_bundle(fleet, make_bundle())
    before = open_images(fleet).published()
    monkeypatch.setattr("zlib.compress", lambda data, level: data)
    assert release_bundle(fleet, make_bundle()) == first
    assert open_images(fleet).published() == before


def test_the_same_version_with_other_content_is_refused(fleet: Fleet, make_bundle) -> None:
    release_bundle(fleet, make_bundle())
    before = open_images(fleet).published()
    chunks = sorted(fleet.chunks.iterdir())
    with pytest.raises(GateFailedError, match=r"other content: .*model\.onnx"):
        release_bundle(fleet, make_bundle(model=b"another model"))
    assert open_images(fleet).published() == before
    assert sorted(fleet.chunks.iterdir()) == chunks


def test_what_did_not_change_is_stored_once(fleet: Fleet, make_bundle) -> None:
    noise = np.random.default_rng(3).bytes(4 * MAX_CHUNK_WIRE_BYTES)
    release_bundle(fleet, make_bundle("1.0.0", model=noise))
    second = release_bundle(fleet, make_bundle("1.1.0", model=noise[:-1] + b"!"))
    # The manifest and the last piece of the model, and for each a delta.
    assert second.new_chunks == 4
    assert second.chunks == 7
    assert [item.version for item in list_releases(fleet)] == ["1.0.0", "1.1.0"]


def test_releases_are_listed_by_version_and_not_by_spelling(fleet: Fleet, make_bundle) -> None:
    for version in ("1.10.0", "1.9.0", "1.10.0-rc.1"):
        release_bundle(fleet, make_bundle(version))
    assert [item.version for item in list_releases(fleet)] == ["1.9.0", "1.10.0-rc.1", "1.10.0"]


@pytest.mark.parametrize("cut_at", ["put_all", "add", "do_snapshot", "do_timestamp"])
def test_a_crash_leaves_the_old_state_and_a_repetition_completes_it(
    fleet: Fleet, make_bundle, updater, monkeypatch: pytest.MonkeyPatch, cut_at: str
) -> None:
    release_bundle(fleet, make_bundle("1.0.0"))
    before = open_images(fleet).published()
    owner = ChunkStore if cut_at == "put_all" else ImageRepository
    whole = getattr(owner, cut_at)

    def power_cut(*args: object, **options: object) -> object:
        if cut_at == "put_all":
            whole(*args, **options)
        raise KeyboardInterrupt

    second = make_bundle("2.0.0", model=b"better model")
    with monkeypatch.context() as patch:
        patch.setattr(owner, cut_at, power_cut)
        with pytest.raises(KeyboardInterrupt):
            release_bundle(fleet, second)
    assert open_images(fleet).published() == before
    release_bundle(fleet, second)
    client = updater(open_images(fleet).published(), image_root(fleet))
    assert client.get_targetinfo("digits/2.0.0/index.json") is not None
    assert client.get_targetinfo(PATH) is not None


def test_a_damaged_or_lost_chunk_is_noticed_and_healed_by_releasing_again(
    fleet: Fleet, make_bundle
) -> None:
    bundle = make_bundle()
    release_bundle(fleet, bundle)
    chunks = sorted(fleet.chunks.iterdir())
    whole = {path.name: path.read_bytes() for path in chunks}
    chunks[0].write_bytes(b"rot")
    chunks[1].unlink()
    store = open_chunks(fleet)
    with pytest.raises(VerificationError, match="damaged") as caught:
        store.get(chunks[0].name)
    assert "release the bundle again" in str(caught.value.fix)
    with pytest.raises(VerificationError, match="is missing"):
        store.get(chunks[1].name)
    release_bundle(fleet, bundle)
    assert {path.name: path.read_bytes() for path in fleet.chunks.iterdir()} == whole
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in whole.items())


def test_metadata_that_somebody_changed_is_not_built_upon(fleet: Fleet, make_bundle) -> None:
    """The offline key must not sign what an intruder has written into the folder."""
    release_bundle(fleet, make_bundle("1.0.0"))
    path = max(fleet.image_metadata.glob("*.targets.json"))
    path.write_bytes(path.read_bytes().replace(b"1.0.0", b"6.6.6"))
    with pytest.raises(VerificationError, match="not signed by a key that the root trusts"):
        release_bundle(fleet, make_bundle("1.1.0"))
    with pytest.raises(VerificationError):
        list(open_images(fleet).chunk_names())


def test_a_file_that_is_no_bundle_is_refused_before_anything_is_written(
    fleet: Fleet, tmp_path
) -> None:
    junk = tmp_path / "junk.ekb"
    junk.write_bytes(b"junk")
    with pytest.raises(InvalidBundleError):
        release_bundle(fleet, junk)
    with pytest.raises(UsageError, match="no such file"):
        release_bundle(fleet, tmp_path / "missing.ekb")
    assert not list(fleet.chunks.iterdir())


def test_a_damaged_record_is_named(fleet: Fleet, make_bundle) -> None:
    release_bundle(fleet, make_bundle())
    record = fleet.releases / "digits" / "1.0.0.json"
    record.write_text("{}")
    with pytest.raises(VerificationError, match="record of a release is damaged"):
        list_releases(fleet)


def test_old_metadata_does_not_pile_up(fleet: Fleet, make_bundle) -> None:
    for minor in range(14):
        release_bundle(fleet, make_bundle(f"1.{minor}.0", model=b"m"))
    assert len(list(fleet.image_metadata.glob("*.targets.json"))) == 10
    assert len(list(fleet.image_metadata.glob("*.root.json"))) == 1
    assert len(open_images(fleet).published_targets().targets) == 14
