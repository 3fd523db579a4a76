"""`edgekit convert --quantize`: what is printed, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgekit.cli import edgekit
from edgekit_runtime.console import run_command
from edgekit_runtime.session import open_session

ASSETS = Path(__file__).resolve().parents[3] / "examples" / "digits" / "assets"
MODEL, CALIBRATION = ASSETS / "digits_v1.onnx", ASSETS / "calibration.npz"
TEST = ASSETS / "test.npz"


def convert(*arguments: str | Path) -> Result:
    return CliRunner().invoke(edgekit, ["convert", *map(str, arguments)])


def ended(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """As a shell sees it: errors are said once, by the one place that says them."""
    import sys

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["edgekit", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            run_command(edgekit, name="edgekit")
    said = capsys.readouterr()
    code = done.value.code
    return int(code) if isinstance(code, int) else 0, said.out, said.err


def test_every_scheme_is_a_row_with_paired_figures(tmp_path: Path) -> None:
    done = convert(
        MODEL, "--quantize", "fp16,int8,int4-weights", "--with-float", "--calibration", CALIBRATION,
        "--eval", TEST, "--profile", "raspberrypi4", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    head, _, *rows = done.stdout.splitlines()
    assert [word for word in ("precision", "top1", "drop", "95 % of drops") if word in head]
    assert "latency on Raspberry Pi 4 Model B" in head
    assert [row.split()[1] for row in rows[:8]] == [
        "float32", "float16", "int8", "int4-weights"
    ] * 2  # fmt: skip
    assert "Source: 36.3 kB, top1 96.11 %; all on the same 540 samples" in done.stdout
    assert "Accuracy: measured in the engines themselves on" in done.stdout
    # The rest of a row, where a path would be as long as the machine's folders.
    assert max(len(row.partition(" ")[2].lstrip()) for row in rows[:8]) < 130


@pytest.mark.parametrize("name", ["digits.tflite", "digits.onnx"])
def test_a_file_named_as_output_says_which_format_is_made(name: str, tmp_path: Path) -> None:
    done = convert(MODEL, "-o", tmp_path / name)
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in tmp_path.iterdir()) == [name, f"{name}.report.json"]


def test_a_goal_that_is_missed_shows_the_best_and_ends_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        MODEL, "--quantize", "int8", "--calibration", CALIBRATION, "--eval", TEST, "--metric",
        "tests.edgekit.cli.test_cli_convert:closeness", "--max-accuracy-drop", "0%", "--to", "onnx",
        "--search-seconds", "0.01", "-o", tmp_path / "out",
    ]  # fmt: skip
    code, out, err = ended(*arguments, capsys=capsys)
    assert code == 1
    assert "digits_v1-int8.onnx" in out
    assert "int8: 1 attempt, the plain scheme is the best" in out
    assert "does not hold: the time was over" in err
    assert "nothing was published" in err
    assert not (tmp_path / "out").exists()
    code, out, err = ended(*arguments, "--keep-best", capsys=capsys)
    assert code == 1
    assert "the best is published" in err
    code, out, err = ended(*arguments, "--keep-best", "--json", capsys=capsys)
    assert code == 1
    assert (tmp_path / "out" / "digits_v1-int8.onnx").is_file()
    report = json.loads(out)
    assert "does not hold" in report["shortfall"]
    assert report["published"] is True
    assert report == json.loads((tmp_path / "out" / "digits_v1.report.json").read_text())


def test_a_page_on_what_int8_breaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    done = convert(
        MODEL, "--quantize", "int8", "--calibration", CALIBRATION, "--report", page, "--to", "onnx",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert "plain int8" in text
    assert "<svg" in text
    report = json.loads((tmp_path / "out" / "digits_v1.report.json").read_text())
    assert report["quantization"][0]["diagnosis"]["layers"]
    code, _, err = ended(
        MODEL, "--quantize", "fp16", "--report", page, "-o", tmp_path / "more", capsys=capsys
    )
    assert code == 2
    assert "only schemes with fixed ranges" in err


def closeness(answers: Any, labels: Any) -> float:
    """Less than one for everything but the float model."""
    with np.load(TEST) as data:
        expected = open_session(MODEL).run({"image": data["image"]})
    assert len(labels) == 540
    return 1.0 - sum(float(np.abs(answers[name] - expected[name]).mean()) for name in expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--quantize", "int3"], "no quantization scheme: int3"),
        (["--quantize", "int8"], "int8 needs calibration data"),
        (["--quantize", "int8", "--calibration", "absent.npz"], "no such file"),
        (["--quantize", "fp16", "--io", "int8"], "integer inputs and outputs"),
        (["--keep-float", "Conv"], "nothing is quantized"),
        (["--quantize", "fp16", "--max-accuracy-drop", "1%"], "there is none"),
        (["--quantize", "fp16", "--max-accuracy-drop", "lots"], "not a drop in accuracy"),
        (["--quantize", "fp16", "--profile", "raspberrypi"], "family"),
        (["--quantize", "fp16", "--max-latency-ms", "3"], "none is named"),
    ],
)
def test_options_that_cannot_be_used(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ended(MODEL, *arguments, "-o", tmp_path / "out", capsys=capsys)
    assert code == 2
    assert said in err
    assert "fix:" in err
    assert not out
    assert not (tmp_path / "out").exists()


def test_errors_are_those_of_numbers_that_have_a_size() -> None:
    from edgekit.cli.convert_text import show
    from edgekit_converters.litert.layout import BorderLayout
    from edgekit_converters.parity import OutputParity
    from edgekit_converters.report import Artifact, ConversionReport, Precision
    from edgekit_converters.sources.kind import SourceKind
    from edgekit_runtime.formats import ModelFormat

    def parity(name: str, error: float, dtype: str) -> OutputParity:
        return OutputParity(
            name=name, max_abs_error=error, max_relative_error=error, sqnr_db=None,
            worst_probe="", fault="", dtype=dtype,
        )  # fmt: skip

    def artifact(path: str, *outputs: OutputParity) -> Artifact:
        return Artifact(
            path=path, format=ModelFormat.ONNX, precision=Precision.INT8, size_bytes=1, sha256="",
            parity=outputs, probes=1,
        )  # fmt: skip

    label, scores = parity("label", float("inf"), "int64"), parity("scores", 0.25, "float32")
    report = ConversionReport(
        source="m", source_kind=SourceKind.ONNX, source_sha256="", source_size_bytes=1, exporter="",
        reference="engine 1", layout=BorderLayout.KEEP, warnings=(), tools={},
        artifacts=(artifact("both", label, scores), artifact("label", label)),
        calibration_sha256=None,
    )  # fmt: skip
    runner = CliRunner()
    with runner.isolation() as (out, *_):
        show(report)
        rows = out.getvalue().decode().splitlines()
    assert rows[2].split()[-1] == "0.25"
    assert rows[3].split()[-1] == "-"
