"""Bad input to the commands: what, where and fix; the right exit code; no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ASSETS = Path(__file__).resolve().parents[3] / "examples" / "digits" / "assets"
MODEL = ASSETS / "digits_v1.onnx"


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"EDGEKIT_FLEET": ""},
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "text.onnx").write_text("dear diary")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "cut.onnx").write_bytes(MODEL.read_bytes()[:5000])
    (tmp_path / "folder.onnx").mkdir()
    np.savez(tmp_path / "shape.npz", image=np.zeros((4, 8, 8, 1), np.float32))
    np.savez(tmp_path / "nan.npz", image=np.full((4, 1, 8, 8), np.nan, np.float32))
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 junk")
    return tmp_path


@pytest.mark.parametrize("command", ["convert", "inspect", "bench"])
@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        ("absent.onnx", 2, "no such file"),
        ("empty.onnx", 2, "empty"),
        ("folder.onnx", 2, "folder"),
        ("text.onnx", 3, "this is no "),
        ("cut.onnx", 3, ""),
    ],
)
def test_what_is_no_model(place: Path, command: str, model: str, code: int, said: str) -> None:
    before = sorted(place.iterdir())
    done = run(command, model, cwd=place)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert model in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("shape.npz", "shape"),
        ("nan.npz", "NaN"),
        ("junk.npz", "readable"),
        ("absent.npz", "no such file"),
    ],
)
def test_calibration_that_does_not_fit(place: Path, data: str, said: str) -> None:
    done = run(
        "convert", MODEL, "--quantize", "int8", "--calibration", data, "-o", "out", cwd=place
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert data in done.stderr
    assert "fix:" in done.stderr
    assert not (place / "out").exists()


def test_int8_without_calibration(place: Path) -> None:
    done = run("convert", MODEL, "--quantize", "int8", cwd=place)
    assert done.returncode == 2
    assert "--calibration" in done.stderr


def test_an_unknown_profile_names_the_nearest(place: Path) -> None:
    done = run("bench", MODEL, "--profile", "rasberrypi4", cwd=place)
    assert done.returncode == 2
    assert "raspberrypi4" in done.stderr


def test_errors_as_json(place: Path) -> None:
    done = run("inspect", "absent.onnx", "--json", cwd=place)
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert document["what"] == "no such file"
    assert document["where"] == "absent.onnx"
    assert document["exit_code"] == 2


def test_debug_shows_the_traceback(place: Path) -> None:
    done = run("--debug", "inspect", "absent.onnx", cwd=place)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_place_that_cannot_be_written(place: Path) -> None:
    done = run("convert", MODEL, "-o", "/proc/edgekit/out", cwd=place)
    assert done.returncode == 4, done.stderr
    assert "/proc" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_extra_names_the_command_that_installs_it(place: Path) -> None:
    # A module that hides the package, as if it were not installed.
    hidden = place / "hidden"
    hidden.mkdir()
    (hidden / "onnx.py").write_text("raise ModuleNotFoundError('no onnx', name='onnx')")
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "convert", str(MODEL)],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(hidden)},
    )
    assert done.returncode == 4, done.stderr
    assert 'pip install "edgekit[convert]"' in done.stderr


def test_a_fleet_that_is_none(place: Path) -> None:
    for arguments in (["keys", "init"], ["release", "list"], ["fleet", "publish"]):
        done = run(*arguments, "--fleet", "nowhere", cwd=place)
        assert done.returncode == 2, done.stderr
        assert "edgekit fleet init" in done.stderr


def test_a_broker_port_in_use(place: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("fleet", "broker", "--port", str(port), cwd=place)
    assert done.returncode == 4
    assert str(port) in done.stderr
