"""Bundles that DVC tracks; the files below have the form that DVC 3.67 gave them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.fleet.registry.dvc_source import fetch_from_dvc
from edgekit.fleet.registry.fetched import Fetched
from edgekit.fleet.registry.sources import import_bundle
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError

pytest.importorskip("fsspec", reason="reads the remote: pip install 'edgekit[remote]'")
pytest.importorskip("yaml", reason="reads what DVC writes: pip install 'edgekit[remote]'")

CONFIG = """\
[core]
    remote = shelf
['remote "shelf"']
    url = {url}
"""
TRACKED = """\
outs:
- md5: {md5}
  size: {size}
  hash: md5
  path: digits.ekb
"""
LOCK = """\
schema: '2.0'
stages:
  make:
    cmd: python make.py
    outs:
    - path: made.ekb
      hash: md5
      md5: {md5}
      size: {size}
    - path: figures
      hash: md5
      md5: 8ea0a7b0a5e0a5b0a5e0a5b0a5e0a5b0.dir
      size: 12
      nfiles: 2
"""


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(
        [shutil.which("git") or "git", *names, *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


class Repository:
    """A working copy with a remote in a folder beside it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "models"
        self.remote = folder / "remote"
        (self.root / ".dvc").mkdir(parents=True)
        (self.root / ".dvc" / "config").write_text(CONFIG.format(url="../../remote"))
        git(self.root, "init", "-q", "-b", "main")

    def push(self, data: bytes, *, place: str = "files/md5/") -> str:
        md5 = md5_of(data)
        path = self.remote / place / md5[:2] / md5[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return md5

    def track(self, data: bytes) -> str:
        md5 = self.push(data)
        (self.root / "digits.ekb.dvc").write_text(TRACKED.format(md5=md5, size=len(data)))
        return md5

    def commit(self, tag: str) -> str:
        git(self.root, "add", "-A")
        git(self.root, "commit", "-q", "-m", tag)
        git(self.root, "tag", tag)
        return git(self.root, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    return Repository(tmp_path)


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[[str], Fetched]:
    def fetched(source: str) -> Fetched:
        (tmp_path / "here").mkdir(exist_ok=True)
        return fetch_from_dvc(source, tmp_path / "here", progress=lambda _done, _total: None)

    return fetched


def test_a_version_is_registered_with_revision_and_hash(
    registry, make_version, repository: Repository
) -> None:
    first, second = (make_version(v).read_bytes() for v in ("1.0.0", "2.0.0"))
    md5 = repository.track(first)
    commit = repository.commit("v1")
    repository.track(second)
    repository.commit("v2")
    source = f"dvc:{repository.root}#digits.ekb@v1"
    entry = import_bundle(registry, source)
    assert (entry.name, entry.source) == ("digits@1.0.0", source)
    assert entry.tags == {"origin/md5": md5, "origin/revision": commit}
    assert import_bundle(registry, f"dvc:{repository.root}#digits.ekb").version == "2.0.0"


def test_what_a_pipeline_made_is_found_in_its_lock(repository: Repository, fetch) -> None:
    md5 = repository.push(b"made")
    (repository.root / "train").mkdir()
    (repository.root / "train" / "dvc.lock").write_text(LOCK.format(md5=md5, size=4))
    repository.commit("v1")
    found = fetch(f"dvc:{repository.root}#train/made.ekb@main")
    assert found.path.read_bytes() == b"made"
    with pytest.raises(UsageError, match="tracks no file 'train/figures'"):
        fetch(f"dvc:{repository.root}#train/figures")


def test_the_form_of_dvc_2_and_the_cache_are_read(repository: Repository, fetch) -> None:
    md5 = repository.push(b"old", place="")
    document = TRACKED.format(md5=md5, size=3).replace("  hash: md5\n", "")
    (repository.root / "digits.ekb.dvc").write_text(document)
    assert fetch(f"dvc:{repository.root}#digits.ekb").path.read_bytes() == b"old"
    shutil.copytree(repository.remote, repository.root / ".dvc" / "cache")
    shutil.rmtree(repository.remote)
    assert fetch(f"dvc:{repository.root}#digits.ekb").path.read_bytes() == b"old"
    repository.commit("v1")
    assert fetch(f"dvc:{repository.root}#digits.ekb@v1").path.read_bytes() == b"old"


def test_a_repository_that_git_clones(repository: Repository, fetch, tmp_path: Path) -> None:
    repository.track(b"far")
    repository.commit("v1")
    with pytest.raises(UsageError, match=r"is the folder .* beside it"):
        fetch(f"dvc:{repository.root.as_uri()}#digits.ekb")
    (repository.root / ".dvc" / "config").write_text(
        CONFIG.format(url=(tmp_path / "remote").as_uri())
    )
    repository.commit("v2")
    assert fetch(f"dvc:{repository.root.as_uri()}#digits.ekb@v2").path.read_bytes() == b"far"


def test_what_came_is_proven(repository: Repository, fetch) -> None:
    md5 = repository.track(b"right")
    (repository.remote / "files" / "md5" / md5[:2] / md5[2:]).write_bytes(b"wrong")
    with pytest.raises(VerificationError, match="not what DVC tracks"):
        fetch(f"dvc:{repository.root}#digits.ekb")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("#none.ekb", "tracks no file 'none.ekb'"),
        ("#../digits.ekb", "must lie in the repository"),
        ("#/etc/passwd", "must lie in the repository"),
        ("#digits.ekb@none", "git does not give it"),
        ("#digits.ekb@--upload-pack=x", "names no file"),
        ("", "names no file"),
    ],
)
def test_what_is_no_file_is_said(repository: Repository, fetch, rest: str, message: str) -> None:
    repository.track(b"x")
    repository.commit("v1")
    with pytest.raises(UsageError, match=message):
        fetch(f"dvc:{repository.root}{rest}")


def test_a_repository_without_a_remote_and_a_damaged_one(repository: Repository, fetch) -> None:
    repository.track(b"x")
    (repository.root / ".dvc" / "config").write_text("[core]\n")
    with pytest.raises(UsageError, match="names no remote"):
        fetch(f"dvc:{repository.root}#digits.ekb")
    (repository.root / "digits.ekb.dvc").write_text("outs: [")
    with pytest.raises(UsageError, match="cannot be read"):
        fetch(f"dvc:{repository.root}#digits.ekb")


def test_without_git_it_is_named(repository: Repository, fetch, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EnvironmentLackError, match="git is needed"):
        fetch(f"dvc:{repository.root}#digits.ekb@v1")
