"""Encryption at rest: the form of a file, the keys, and folders that change from one to another."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.sealing.frames import (
    FRAME_BYTES,
    HEADER_BYTES,
    MAGIC,
    TAG_BYTES,
    SealedReader,
    content_bytes,
    seal,
)
from edgekit_runtime.sealing.keys import (
    CREDENTIALS_VARIABLE,
    KeySource,
    StorageLockedError,
    read_keys,
    storage_key,
    write_new_key,
)
from edgekit_runtime.sealing.vault import Encryption, UnknownKeyError, Vault, read_encryption

KEY = storage_key(bytes(range(32)))
SIZES = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES, 200_000]


def sealed(content: bytes, name: str = "a/b", *, cuts: int = 1000) -> bytes:
    pieces = [content[start : start + cuts] for start in range(0, len(content), cuts)]
    return b"".join(seal(pieces, key=KEY, name=name))


def reader(data: bytes, name: str = "a/b") -> SealedReader:
    return SealedReader(io.BytesIO(data), size=len(data), key=KEY, name=name)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_comes_out_whole_and_in_stretches(size: int) -> None:
    content = os.urandom(size)
    data = sealed(content, cuts=70_001)
    assert data.startswith(MAGIC)
    assert content_bytes(len(data)) == size
    assert b"".join(reader(data).pieces()) == content
    for offset in (0, 1, FRAME_BYTES - 1, FRAME_BYTES, size - 1, size, size + 5):
        if offset >= 0:
            assert reader(data).read_at(offset, 10) == content[offset : offset + 10]
    assert reader(data).read_at(0, size) == content


def test_the_same_content_never_looks_the_same() -> None:
    assert sealed(b"the same")[HEADER_BYTES:] != sealed(b"the same")[HEADER_BYTES:]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([1, FRAME_BYTES, FRAME_BYTES + 30]))
def test_one_changed_bit_anywhere_is_noticed(data: st.DataObject, size: int) -> None:
    changed = bytearray(sealed(bytes(size)))
    # The magic and the key's id are looked at before, to choose the key.
    position = data.draw(st.integers(len(MAGIC) + 8, len(changed) - 1))
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(VerificationError, match="damaged"):
        b"".join(reader(bytes(changed)).pieces())


def test_frames_cannot_be_cut_off_left_out_or_change_places() -> None:
    content = os.urandom(3 * FRAME_BYTES)
    data = sealed(content)
    wire = FRAME_BYTES + TAG_BYTES
    head, frames = (
        data[:HEADER_BYTES],
        [data[HEADER_BYTES + n * wire :][:wire] for n in range(3)],
    )
    wrong = [
        head + frames[0] + frames[1],
        head + frames[0] + frames[2],
        head + frames[1] + frames[0] + frames[2],
        head + b"".join(frames) + frames[2],
        head,
        head[:-1],
        head + frames[0][:10],
    ]
    for each in wrong:
        with pytest.raises(VerificationError, match="damaged"):
            b"".join(reader(each).pieces())


def test_a_file_cannot_take_the_place_of_another() -> None:
    data = sealed(b"content", name="samples/1")
    with pytest.raises(VerificationError, match="something else's"):
        b"".join(reader(data, name="samples/2").pieces())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_bring_it_down(body: bytes, headed: bool) -> None:
    data = MAGIC + KEY.id + body if headed else body
    try:
        b"".join(reader(data).pieces())
    except VerificationError:
        return
    raise AssertionError(data)


def key_file(folder: Path, name: str = "storage.key") -> KeySource:
    path = folder / name
    if not path.exists():
        write_new_key(path, rotate=False)
    return KeySource("file", str(path))


def test_a_key_file_is_made_for_its_owner_alone_and_rotated(tmp_path: Path) -> None:
    source = key_file(tmp_path)
    path = source.find()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = read_keys(source)
    assert write_new_key(path, rotate=True) == 2
    keys = read_keys(source)
    assert keys[1:] == first
    assert len({key.id for key in keys}) == 2
    assert keys[0].secret.hex() not in repr(keys)
    with pytest.raises(UsageError, match="there is a file already"):
        write_new_key(path, rotate=False)
    with pytest.raises(UsageError, match="no key file"):
        write_new_key(tmp_path / "none", rotate=True)


def test_a_rotated_key_stays_its_owners_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator rotates the key of an agent that runs as another user."""
    path = key_file(tmp_path).find()
    # What a rotation that was cut off, or somebody else, has left.
    partial = path.with_name(f".{path.name}.new")
    partial.write_text("left")
    partial.chmod(0o644)
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _file, *owner: given.append(owner))
    owner = path.stat()
    write_new_key(path, rotate=True)
    assert given == [(owner.st_uid, owner.st_gid)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not partial.exists()


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "abc\n", "0" * 63 + "\n", "g" * 64 + "\n", ("0" * 64 + "\n") * 17]
)
def test_what_is_no_key_file_is_named_without_its_content(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(StorageLockedError, match="this is no key file") as caught:
        read_keys(KeySource("file", str(path)))
    assert "000000" not in str(caught.value)


def test_a_key_that_others_may_read_or_that_is_missing_is_refused(tmp_path: Path) -> None:
    source = key_file(tmp_path)
    source.find().chmod(0o640)
    with pytest.raises(StorageLockedError, match="others may read") as caught:
        read_keys(source)
    assert caught.value.fix == f"chmod 600 {source.find()}"
    source.find().unlink()
    with pytest.raises(StorageLockedError, match="cannot be read: No such file"):
        read_keys(source)


def test_a_key_of_systemd_or_of_a_file_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = read_keys(key_file(tmp_path))
    monkeypatch.delenv(CREDENTIALS_VARIABLE, raising=False)
    with pytest.raises(StorageLockedError, match="CREDENTIALS_DIRECTORY is not set"):
        read_keys(KeySource("credential", "storage.key"))
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(tmp_path))
    # systemd's own permissions may let a group read.
    (tmp_path / "storage.key").chmod(0o440)
    assert read_keys(KeySource("credential", "storage.key")) == wanted
    (tmp_path / "storage.key").chmod(0o600)
    with pytest.raises(StorageLockedError, match="OUR_KEY is not set"):
        read_keys(KeySource("variable", "OUR_KEY"))
    monkeypatch.setenv("OUR_KEY", str(tmp_path / "storage.key"))
    assert read_keys(KeySource("variable", "OUR_KEY")) == wanted


