"""The `.ekb` file: reproducible, checked, and closed to what must not be in it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from edgekit_runtime.bundle.archive import BundleArchive, write_bundle
from edgekit_runtime.errors import InvalidBundleError, UsageError, VerificationError
from runtime.models import linear_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "linear-1.0.0.ekb"
    manifest, files = linear_bundle(b"the model's bytes")
    write_bundle(path, manifest, files)
    return path


def rewrite(bundle: Path, change: dict[str, bytes | None], **attributes: int) -> Path:
    """The bundle with members replaced, added or (None) left out."""
    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members.update({name: data for name, data in change.items() if data is not None})
    path = bundle.with_name("changed.ekb")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if change.get(name, data) is not None:
                info = zipfile.ZipInfo(name)
                for key, value in attributes.items():
                    setattr(info, key, value)
                archive.writestr(info, data)
    return path


def test_reads_what_was_written(bundle: Path, tmp_path: Path) -> None:
    manifest, files = linear_bundle(b"the model's bytes")
    with BundleArchive(bundle) as archive:
        assert archive.manifest == manifest
        assert {name: archive.read(name) for name in files} == files
        folder = tmp_path / "out"
        folder.mkdir()
        archive.extract(folder)
    assert (folder / "variants/onnx-float32.onnx").read_bytes() == b"the model's bytes"


def test_the_same_content_is_the_same_file(bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.ekb"
    write_bundle(again, *linear_bundle(b"the model's bytes"))
    assert again.read_bytes() == bundle.read_bytes()


def test_members_are_stored_and_the_manifest_comes_first(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        members = archive.infolist()
    assert members[0].filename == "manifest.json"
    assert {member.compress_type for member in members} == {zipfile.ZIP_STORED}


def test_a_manifest_that_does_not_describe_the_files_is_not_written(tmp_path: Path) -> None:
    manifest, files = linear_bundle(b"model")
    with pytest.raises(InvalidBundleError, match=r"variants/onnx-float32\.onnx"):
        write_bundle(tmp_path / "a.ekb", manifest, files | {"variants/onnx-float32.onnx": b"other"})
    assert list(tmp_path.iterdir()) == []


def test_a_changed_byte_is_found(bundle: Path) -> None:
    changed = rewrite(bundle, {"variants/onnx-float32.onnx": b"the model's bytez"})
    with BundleArchive(changed) as archive, pytest.raises(VerificationError):
        archive.read("variants/onnx-float32.onnx")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"extra.txt": b"x"}, "not listed"),
        ({"golden/inputs.npz": None}, "missing"),
        ({"../escape": b"x"}, "safe relative path"),
        ({"manifest.json": None}, "not the first file"),
    ],
)
def test_a_bundle_holds_what_its_manifest_lists(
    bundle: Path, change: dict[str, bytes | None], said: str
) -> None:
    with pytest.raises(InvalidBundleError, match=said):
        BundleArchive(rewrite(bundle, change))


def test_symbolic_links_and_compression_are_refused(bundle: Path) -> None:
    with pytest.raises(InvalidBundleError, match="not an ordinary file"):
        BundleArchive(rewrite(bundle, {}, external_attr=0o120777 << 16))
    with pytest.raises(InvalidBundleError, match="compressed"):
        BundleArchive(rewrite(bundle, {}, compress_type=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("size", [0, 1, 30, 200])
def test_a_truncated_bundle(bundle: Path, size: int) -> None:
    data = bundle.read_bytes()
    bundle.write_bytes(data[:size])
    with pytest.raises((InvalidBundleError, UsageError)):
        BundleArchive(bundle)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        BundleArchive(tmp_path / "absent.ekb")
    with pytest.raises(UsageError, match="folder"):
        BundleArchive(tmp_path)
