"""Settings that all replicas of a control plane share: a name and a JSON value each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database


def read_setting(database: Database, name: str, default: Any) -> Any:
    """A setting's value, or another one where it was never made.

    Raises:
        EnvironmentLackError: If the database cannot be used.
    """
    from edgekit.fleet.store.tables import SettingRow

    with database.read() as session:
        row = session.get(SettingRow, name)
        return default if row is None else row.value


def write_setting(database: Database, name: str, value: Any) -> None:
    """Make or change a setting.

    Raises:
        EnvironmentLackError: If the database cannot be used.
    """
    from edgekit.fleet.store.inserts import put_rows
    from edgekit.fleet.store.tables import SettingRow

    with database.write() as session:
        put_rows(session, SettingRow, [{"name": name, "value": value}])