@pytest.mark.parametrize(
    "encryption",
    [
        Encryption(),
        Encryption(key=KeySource("file", "/a:b c"), enabled=True),
        Encryption(key=KeySource("credential", "name"), enabled=False),
    ],
)
def test_how_files_are_kept_survives_the_way_to_another_process(encryption: Encryption) -> None:
    assert read_encryption(encryption.to_text()) == encryption


def write(vault: Vault, path: Path, content: bytes) -> None:
    path.write_bytes(b"".join(vault.encode(path, [content])))


@pytest.mark.parametrize("size", SIZES)
def test_a_folder_becomes_encrypted_and_plain_again(tmp_path: Path, size: int) -> None:
    key = key_file(tmp_path)
    content = os.urandom(size)
    path = tmp_path / "model"
    plain = Vault(tmp_path)
    on, off = (Vault(tmp_path, Encryption(key=key, enabled=enabled)) for enabled in (True, False))
    write(plain, path, content)
    for vault, changes in ((on, True), (on, False), (off, True), (off, False), (on, True)):
        assert vault.is_current(path) is not changes
        assert vault.convert(path) is changes
        assert (path.read_bytes() == content) is (vault is off)
        for reading in (on, off):
            assert reading.read(path) == content
            assert reading.content_bytes(path) == size
            assert reading.read(path, most=7) == content[:7]
            assert reading.read_at(path, size // 2, 9) == content[size // 2 :][:9]
            assert reading.sha256(path) == hashlib.sha256(content).hexdigest()
            with reading.plain_file(path) as found:
                assert found.read_bytes() == content
    assert not list(tmp_path.glob(".*"))


def test_where_there_is_no_anonymous_memory_the_plain_file_is_private_and_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = Vault(tmp_path, Encryption(key=key_file(tmp_path), enabled=True))
    path = tmp_path / "model"
    write(vault, path, b"content")
    monkeypatch.delattr(os, "memfd_create")
    with vault.plain_file(path) as plain:
        assert plain.read_bytes() == b"content"
        assert stat.S_IMODE(plain.parent.stat().st_mode) == 0o700
    assert not plain.parent.exists()


def test_after_a_rotation_old_files_are_read_and_written_anew(tmp_path: Path) -> None:
    key = key_file(tmp_path)
    path = tmp_path / "model"
    running = Vault(tmp_path, Encryption(key=key, enabled=True))
    write(running, path, b"content")
    write_new_key(key.find(), rotate=True)
    after = Vault(tmp_path, Encryption(key=key, enabled=True))
    assert after.read(path) == b"content"
    assert after.convert(path)
    # One that has read the key file before looks again.
    assert running.read(path) == b"content"
    lines = key.find().read_text().splitlines()
    key.find().write_text("\n".join(lines[:-1]))
    assert Vault(tmp_path, Encryption(key=key, enabled=True)).read(path) == b"content"


def test_a_wrong_key_is_named_and_a_missing_one_is_a_state(tmp_path: Path) -> None:
    key = key_file(tmp_path)
    path = tmp_path / "model"
    vault = Vault(tmp_path, Encryption(key=key, enabled=True))
    write(vault, path, b"content")
    other = Vault(tmp_path, Encryption(key=key_file(tmp_path, "other"), enabled=True))
    with pytest.raises(UnknownKeyError, match=r"encrypted with the key [0-9a-f]{16}, and here are"):
        other.read(path)
    key.find().rename(tmp_path / "away")
    locked = Vault(tmp_path, Encryption(key=key, enabled=True))
    with pytest.raises(StorageLockedError, match="cannot be read"):
        locked.read(path)
    with pytest.raises(StorageLockedError, match="cannot be read"):
        write(locked, path, b"never in the clear")
    assert "storage key cannot be read" in locked.trouble()
    (tmp_path / "away").rename(key.find())
    assert locked.trouble() == ""
    assert locked.read(path) == b"content"


def test_without_a_configured_key_only_encrypted_files_are_a_trouble(tmp_path: Path) -> None:
    key = key_file(tmp_path)
    path = tmp_path / "model"
    write(Vault(tmp_path, Encryption(key=key, enabled=True)), path, b"content")
    without = Vault(tmp_path)
    assert without.trouble() == ""
    with pytest.raises(StorageLockedError, match="no key is configured"):
        without.read(path)
    assert "no key is configured" in without.trouble()


def test_a_record_of_a_database_is_bound_to_its_name(tmp_path: Path) -> None:
    vault = Vault(tmp_path, Encryption(key=key_file(tmp_path), enabled=True))
    stored = vault.encode_record("telemetry/1", b"body")
    assert b"body" not in stored
    assert vault.decode_record("telemetry/1", stored) == b"body"
    assert Vault(tmp_path).decode_record("telemetry/1", b"{}") == b"{}"
    with pytest.raises(VerificationError, match="something else's"):
        vault.decode_record("telemetry/2", stored)
