"""Durable writes: all or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekit_runtime.durable import replacing, write_bytes
from edgekit_runtime.errors import EnvironmentLackError


def test_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]  # noqa: PTH208


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_keeps_the_old_content(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLackError) as raised:
        write_bytes(tmp_path / "absent" / "a", b"")
    assert "absent" in str(raised.value)
