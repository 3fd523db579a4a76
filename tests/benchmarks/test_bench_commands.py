"""The commands: what they print, and the codes that they exit with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.networks import NETWORKS
from edgekit.cli.bench import bench
from edgekit.cli.profiles import profiles
from edgekit_benchmarks.profile import list_profiles
from edgekit_runtime.errors import EdgekitError, GateFailedError, UsageError
from runtime.models import linear_model
from simulators.convolving_models import write_convolving

QUICK = ["--runs", "3", "--min-seconds", "0"]


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(linear_model(tmp_path / "linear.onnx"))


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_PROFILES", str(tmp_path / "private"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(bench, [*arguments, *QUICK])


def refused(result: Result) -> EdgekitError:
    assert isinstance(result.exception, EdgekitError), result.output
    return result.exception


def test_says_what_was_measured_and_what_was_not(model: str) -> None:
    done = run(model, "--threads", "1,2", "--profile", "raspberrypi", "--sustained", "0.2s")
    assert done.exit_code == 0, done.output
    for text in (
        "measured here",
        "onnxruntime",
        "Peak:",
        "Machine:",
        "deviation",
        "runs lies between",
        "for 0 s:",
        "not measured",
        "Raspberry Pi Zero 2 W",
        "estimate only",
        "Estimates only, or weak, because:",
        "of activations",
    ):
        assert text in done.output
    assert "e+" not in done.output.split("not measured")[1]


def test_json_is_a_document_and_nothing_else(model: str) -> None:
    done = CliRunner().invoke(bench, [model, "--json", *QUICK])
    document = json.loads(done.stdout)
    assert document["format_version"] == 2


def test_limits_that_hold_and_limits_that_do_not(model: str) -> None:
    done = run(model, "--max-latency-ms", "1000", "--max-size-mb", "1")
    assert done.exit_code == 0, done.output
    assert done.output.count("pass") == 2
    done = run(model, "--max-latency-ms", "1e-9", "--max-p99-ms", "1e9")
    error = refused(done)
    assert isinstance(error, GateFailedError)
    assert error.exit_code == 1
    assert "1 of 2 limits do not hold" in error.what
    assert "FAIL" in done.output


def test_a_prediction_is_a_gate_with_a_confidence(model: str) -> None:
    limit = ["--predict-only", "--profile", "raspberrypi4", "--max-latency-ms", "1"]
    assert run(model, *limit, "--confidence", "0.5").exit_code == 0
    assert isinstance(refused(run(model, *limit, "--confidence", "0.99")), GateFailedError)


def test_what_does_not_fit_a_board_is_said(tmp_path: Path) -> None:
    model = str(NETWORKS["squeezenet"](tmp_path / "squeezenet.onnx"))
    page = tmp_path / "page.html"
    options = ["--profile", "disco-f746ng", "--profile", "raspberrypi-zero2w", "--predict-only"]
    done = CliRunner().invoke(bench, [model, *options, "--report", str(page)])
    assert done.exit_code == 0, done.output
    assert "10.2 MB of 320 kB" in done.output
    assert "of 512 MB" in done.output
    assert "does not fit a DISCO-F746NG: it needs 10.2 MB of memory" in done.output
    assert "does not fit a Raspberry Pi" not in done.output
    text = page.read_text()
    assert "does not fit</span> a DISCO-F746NG" in text
    # Of what does not run there, nobody asks how long it takes.
    summary = text[: text.index("<h2>")]
    assert "on a Raspberry Pi Zero 2 W" in summary
    assert "on a DISCO-F746NG" not in summary
    limit = ["--max-memory-mb", "1", "--profile", "disco-f746ng", "--predict-only"]
    done = CliRunner().invoke(bench, [model, *limit])
    assert "10.24 MB is over 1 MB" in refused(done).what


def test_a_baseline(model: str, tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    before.write_text(CliRunner().invoke(bench, [model, "--json", *QUICK]).stdout)
    done = run(model, "--baseline", str(before), "--max-regression", "5000%")
    assert done.exit_code == 0, done.output
    assert "by the 95 % intervals of both medians" in done.output


def test_a_page(model: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run(model, "--report", str(page), "--operators", "--accuracy", "linear.onnx=0.9")
    assert done.exit_code == 0, done.output
    assert "operators of linear.onnx" in done.output
    assert "Latency against accuracy" in page.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threads", "one"], "no thread counts"),
        (["--memory-limit", "little"], "no amount of memory"),
        (["--accuracy", "linear.onnx"], "no accuracy"),
        (["--accuracy", "other.onnx=0.9"], "no model 'other.onnx'"),
        (["--input-shape", "x"], "no shape"),
        (["--accuracy", "linear.onnx=nan"], "no accuracy"),
        (["--profile", "rasberrypi4"], "no device profile"),
        (["--predict-only"], "nothing to do"),
        (["--baseline", "none.json"], "no such file"),
    ],
)
def test_bad_input_is_refused(model: str, options: list[str], words: str) -> None:
    error = refused(run(model, *options))
    assert isinstance(error, UsageError)
    assert words in error.what
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--sustained", "soon", "'soon' is not a number of seconds"),
        ("--max-regression", "much", "'much' is not a share"),
        ("--max-latency-ms", "-1", "'-1' is not a number of milliseconds"),
    ],
)
def test_what_is_no_number_is_refused(model: str, option: str, value: str, words: str) -> None:
    done = run(model, option, value)
    assert done.exit_code == 2
    assert words in done.output


def test_profiles_are_listed_and_shown() -> None:
    done = CliRunner().invoke(profiles, ["list"])
    assert "raspberrypi-zero2w" in done.output
    assert "nucleo-l4r5zi" in done.output
    assert "weak" in done.output
    entries = json.loads(CliRunner().invoke(profiles, ["list", "--json"]).stdout)
    assert {"name", "family", "title", "private", "estimate_only"} == set(entries[0])
    assert {e["name"] for e in entries if e["estimate_only"]} >= {
        "raspberrypi3b",
        "raspberrypi-cm4",
    }
    assert "estimate only" in done.output
    done = CliRunner().invoke(profiles, ["show", "raspberrypi-cm4"])
    assert "Estimate only: no measurement of this board is known" in done.output
    done = CliRunner().invoke(profiles, ["show", "pixel"])
    assert "Google Pixel 3" in done.output
    assert "Weak: few kinds of models" in done.output
    assert json.loads(CliRunner().invoke(profiles, ["show", "rk3399", "--json"]).stdout)


def test_a_profile_is_calibrated_and_used(tmp_path: Path) -> None:
    model = str(write_convolving(tmp_path / "convolving.onnx"))
    results = tmp_path / "results.json"
    results.write_text(CliRunner().invoke(bench, [model, "--json", *QUICK]).stdout)
    options = ["calibrate", "--from", str(results), "--profile", "raspberrypi4"]
    done = CliRunner().invoke(profiles, options)
    assert done.exit_code == 0, done.output
    assert "edgekit bench MODEL --profile raspberrypi4-mine" in done.output
    assert json.loads(CliRunner().invoke(profiles, [*options, "--json"]).stdout)["anchors"]
    assert "private" in CliRunner().invoke(profiles, ["list"]).output
    assert "your device" in CliRunner().invoke(profiles, ["show", "raspberrypi4-mine"]).output
    done = run(model, "--profile", "raspberrypi4-mine", "--predict-only")
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_the_table_of_errors_and_the_fit(tmp_path: Path) -> None:
    done = CliRunner().invoke(profiles, ["check", "raspberrypi4"])
    assert "x 1.0" in done.output
    rows = json.loads(CliRunner().invoke(profiles, ["check", "pixel3", "--json"]).stdout)
    assert {row["board"] for row in rows} == {"pixel3"}
    done = CliRunner().invoke(profiles, ["fit", "--check"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(profiles, ["fit", "--out", str(tmp_path / "made")])
    assert done.exit_code == 0, done.output
    made = {path.stem for path in (tmp_path / "made").glob("*.toml")}
    assert made == {profile.name for profile in list_profiles()}
