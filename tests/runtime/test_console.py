"""The one catch: text, JSON and exit codes."""

from __future__ import annotations

import json
import sys

import click
import pytest

from edgekit_runtime.console import run_command
from edgekit_runtime.errors import (
    EdgekitError,
    EnvironmentLackError,
    GateFailedError,
    UnsupportedModelError,
    UsageError,
)
from edgekit_runtime.extras import require


def run(arguments: list[str], error: BaseException | None, monkeypatch: pytest.MonkeyPatch) -> int:
    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    @click.option("--debug", is_flag=True)
    def command(as_json: bool, debug: bool) -> None:
        if error:
            raise error

    monkeypatch.setattr(sys, "argv", ["tool", *arguments])
    with pytest.raises(SystemExit) as raised:
        run_command(command, name="tool")
    assert isinstance(raised.value.code, int)
    return raised.value.code


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (GateFailedError, 1),
        (UsageError, 2),
        (UnsupportedModelError, 3),
        (EnvironmentLackError, 4),
    ],
)
def test_exit_codes_and_text(
    kind: type[EdgekitError],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = kind("it broke", where="model.onnx", fix="mend it")
    assert run([], error, monkeypatch) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "Error: it broke\n  where: model.onnx\n  fix:   mend it\n"
    assert run(["--json"], error, monkeypatch) == code
    assert json.loads(capsys.readouterr().out) == {
        "error": kind.__name__,
        "what": "it broke",
        "where": "model.onnx",
        "fix": "mend it",
        "exit_code": code,
    }


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError):
        run(["--debug"], UsageError("it broke"), monkeypatch)


def test_interrupted_and_done_and_misused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run([], KeyboardInterrupt(), monkeypatch) == 130
    assert run([], None, monkeypatch) == 0
    assert run(["--nonsense"], None, monkeypatch) == 2


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    with pytest.raises(EnvironmentLackError) as raised:
        require("a_package_that_nobody_wrote", extra="convert")
    assert raised.value.fix == 'pip install "edgekit[convert]"'
