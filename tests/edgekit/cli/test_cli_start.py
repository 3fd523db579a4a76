"""The command line starts light."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from edgekit.cli import edgekit

HEAVY = (
    "onnx",
    "onnxruntime",
    "ai_edge_litert",
    "tuf",
    "sqlalchemy",
    "torch",
    "tensorflow",
    "numpy",
)


@pytest.mark.parametrize("arguments", [["--help"], ["fleet", "--help"], ["convert", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from edgekit.cli import edgekit\n"
        f"edgekit.main({arguments!r}, standalone_mode=False)\n"
        f"print('loaded', [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: " in done.stdout
    assert "loaded []" in done.stderr


def test_every_command_has_help_and_an_example_of_its_group() -> None:
    runner = CliRunner()
    shown = runner.invoke(edgekit, ["--help"]).output
    for name in edgekit.list_commands(None):  # type: ignore[arg-type]
        assert name in shown
        result = runner.invoke(edgekit, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert len(result.output) > 150


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(edgekit, ["convrt"]).exit_code == 2
