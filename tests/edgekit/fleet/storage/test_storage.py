"""Chunks and bundle files in a folder and in a bucket: the same promises, the same errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgekit.cli.fleet import fleet as fleet_commands
from edgekit.fleet.chunk_store import ChunkStore
from edgekit.fleet.folder import Fleet
from edgekit.fleet.release import release_bundle
from edgekit.fleet.repositories import open_images
from edgekit.fleet.storage import setting as setting_module
from edgekit.fleet.storage.blobs import Storage
from edgekit.fleet.storage.local import FolderStorage
from edgekit.fleet.storage.remote import RemoteStorage
from edgekit.fleet.storage.setting import (
    StorageSetting,
    encrypt_storage,
    move_storage,
    open_bundles,
    open_chunks,
    read_storage,
)
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from edgekit_runtime.sealing.keys import StorageLockedError, write_new_key
from edgekit_runtime.sealing.vault import UnknownKeyError
from tests.simulators.s3_server import BUCKET, s3_server


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as url:
        yield url


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return FolderStorage(tmp_path / "blobs")
    endpoint = request.getfixturevalue("endpoint")
    return RemoteStorage(f"s3://{BUCKET}/{tmp_path.name}/blobs/", endpoint=endpoint)


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path) -> StorageSetting:
    return StorageSetting(url=f"s3://{BUCKET}/{tmp_path.name}", endpoint=endpoint)


def names_and_blobs(count: int) -> dict[str, bytes]:
    blobs = [b"chunk %d" % number for number in range(count)]
    return {hashlib.sha256(blob).hexdigest(): blob for blob in blobs}


def test_blobs_are_written_read_listed_and_removed(storage: Storage) -> None:
    assert storage.sizes() == {}
    assert storage.read(["a"]) == {}
    storage.remove(["a"])
    storage.write({"a": b"one", "b": b""})
    assert storage.read(["a", "b", "c"]) == {"a": b"one", "b": b""}
    assert storage.sizes() == {"a": 3, "b": 0}
    storage.write({"a": b"other"})
    assert storage.read(["a"]) == {"a": b"other"}
    storage.remove(["a", "c"])
    assert storage.sizes() == {"b": 0}
    assert storage.where("b").endswith("/blobs/b")


def test_what_another_writes_is_seen_at_once(storage: Storage, tmp_path: Path) -> None:
    assert storage.sizes() == {}
    if isinstance(storage, RemoteStorage):
        other: Storage = RemoteStorage(storage._url, endpoint=storage._files.endpoint_url)
    else:
        other = FolderStorage(tmp_path / "blobs")
    other.write({"a": b"one"})
    assert (storage.sizes(), storage.read(["a"])) == ({"a": 3}, {"a": b"one"})
    other.remove(["a"])
    assert (storage.sizes(), storage.read(["a"])) == ({}, {})


def test_files_go_in_and_come_out(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"bundle " * 300_000)
    storage.put_file("x.ekb", tmp_path / "big")
    with storage.opened("x.ekb") as file:
        assert file.read_bytes() == (tmp_path / "big").read_bytes()
    with pytest.raises(FileNotFoundError), storage.opened("y.ekb"):
        pass


def test_a_store_writes_only_what_is_missing_or_damaged(storage: Storage) -> None:
    store = ChunkStore(storage)
    chunks = names_and_blobs(70)
    assert store.put_all(chunks) == list(chunks)
    assert store.put_all(chunks) == []
    lost, damaged, *_ = chunks
    storage.remove([lost])
    storage.write({damaged: b"rot"})
    with pytest.raises(VerificationError, match="missing"):
        store.get(lost)
    with pytest.raises(VerificationError, match="damaged"):
        list(store.get_all(list(chunks)[1:]))
    assert store.put_all(chunks) == [lost, damaged]
    assert dict(store.get_all(list(chunks))) == chunks


def test_a_fleet_moves_to_a_bucket_and_back(
    fleet: Fleet, make_bundle: Callable[..., Path], bucket: StorageSetting
) -> None:
    release_bundle(fleet, make_bundle("1.0.0"))
    open_bundles(fleet).put_file(
        f"{hashlib.sha256(b'x').hexdigest()}.ekb", _file(fleet.path / "x", b"x")
    )
    names = list(open_images(fleet).chunk_names())
    seen: list[tuple[int, int]] = []
    moved = move_storage(fleet, bucket, progress=lambda done, total: seen.append((done, total)))
    assert (moved.blobs, moved.copied) == (len(names) + 1, len(names) + 1)
    assert seen[-1] == (moved.blobs, moved.blobs)
    assert read_storage(fleet) == bucket
    for path in fleet.chunks.iterdir():
        path.unlink()
    release_bundle(fleet, make_bundle("2.0.0", model=b"better " * 40_000))
    after = dict(open_images(fleet).chunks.get_all(list(open_images(fleet).chunk_names())))
    assert set(names) < after.keys()
    assert not list(fleet.chunks.iterdir())
    back = move_storage(fleet, StorageSetting())
    # The bundle file never left the folder.
    assert back.copied == len(after)
    assert {path.name for path in fleet.chunks.iterdir()} == after.keys()
    assert not (fleet.path / "storage.toml").exists()


def test_an_interrupted_move_changes_nothing_and_is_done_again(
    fleet: Fleet, make_bundle: Callable[..., Path], bucket: StorageSetting
) -> None:
    release_bundle(fleet, make_bundle())

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move_storage(fleet, bucket, progress=interrupted)
    assert read_storage(fleet) == StorageSetting()
    moved = move_storage(fleet, bucket)
    assert moved.copied == 0 < moved.blobs
    assert move_storage(fleet, bucket).copied == 0


def test_a_damaged_blob_is_not_carried_on(
    fleet: Fleet, make_bundle: Callable[..., Path], bucket: StorageSetting
) -> None:
    release_bundle(fleet, make_bundle())
    next(fleet.chunks.iterdir()).write_bytes(b"rot")
    with pytest.raises(VerificationError, match="damaged"):
        move_storage(fleet, bucket)
    assert read_storage(fleet) == StorageSetting()
    release_bundle(fleet, make_bundle())
    open_bundles(fleet).put_file("0" * 64 + ".ekb", _file(fleet.path / "x", b"x"))
    with pytest.raises(VerificationError, match="bundle file is damaged"):
        move_storage(fleet, bucket)


def test_a_bucket_that_is_not_there_is_an_error_and_no_setting(
    fleet: Fleet, make_bundle: Callable[..., Path], endpoint: str
) -> None:
    release_bundle(fleet, make_bundle())
    for setting in (
        StorageSetting(url="s3://nobodys/x", endpoint=endpoint),
        StorageSetting(url="s3://models/x", endpoint="http://127.0.0.1:9"),
    ):
        with pytest.raises(EnvironmentLackError, match="cannot be reached"):
            move_storage(fleet, setting)
    assert read_storage(fleet) == StorageSetting()


@pytest.mark.parametrize(
    ("url", "endpoint", "message"),
    [
        ("models", "", "is no storage"),
        ("s3://x y", "", "is no storage"),
        ("gs://models", "https://x", "is no endpoint of gs://models"),
        ("s3://models", "x", "'x' is no endpoint"),
        ("eggs://models", "", "no URL that fsspec knows"),
    ],
)
def test_what_is_no_storage_is_said(fleet: Fleet, url: str, endpoint: str, message: str) -> None:
    pytest.importorskip("fsspec", reason="knows the URLs")
    with pytest.raises(UsageError, match=message):
        move_storage(fleet, StorageSetting(url=url, endpoint=endpoint))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("url = 3\nother = 1", "other: is unknown; url: must be a string"),
        ("url = 'here'", "does not match"),
        ("url =", "cannot be read"),
        ("url = 's3://a/b'\nendpoint = 'ftp://x'", "is no endpoint"),
    ],
)
def test_a_damaged_setting_is_said(fleet: Fleet, text: str, message: str) -> None:
    (fleet.path / "storage.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        open_chunks(fleet)


def test_a_missing_package_is_named(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec", reason="is asked for the driver")

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(EnvironmentLackError) as caught:
        move_storage(fleet, StorageSetting(url="s3://models/x"))
    assert caught.value.fix == "pip install s3fs"


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "storage.key"
    write_new_key(path, rotate=False)
    return path


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest) -> StorageSetting:
    if request.param == "folder":
        return StorageSetting()
    found: StorageSetting = request.getfixturevalue("bucket")
    return found


def raw(fleet: Fleet) -> Storage:
    """What lies there, as whoever has only the storage sees it."""
    setting = replace(read_storage(fleet), key_file="", encrypted=False)
    return setting_module._chunks(fleet, setting)


def test_blobs_are_encrypted_where_they_lie_and_plain_again(
    fleet: Fleet, make_bundle: Callable[..., Path], place: StorageSetting, key: Path
) -> None:
    release_bundle(fleet, make_bundle("1.0.0"))
    move_storage(fleet, place)
    bundle = hashlib.sha256(b"bundle").hexdigest() + ".ekb"
    open_bundles(fleet).put_file(bundle, _file(fleet.path / "x", b"bundle"))
    before = raw(fleet).read(list(open_images(fleet).chunk_names()))
    assert encrypt_storage(fleet, key) == len(before) + 1
    assert encrypt_storage(fleet, key) == 0
    release_bundle(fleet, make_bundle("2.0.0", model=b"better " * 40_000))
    chunks = dict(open_chunks(fleet).get_all(list(open_images(fleet).chunk_names())))
    assert before.items() < chunks.items()
    stored = raw(fleet).read(list(chunks))
    assert all(chunks[name] not in stored[name] for name in chunks)
    with open_bundles(fleet).opened(bundle) as file:
        assert file.read_bytes() == b"bundle"
    # Another key is put before: nothing needs the older one then.
    write_new_key(key, rotate=True)
    assert encrypt_storage(fleet, key) == len(chunks) + 1
    key.write_text("\n".join(key.read_text().splitlines()[:2]))
    assert dict(open_chunks(fleet).get_all(list(chunks))) == chunks
    assert encrypt_storage(fleet, None) == len(chunks) + 1
    assert raw(fleet).read(list(chunks)) == chunks
    assert read_storage(fleet) == place
    assert encrypt_storage(fleet, None) == 0


def test_encryption_moves_along(
    fleet: Fleet, make_bundle: Callable[..., Path], bucket: StorageSetting, key: Path
) -> None:
    release_bundle(fleet, make_bundle())
    encrypt_storage(fleet, key)
    move_storage(fleet, bucket)
    assert read_storage(fleet) == replace(bucket, key_file=str(key), encrypted=True)
    names = list(open_images(fleet).chunk_names())
    chunks = dict(open_chunks(fleet).get_all(names))
    stored = raw(fleet).read(names)
    assert all(stored[name] not in (chunks[name], b"") for name in names)


def test_a_conversion_that_is_interrupted_leaves_a_fleet_that_works(
    fleet: Fleet, make_bundle: Callable[..., Path], key: Path
) -> None:
    release_bundle(fleet, make_bundle())
    names = list(open_images(fleet).chunk_names())
    before = dict(open_chunks(fleet).get_all(names))

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encrypt_storage(fleet, key, progress=interrupted)
    assert dict(open_chunks(fleet).get_all(names)) == before
    assert encrypt_storage(fleet, key) == len(names) - 1


def test_keys_that_are_missing_or_others_are_named_and_damage_is_repaired(
    fleet: Fleet, make_bundle: Callable[..., Path], key: Path
) -> None:
    release_bundle(fleet, make_bundle())
    names = list(open_images(fleet).chunk_names())
    key.chmod(0o644)
    with pytest.raises(StorageLockedError, match="others may read"):
        encrypt_storage(fleet, key)
    assert read_storage(fleet) == StorageSetting()
    key.chmod(0o600)
    encrypt_storage(fleet, key)
    # A chunk in another one's place does not open; releasing again mends it.
    first, second = (fleet.chunks / name for name in names[:2])
    first.write_bytes(second.read_bytes())
    with pytest.raises(VerificationError, match="damaged"):
        open_chunks(fleet).get(names[0])
    release_bundle(fleet, make_bundle())
    assert open_chunks(fleet).get(names[0])
    key.rename(key.with_name("away"))
    with pytest.raises(StorageLockedError, match="cannot be read"):
        open_chunks(fleet).get(names[0])
    write_new_key(key, rotate=False)
    with pytest.raises(UnknownKeyError, match="encrypted with the key"):
        open_chunks(fleet).get(names[0])


def test_a_key_file_that_opens_nothing_of_what_is_there_changes_nothing(
    fleet: Fleet, make_bundle: Callable[..., Path], key: Path
) -> None:
    release_bundle(fleet, make_bundle())
    names = list(open_images(fleet).chunk_names())
    before = dict(open_chunks(fleet).get_all(names))
    encrypt_storage(fleet, key)
    other = key.with_name("other")
    write_new_key(other, rotate=False)
    with pytest.raises(UsageError, match="lacks 1 of the keys"):
        encrypt_storage(fleet, other)
    assert read_storage(fleet).key_file == str(key)
    assert dict(open_chunks(fleet).get_all(names)) == before
    # With the older key below its own it opens all, and takes the other file's place.
    other.write_text(other.read_text() + key.read_text())
    assert encrypt_storage(fleet, other) == len(names)
    key.unlink()
    assert dict(open_chunks(fleet).get_all(names)) == before
    # A file that was moved: what it held before cannot be known any more.
    other.rename(key)
    assert encrypt_storage(fleet, key) == 0


def test_the_command_encrypts_shows_and_takes_back(
    fleet: Fleet, make_bundle: Callable[..., Path], key: Path
) -> None:
    release_bundle(fleet, make_bundle())

    def run(*arguments: str) -> Any:
        given = ["storage", *arguments, "--fleet", str(fleet.path)]
        return CliRunner().invoke(fleet_commands, given, standalone_mode=False)

    count = len(list(open_images(fleet).chunk_names()))
    done = run("--key-file", str(key))
    assert f"folder, encrypted with {key}: {count} blobs were written anew" in done.output
    assert json.loads(run("--json").output)["encrypted"] is True
    assert "one at a time" in str(run("s3://a/b", "--plain").exception)
    assert f"folder: {count} blobs were written anew" in run("--plain").output
    (fleet.path / "storage.toml").write_text("encrypted = true\nurl = 's3://a/b'\n")
    assert "key_file: is missing" in str(run().exception)
