from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"sqlalchemy", "alembic", "fastapi", "starlette", "uvicorn", "pydantic", "jinja2", "paho"}


@pytest.mark.parametrize(
    "module",
    [
        "edgekit.cli.fleet",
        "edgekit.cli.registry",
        "edgekit.fleet.access",
        "edgekit.fleet.audit",
        "edgekit.fleet.devices.inventory",
        "edgekit.fleet.registry.catalogue",
        "edgekit.fleet.store.database",
    ],
)
def test_help_loads_neither_a_database_nor_a_web_server(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded.intersection(HEAVY)


@pytest.mark.parametrize(
    ("package", "address", "fix"),
    [
        ("sqlalchemy", "fleet.db", 'pip install "edgekit[fleet]"'),
        ("psycopg", "postgresql://h/n", 'pip install "edgekit[postgres]"'),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    package: str, address: str, fix: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.fleet.store.database import open_database
    from edgekit_runtime.errors import EnvironmentLackError

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EnvironmentLackError) as caught:
        open_database(address)
    assert caught.value.fix == fix
