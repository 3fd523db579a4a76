from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from edgekit.fleet.broker import RunningBroker, find_mosquitto, start_broker
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keys import init_keys
from edgekit.fleet.store.database import Database
from tests.simulators.carried_bundles import write_carried

MakeBundle = Callable[..., Path]
Verify = Callable[..., object]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A fleet with keys that need no passphrase."""
    made = Fleet.create(tmp_path / "fleet", "plant-7")
    init_keys(made)
    return made


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Write an `.ekb` of a model that nobody runs: a fleet only carries it."""

    def make(version: str = "1.0.0", *, name: str = "digits", model: bytes = b"model " * 40_000):
        return write_carried(tmp_path, version, name=name, model=model)

    return make


@pytest.fixture
def updater(tmp_path: Path) -> Callable[..., object]:
    """A real TUF client that has nothing but a root and a metadata set."""
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import Updater
    from tuf.ngclient.fetcher import FetcherInterface

    class DictFetcher(FetcherInterface):
        def __init__(self, files: Mapping[str, bytes]) -> None:
            self.files = files

        def _fetch(self, url: str) -> Iterator[bytes]:
            name = url.rsplit("/", 1)[-1]
            if name not in self.files:
                raise DownloadHTTPError(f"no {name}", 404)
            return iter([self.files[name]])

    def open_updater(files: Mapping[str, bytes], root: Path, *, trusted: str = "trusted"):
        folder = tmp_path / trusted
        folder.mkdir(exist_ok=True)
        return Updater(
            str(folder), "mqtt://x/", fetcher=DictFetcher(files), bootstrap=root.read_bytes()
        )

    return open_updater


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningBroker]:
    """Each of the two brokers, running."""
    if request.param == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with start_broker(tmp_path / "broker", prefer=request.param) as running:
        yield running


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL server with a template of our tables."""
    pytest.importorskip("psycopg")
    from simulators.databases import make_template
    from simulators.postgres import NoServerError, postgresql

    try:
        with postgresql() as server:
            make_template(server)
            yield server
    except NoServerError as error:
        pytest.skip(f"there is no PostgreSQL here: {error}")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of the control plane, on SQLite and on PostgreSQL."""
    from simulators.databases import postgresql_database, sqlite_database

    if request.param == "sqlite":
        with sqlite_database(tmp_path / "database") as opened:
            yield opened
    else:
        with postgresql_database(request.getfixturevalue("postgresql_server")) as opened:
            yield opened
