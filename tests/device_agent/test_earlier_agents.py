"""What an agent wrote before there were shadows, encryption and counts of NaN is read as it was.

The texts below are what such an agent wrote, cut off by a kill while it fetched an update.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from edgekit_agent.journal import load_journal, save_journal
from edgekit_agent.telemetry.store import TelemetryStore
from edgekit_runtime.reports import Phase
from edgekit_runtime.sealing.keys import KeySource, write_new_key
from edgekit_runtime.sealing.vault import Encryption, Vault

SCHEMA = """
CREATE TABLE events (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('batches','1'), ('dropped','3'), ('last_event','4'), ('stream','6b5bbf0c');
CREATE TABLE rows (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  level INTEGER NOT NULL,
  bundle TEXT NOT NULL,
  version TEXT NOT NULL,
  start REAL NOT NULL,
  body BLOB NOT NULL,
  batch INTEGER
);
CREATE INDEX rows_of_batch ON rows (batch);
"""
EVENT = (
    b'{"device":"device-1","sequence":4,"time":1795635196.67,"kind":"update.active",'
    b'"bundle":"double","version":"1.0.0","detail":"variant plain: all gates passed"}'
)
WINDOWS = (
    b'{"start":1795635193.9,"end":1795635195.0,"device":{"cpu_share":0.99,"memory_used_bytes":427,'
    b'"agent_rss_bytes":58499072,"temperature_c":null,"disk_free_bytes":54220,"samples":2}}',
    b'{"start":1795635196.0,"end":1795635198.9,"bundle":"double","version":"1.0.0","model":'
    b'{"requests":20,"errors":0,"insane":0,"busy":0,"latency":[[34,1],[36,1],[40,18]],'
    b'"features":{}}}',
)


def earlier_target(version: str, digest: str, order_version: int) -> dict[str, Any]:
    return {
        "path": f"double/{version}/index.json",
        "custom": {
            "bundle": "double",
            "version": version,
            "budget": {
                "trial_seconds": "60.0",
                "memory_bytes": 536870912,
                "latency_ms": "0.0",
            },
            "gates": {
                "min_requests": 0,
                "min_seconds": "0.0",
                "deadline_seconds": "60.0",
                "max_error_share": "0.01",
                "max_insane_share": "0.0",
                "max_p90_ms": "0.0",
                "max_psi": "0.0",
                "max_crashes": 2,
            },
            "conditions": {
                "not_before": 0,
                "deadline": 0,
                "windows": [],
                "min_battery_percent": 0,
                "max_load": "0.0",
            },
        },
        "digest": digest,
        "length": 1514,
        "pieces": {"pieces": [[digest, 1514]]},
        "order_version": order_version,
    }


JOURNAL = {
    "format": "edgekit-journal",
    "format_version": 1,
    "order_version": 2,
    "event_sequence": 5,
    "time_floor": 0.0,
    "bundles": {
        "double": {
            "phase": "fetching",
            "order_version": 2,
            "active": {"target": earlier_target("1.0.0", "ab" * 32, 1), "variant": "plain"},
            "previous": None,
            "candidate": earlier_target("2.0.0", "cd" * 32, 2),
            "variant": "",
            "failed": [],
            "boots": 0,
            "crashes": 0,
            "refused": None,
            "reason": "",
        }
    },
}


def test_a_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    path.write_text(json.dumps(JOURNAL))
    journal = load_journal(path)
    record = journal.bundles["double"]
    assert (journal.order_version, journal.event_sequence) == (2, 5)
    assert record.phase is Phase.FETCHING
    assert record.active
    assert record.fetching
    assert (record.active.target.version, record.fetching[0].version) == ("1.0.0", "2.0.0")
    assert record.candidate
    # NaN among the values was of no account then, and nothing ran beside.
    assert record.candidate.order.gates.max_nonfinite_share == 1.0
    assert record.shadow is None
    save_journal(path, journal)
    assert load_journal(path) == journal


def earlier_store(folder: Path) -> None:
    with sqlite3.connect(folder / "telemetry.db") as database:
        database.executescript(SCHEMA)
        database.execute("INSERT INTO events VALUES (4, ?)", (EVENT,))
        for number, body in enumerate(WINDOWS):
            window = json.loads(body)
            database.execute(
                "INSERT INTO rows (level, bundle, version, start, body, batch)"
                " VALUES (0, ?, ?, ?, ?, ?)",
                (
                    window.get("bundle", ""),
                    window.get("version", ""),
                    window["start"],
                    body,
                    # One of them was on its way.
                    1 if number == 0 else None,
                ),
            )
    database.close()


def test_measurements_and_events_that_wait_are_sent_and_encrypted(tmp_path: Path) -> None:
    earlier_store(tmp_path)
    write_new_key(tmp_path / "key", rotate=False)
    encryption = Encryption(key=KeySource("file", str(tmp_path / "key")), enabled=True)
    store = TelemetryStore(
        tmp_path / "telemetry.db",
        device="device-1",
        most_bytes=1 << 20,
        vault=Vault(tmp_path, encryption),
    )
    assert not store.was_damaged
    store.convert()
    assert (store.dropped, store.last_event) == (3, 4)
    assert store.events(without=(), most=9) == [(4, EVENT)]
    sent = []
    while batch := store.next_batch():
        document = json.loads(batch.message)
        assert document["stream"] == "6b5bbf0c"
        sent += [record["window"] for record in document["records"]]
        store.acknowledge(batch.number)
    assert sent == [json.loads(body) for body in WINDOWS]
    store.close()
    assert EVENT not in (tmp_path / "telemetry.db").read_bytes()
