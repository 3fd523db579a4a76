"""A PostgreSQL server for the tests: the one that is named, or one that is started for them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

# The URL of a server in which the tests may make databases; its user must be allowed to.
VARIABLE: Final = "EDGEKIT_TEST_POSTGRESQL"
_PLACES: Final = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/bin")


class NoServerError(Exception):
    """Why there is none."""


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a server's maintenance database.

    Raises:
        NoServerError: If none is named and none can be started here.
    """
    named = os.environ.get(VARIABLE)
    if named:
        yield named
        return
    server = PostgresServer.create()
    try:
        server.start()
        yield server.url
    finally:
        server.remove()


class PostgresServer:
    """A server of our own: loopback only, by a socket in its folder; fast, and not durable."""

    def __init__(self, folder: Path, programs: Path, owner: dict[str, Any]) -> None:
        self.folder = folder
        self._programs = programs
        self._owner = owner

    @classmethod
    def create(cls) -> PostgresServer:
        programs = _programs()
        # Not under pytest's folder: only its owner may enter that, and the server is another user.
        folder = Path(tempfile.mkdtemp(prefix="edgekit-pg-"))
        owner = _owner(folder)
        server = cls(folder, programs, owner)
        server._run(
            "initdb", "-D", folder / "data", "-U", "edgekit", "-A", "trust", "-N", "-E=UTF8"
        )
        return server

    @property
    def url(self) -> str:
        return f"postgresql://edgekit@/postgres?host={self.folder}"

    def start(self, *, keeps: bool = False) -> None:
        """Start it; one that keeps what it was told has it after `stop("immediate")` too."""
        options = (
            f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off "
            f"-c synchronous_commit={'on' if keeps else 'off'} -c full_page_writes=off "
            "-c max_connections=50"
        )
        log = self.folder / "log"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; "immediate" as a crash does, and the next start recovers."""
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-m", mode, "stop")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its connections and answers nothing, as where its disk hangs."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        kept = [pid]
        os.kill(pid, signal.SIGSTOP)
        # It makes no more of them now.
        for task in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = task.read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid:
                    kept.append(int(task.parent.name))
        try:
            for process in kept[1:]:
                os.kill(process, signal.SIGSTOP)
            yield
        finally:
            for process in kept:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def remove(self) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [str(self._programs / program), *map(str, arguments)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            cwd=self.folder,
            **self._owner,
        )


def _programs() -> Path:
    found = shutil.which("pg_ctl")
    if found:
        return Path(found).resolve().parent
    for pattern in _PLACES:
        for folder in sorted(Path("/").glob(pattern[1:]), reverse=True):
            if (folder / "pg_ctl").is_file() and (folder / "initdb").is_file():
                return folder
    raise NoServerError(f"set {VARIABLE} to a server's URL, or install PostgreSQL (pg_ctl, initdb)")


def _owner(folder: Path) -> dict[str, Any]:
    if os.getuid() != 0:
        return {}
    # PostgreSQL refuses to run as root.
    try:
        account = pwd.getpwnam("postgres")
    except KeyError as error:
        raise NoServerError("the tests run as root, and there is no user 'postgres'") from error
    os.chown(folder, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
