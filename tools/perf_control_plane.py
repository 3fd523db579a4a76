"""How much the control plane takes in, and how soon its pages answer with 10,000 devices.

Run: `python tools/perf_control_plane.py [--json]`. SQLite, and PostgreSQL where a server is named
(EDGEKIT_TEST_POSTGRESQL) or can be started. Figures are of this machine; nothing here decides a
test.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import urllib.request

from sqlalchemy import text

from edgekit.fleet.access import Role, create_token
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.serving import PageServer
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.folder import Fleet
from edgekit.fleet.store.database import Database
from edgekit.fleet.telemetry.ledger import Ledger
from edgekit_runtime.reports import DeviceState
from edgekit_runtime.telemetry import FeatureCounts, ModelCounts, Window, pack_batch
from simulators import demo_fleet
from simulators.databases import make_template, postgresql_database, sqlite_database
from simulators.postgres import NoServerError, postgresql

DEVICES = 2_000
ROUNDS = 10
AT_ONCE = 500
PAGES = ("/", "/devices", "/rollouts", "/health-of-models", "/audit")
REPEATS = 9
WANTED = 2_000.0


def measure_telemetry(database: Database) -> dict[str, float]:
    """Batches a second, from the bytes that devices send to rows that are on the disk."""
    names = [f"oven-{number:05d}" for number in range(DEVICES)]
    now = time.time()
    Inventory(database, actor="perf").hear(DeviceState(device=n, online=True) for n in names)
    even = FeatureCounts(expected=(0.05,) * 20, counts=(10,) * 20)
    model = ModelCounts(
        requests=200,
        latency=dict.fromkeys(range(80, 100), 10),
        features={f"input:{number}": even for number in range(4)},
    )
    window = Window(start=now - 60, end=now, bundle="digits", version="1.0.0", model=model)
    row = json.dumps(window.to_json()).encode()
    messages = [
        (name, pack_batch(name, "0" * 16, 0, [(sequence, row)]))
        for sequence in range(1, ROUNDS + 1)
        for name in names
    ]
    ledger = Ledger(database)
    workers = _backends(database)
    server = _cpu_seconds(workers)
    began, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(messages), AT_ONCE):
        taken = ledger.take(messages[start : start + AT_ONCE], now=now)
        if taken.records != AT_ONCE:
            raise SystemExit(f"{taken.records} of {AT_ONCE} records were taken")
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    server = _cpu_seconds(workers) - server
    return {
        "batches_per_second": len(messages) / seconds,
        "of_the_2000_wanted": len(messages) / seconds / WANTED,
        "batches_per_cpu_second": len(messages) / cpu,
        "cpu_ms_per_batch": 1000 * cpu / len(messages),
        "server_cpu_ms_per_batch": 1000 * server / len(messages),
    }


def _backends(database: Database) -> list[int]:
    """The server's processes that work for us, where it is on this machine."""
    if database.is_sqlite:
        return []
    with database.read() as session:
        return list(session.scalars(text("SELECT pid FROM pg_stat_activity")))


def _cpu_seconds(processes: list[int]) -> float:
    ticks = 0
    for process in processes:
        with suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2]
            # User and system time: the 14th and 15th field of the line (proc(5)).
            ticks += sum(map(int, fields.split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measure_pages(database: Database, fleet: Fleet) -> dict[str, float]:
    """Median milliseconds of each page, signed in, over loopback."""
    plane = ControlPlane(fleet=fleet, database=database, clock=demo_fleet.clock)
    names = demo_fleet.populate_devices(plane, devices=10_000)
    demo_fleet.populate_history(plane, names)
    _, token = create_token(
        database, name="perf", role=Role.OPERATOR, days=1, actor="perf", clock=demo_fleet.clock
    )
    with _served(plane) as url:
        return {path: _median_ms(lambda path=path: _get(url + path, token)) for path in PAGES}


@contextmanager
def _served(plane: ControlPlane) -> Iterator[str]:
    server = PageServer(plane, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://{server.address}"
    finally:
        server.stop()
        thread.join()


def _get(url: str, token: str) -> None:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own server
        answer.read()


def _median_ms(run: Callable[[], None]) -> float:
    deadline = time.monotonic() + 30
    while True:
        try:
            run()
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def main() -> None:
    """Measure on each database, and print."""
    results: dict[str, object] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        databases: list[Callable[[int], object]] = [
            lambda number: sqlite_database(folder / f"database-{number}")
        ]
        try:
            server = stack.enter_context(postgresql())
            make_template(server)
            databases.append(lambda _number: postgresql_database(server))
        except NoServerError as error:
            print(f"PostgreSQL: not measured, {error}", file=sys.stderr)
        for name, opened in zip(("SQLite", "PostgreSQL"), databases, strict=False):
            with opened(0) as database:  # type: ignore[attr-defined]
                figures = measure_telemetry(database)
            with opened(1) as database:  # type: ignore[attr-defined]
                fleet = Fleet.create(folder / f"fleet-{name}", "perf")
                figures |= measure_pages(database, fleet)
            results[name] = figures
    if "--json" in sys.argv:
        print(json.dumps(results, indent=1))
        return
    for name, figures in results.items():
        for what, value in figures.items():  # type: ignore[attr-defined]
            unit = " ms, median" if what.startswith("/") else ""
            print(f"{name:<11} {what:<24} {value:10.2f}{unit}")


if __name__ == "__main__":
    main()
