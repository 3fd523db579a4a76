from __future__ import annotations

from pathlib import Path

import pytest

from edgekit_converters import publish as module
from edgekit_converters.publish import publish, staging_for
from edgekit_runtime.errors import EnvironmentLackError, UsageError


def _tree(folder: Path) -> dict[str, str | None]:
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_text()
        for path in folder.rglob("*")
    }


def test_files_appear_together_and_the_staging_folder_goes(tmp_path: Path) -> None:
    target = tmp_path / "made" / "deep"
    with staging_for(target) as staging:
        moves = []
        for name in ("a", "b"):
            (staging / name).write_text(name)
            moves.append((staging / name, target / name))
        assert not target.exists()
        publish(moves, staging=staging)
    assert _tree(tmp_path) == {
        "made": None, "made/deep": None, "made/deep/a": "a", "made/deep/b": "b",
    }  # fmt: skip


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError])
def test_an_interruption_midway_puts_everything_back(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").write_text("before")
    before = _tree(tmp_path)

    def interrupted(folder: Path) -> None:
        raise error

    monkeypatch.setattr(module, "sync_folder", interrupted)
    expected = EnvironmentLackError if error is OSError else error
    with staging_for(tmp_path) as staging:
        (staging / "1").write_text("after")
        (staging / "2").write_text("new")
        moves = [(staging / "1", tmp_path / "old"), (staging / "2", tmp_path / "x" / "new")]
        with pytest.raises(expected):
            publish(moves, staging=staging)
    assert _tree(tmp_path) == before


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with staging_for(tmp_path) as staging:
        (staging / "a").write_text("new")
        publish([(staging / "a", tmp_path / "a")], staging=staging)
    assert _tree(tmp_path) == {"a": "new"}


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="folder is needed"), staging_for(tmp_path / "file" / "x"):
        pass


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.tempfile, "mkdtemp", refuse)
    with pytest.raises(EnvironmentLackError, match="Permission denied"), staging_for(tmp_path):
        pass
