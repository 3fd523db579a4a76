"""Bundles that DVC tracks: `dvc:REPOSITORY#PATH`, `dvc:REPOSITORY#PATH@REVISION`.

DVC itself is not needed: what it wrote into the repository (a `.dvc` file, or the `dvc.lock` of a
pipeline) names the MD5 of the file, and its configuration the remote where the file lies under
that name. Form of both: https://dvc.org/doc/user-guide/project-structure.
"""

from __future__ import annotations

import configparser
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from edgekit.fleet.registry.fetched import Fetched, Progress, require_size
from edgekit.fleet.registry.remote_file import fetch_url
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from edgekit_runtime.extras import require
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.files import require_file

SOURCE: Final = "dvc:"
_FORM: Final = re.compile(
    r"dvc:(?P<repository>[^#]+)#(?P<path>[^@#]+)(?:@(?P<revision>[^@#\s-][^@#\s]*))?"
)
_MOST_BYTES: Final = 4 << 20
_CLONE_SECONDS: Final = 600.0
# What fsspec's driver of S3 calls DVC's settings of a remote.
_OPTIONS: Final = {"endpointurl": "endpoint_url", "profile": "profile"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tracked:
    """A file that DVC tracks.

    Attributes:
        md5: Of its content.
        size: In bytes, 0 where it is not said.
        modern: Whether it lies under `files/md5/`, as since DVC 3.
    """

    md5: str
    size: int
    modern: bool

    @property
    def place(self) -> str:
        """Its path in a cache or a remote."""
        return ("files/md5/" if self.modern else "") + f"{self.md5[:2]}/{self.md5[2:]}"


def fetch_from_dvc(source: str, folder: Path, *, progress: Progress) -> Fetched:
    """Fetch a file from a DVC repository's cache or remote, and prove it by its MD5.

    Args:
        source: `dvc:REPOSITORY#PATH` or `dvc:REPOSITORY#PATH@REVISION`; a repository is a folder,
            or anything that git clones. Without a revision, a folder's files as they are.
        folder: Where to.
        progress: Told how far it is.

    Raises:
        UsageError: If DVC does not track such a file there, or the revision is none.
        EnvironmentLackError: If a package or git is missing, or the remote cannot be reached.
        VerificationError: If what came is not what DVC tracks.
        GateFailedError: If it is larger than 8 GiB.
    """
    form = _FORM.fullmatch(source)
    if form is None:
        raise UsageError(
            "this names no file of a DVC repository",
            where=source,
            fix="write it as dvc:REPOSITORY#PATH@REVISION, like dvc:../models#digits.ekb@v1.5",
        )
    with _checked_out(form["repository"], form["revision"], source) as (root, commit):
        tracked = _find(root, form["path"], source)
        require_size(tracked.size, source)
        fetched = _from_cache(root, tracked, folder)
        if fetched is None:
            url, options = _remote(root, Path(form["repository"]), source)
            fetched = fetch_url(
                f"{url}/{tracked.place}", folder, progress=progress, options=options
            )
    with fetched.path.open("rb") as file:
        if hashlib.file_digest(file, "md5").hexdigest() != tracked.md5:
            raise VerificationError(
                "what came is not what DVC tracks",
                where=source,
                fix="put the file there again: dvc push --force",
            )
    origin = {"md5": tracked.md5} | ({"revision": commit} if commit else {})
    return replace(fetched, origin=origin)


@contextmanager
def _checked_out(
    repository: str, revision: str | None, source: str
) -> Iterator[tuple[Path, str | None]]:
    """The repository's small files at a revision, and its commit; None for files as they are."""
    local = Path(repository)
    if local.is_dir() and revision is None:
        yield local, None
        return
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        # No hooks and no submodules: nothing of the repository is run.
        _git(["clone", "--quiet", "--no-checkout", "--", repository, folder], source)
        chosen = revision or "HEAD"
        commit = _git(
            ["-C", folder, "rev-parse", "--verify", f"{chosen}^{{commit}}"],
            source,
            or_else=["-C", folder, "rev-parse", "--verify", f"origin/{chosen}^{{commit}}"],
        )
        _git(["-C", folder, "checkout", "--quiet", "--detach", commit], source)
        if local.is_dir() and (local / ".dvc").is_dir():
            # What is only in the cache of a working copy is found there.
            _share_cache(local, Path(folder))
        yield Path(folder), commit


def _git(arguments: list[str], source: str, *, or_else: list[str] | None = None) -> str:
    try:
        done = subprocess.run(
            ["git", "-c", "core.hooksPath=/dev/null", *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            timeout=_CLONE_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise EnvironmentLackError(
            "git is needed for a revision", where=source, fix="install git"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise EnvironmentLackError("git does not come to an end", where=source) from error
    if done.returncode == 0:
        return done.stdout.strip()
    if or_else is not None:
        return _git(or_else, source)
    said = " ".join(done.stderr.split())[:300]
    raise UsageError(
        f"git does not give it: {said}", where=source, fix="check repository and revision"
    )


def _share_cache(local: Path, clone: Path) -> None:
    cache = local.resolve() / ".dvc" / "cache"
    if cache.is_dir() and not (clone / ".dvc" / "cache").exists():
        (clone / ".dvc" / "cache").symlink_to(cache, target_is_directory=True)
    own = local / ".dvc" / "config.local"
    if own.is_file():
        (clone / ".dvc" / "config.local").write_bytes(own.read_bytes())


def _find(root: Path, path: str, source: str) -> _Tracked:
    """What DVC wrote of a path."""
    wanted = PurePosixPath(path)
    if wanted.is_absolute() or ".." in wanted.parts:
        raise UsageError("the path must lie in the repository", where=source)
    beside = root / f"{path}.dvc"
    if beside.is_file():
        for out in _read(beside).items("outs", _read_out, optional=True):
            if out[0] == wanted.name and out[1] is not None:
                return out[1]
    for lock in sorted(root.glob("**/dvc.lock")):
        below = PurePosixPath(lock.parent.relative_to(root).as_posix())
        stages = _read(lock).nested("stages", optional=True)
        for name in stages.names():
            for out in stages.nested(name).items("outs", _read_out, optional=True):
                if below / out[0] == wanted and out[1] is not None:
                    return out[1]
    raise UsageError(
        f"DVC tracks no file {path!r} there",
        where=source,
        fix="name a file that `dvc add` or a stage of a pipeline has made; folders are none",
    )


def _read(path: Path) -> FieldReader:
    yaml: Any = require("yaml", extra="remote")
    require_file(path, kind="a file of DVC")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
        return FieldReader(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(
            f"this file of DVC cannot be read: {' '.join(str(error).split())[:200]}",
            where=str(path),
        ) from error


def _read_out(reader: FieldReader) -> tuple[str, _Tracked | None]:
    md5 = reader.raw("md5")
    size = reader.raw("size")
    tracked = None
    # A folder's ends in ".dir".
    if isinstance(md5, str) and re.fullmatch(r"[0-9a-f]{32}", md5):
        tracked = _Tracked(
            md5=md5,
            size=size if isinstance(size, int) else 0,
            modern=reader.raw("hash") == "md5",
        )
    return str(reader.raw("path")), tracked


def _from_cache(root: Path, tracked: _Tracked, folder: Path) -> Fetched | None:
    cached = root / ".dvc" / "cache" / tracked.place
    if not cached.is_file():
        return None
    return fetch_url(cached.resolve().as_uri(), folder, progress=lambda _done, _total: None)


def _remote(root: Path, repository: Path, source: str) -> tuple[str, dict[str, object]]:
    """The URL of the remote that the repository uses, and what its driver has to be told."""
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        settings.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
        name = settings.get("core", "remote").strip("'\"")
        section = next(
            s
            for s in settings.sections()
            if s.strip("'\"") in (f'remote "{name}', f"remote {name}")
        )
        url = settings.get(section, "url").strip("'\"")
    except (configparser.Error, StopIteration, UnicodeDecodeError) as error:
        raise UsageError(
            "the repository names no remote, and its cache does not hold the file",
            where=source,
            fix="dvc remote add --default NAME URL, and dvc push",
        ) from error
    if "://" not in url:
        if not (repository / ".dvc").is_dir() and not Path(url).is_absolute():
            raise UsageError(
                f"the repository's remote is the folder {url!r} beside it",
                where=source,
                fix="name the folder of a working copy in place of what git clones",
            )
        return (repository / ".dvc" / url).resolve().as_uri(), {}
    options: dict[str, object] = {
        _OPTIONS[key]: value.strip("'\"")
        for key, value in settings.items(section)
        if key in _OPTIONS
    }
    return url.rstrip("/"), options
