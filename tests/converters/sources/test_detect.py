"""A source is told by its content; its name may lie."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import pickle
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit_converters.sources.detect import detect_source, name_of
from edgekit_converters.sources.kind import KINDS_READ, SourceKind
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError, UsageError


def _zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return buffer.getvalue()


_PICKLE = pickle.dumps({"a": 1})
CONTENTS = {
    "onnx": (b"\x08\x08\x12\x07pytorch" + bytes(20), SourceKind.ONNX),
    "tflite": (b"\x20\x00\x00\x00TFL3" + bytes(20), SourceKind.TFLITE),
    "h5": (b"\x89HDF\r\n\x1a\n" + bytes(20), SourceKind.KERAS),
    "keras": (_zip(config_dot_json=b"{}", metadata_dot_json=b"{}"), SourceKind.KERAS),
    "pt2": (
        _zip(m__models__model_dot_json=b"{}", m__archive_format=b"pt2"), SourceKind.TORCH_PROGRAM
    ),
    "torchscript": (
        _zip(m__data_dot_pkl=b"", m__constants_dot_pkl=b"", m__code__a_dot_py=b""),
        SourceKind.TORCH_SCRIPT,
    ),
    "torch.save": (_zip(m__data_dot_pkl=b"", m__version=b"3"), SourceKind.TORCH_PICKLE),
    "skops": (_zip(schema_dot_json=b"{}"), SourceKind.SKOPS),
    "pickle": (_PICKLE, SourceKind.PICKLE),
    "zlib": (zlib.compress(_PICKLE), SourceKind.PICKLE),
    "gzip": (gzip.compress(_PICKLE), SourceKind.PICKLE),
    "bz2": (bz2.compress(_PICKLE), SourceKind.PICKLE),
    "xz": (lzma.compress(_PICKLE), SourceKind.PICKLE),
    "lzma": (lzma.compress(_PICKLE, format=lzma.FORMAT_ALONE), SourceKind.PICKLE),
    "xgboost": (b'{"learner":{"a":1},"version":[3,0,0]}', SourceKind.XGBOOST),
    "xgboost, sorted otherwise": (
        b'\xef\xbb\xbf {"version": [3, 0, 0], "learner": {}}'[3:], SourceKind.XGBOOST
    ),
    "ubjson": (b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{L", SourceKind.XGBOOST),
    "lightgbm": (b"tree\nversion=v4\nnum_class=1\n", SourceKind.LIGHTGBM),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".onnx", ".pkl", ".txt", ".json", ""])
@pytest.mark.parametrize("name", list(CONTENTS))
def test_content_decides_and_the_name_does_not(name: str, suffix: str, tmp_path: Path) -> None:
    content, kind = CONTENTS[name]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    assert detect_source(path) is kind


def test_folders_and_names_of_code(tmp_path: Path) -> None:
    saved = tmp_path / "my.model"
    saved.mkdir()
    (saved / "saved_model.pb").write_bytes(b"\x08\x01")
    assert detect_source(saved) is SourceKind.SAVED_MODEL
    assert name_of(saved) == "my.model"
    assert detect_source(Path("shop.models:make_net")) is SourceKind.TORCH_FACTORY
    assert name_of(Path("shop.models:Net.small")) == "small"
    assert name_of(tmp_path / "a.b.onnx") == "a.b"
    with pytest.raises(UsageError, match="one file of a TensorFlow SavedModel"):
        detect_source(saved / "saved_model.pb")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"dear diary", "no model"),
        (b"\x93NUMPY\x01\x00", "array that numpy saved"),
        (_zip(x_dot_npy=b"1"), "arrays that numpy saved"),
        (_zip(manifest_dot_json=b"{}"), "edgekit bundle"),
        (_zip(a=b"1"), "a zip archive"),
        (b"PK\x03\x04 damaged", "damaged zip"),
        (json.dumps({"tree_info": []}).encode(), "dump_model"),
        (json.dumps({"class_name": "Sequential", "config": {}}).encode(), "without its weights"),
        (b'{"other": 1}', "no model"),
        (b"[1, 2", "no model"),
        (b'{"a": ' + b"[" * 100_000, "no model"),
        (b"binf\x00\x00", "before 3.1"),
        (b"\x7fELF\x02", "a program"),
        (gzip.compress(b"hello", mtime=0), "gzip"),
        (_zip(serialized_exported_program_dot_json=b"{}"), "before 2.8"),
    ],
)
def test_what_is_none_of_these_is_refused_with_what_is_read(
    content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=said) as caught:
        detect_source(path)
    assert caught.value.fix
    if "no model" in said:
        assert KINDS_READ in str(caught.value.fix)


def test_nothing_there(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.onnx", tmp_path / "a:b:c", Path("no/such:thing")):
        with pytest.raises(UsageError, match="no such file"):
            detect_source(path)
    with pytest.raises(UsageError, match="no TensorFlow SavedModel"):
        detect_source(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="empty"):
        detect_source(tmp_path / "empty")


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(list(CONTENTS)), place=st.integers(0, 60), byte=st.integers(0, 255),
    cut=st.integers(1, 400),
)  # fmt: skip
def test_damaged_files_are_told_or_refused(
    tmp_path: Path, name: str, place: int, byte: int, cut: int
) -> None:
    content = bytearray(CONTENTS[name][0])
    content[min(place, len(content) - 1)] = byte
    path = tmp_path / "model"
    path.write_bytes(bytes(content[:cut]))
    # Any other exception is the fault that is looked for.
    with contextlib.suppress(EdgekitError):
        assert detect_source(path) in set(SourceKind)


def test_an_array_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(UnsupportedModelError, match="arrays that numpy saved"):
        detect_source(tmp_path / "a.npz")
