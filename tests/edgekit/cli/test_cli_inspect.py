"""`edgekit inspect` prints a summary of one model, or a table of two."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from edgekit.cli import edgekit
from edgekit.cli.summary import shortened

ASSETS = Path(__file__).resolve().parents[3] / "examples" / "digits" / "assets"
FIRST, SECOND = ASSETS / "digits_v1.onnx", ASSETS / "digits_v2.onnx"


def inspected(*arguments: str | Path) -> str:
    result = CliRunner().invoke(edgekit, ["inspect", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_everything_about_one_model() -> None:
    output = inspected(FIRST)
    lines = {line[:13].strip(): line[13:].strip() for line in output.splitlines()}
    assert lines["format"].startswith("onnx, IR 10, opset ai.onnx 18, by pytorch")
    assert lines["input"] == "image: float32[?, 1, 8, 8]"
    assert lines["output"] == "logits: float32[?, 10]"
    assert lines["parameters"] == "8,690"
    assert lines["MACs"] == "39,040 for one inference"
    assert "planned from the graph" in lines["activations"]
    assert lines["quantization"] == "none, float32"
    assert lines["operators"] == "3 Relu, 2 Conv, 2 MaxPool, 2 Gemm, 1 Reshape"
    assert lines["runs here"].startswith("yes, in onnxruntime")
    assert lines["runs on"].startswith("onnxruntime 1.18.1 and newer: yes")


def test_two_models_in_a_table() -> None:
    output = inspected(FIRST, SECOND)
    head, rule, *rows = output.splitlines()
    assert head.split() == ["digits_v1.onnx", "digits_v2.onnx", "change"]
    assert set(rule) == {"-", " "}
    cells = {row.split("  ")[0].strip(): row for row in rows if row}
    assert cells["parameters"].split() == ["parameters", "8,690", "40,554", "+366.7", "%"]
    assert cells["format"].endswith("18")  # the same in both: no change is named
    assert next(row for row in rows if row.strip().startswith("Conv ")).endswith("+1")
    assert "stored values: 9 of 9 differ: conv1.bias" in output
    assert output.rstrip().endswith("rows differ")
    assert max(map(len, output.splitlines())) < 200


def test_no_differences() -> None:
    output = inspected(FIRST, FIRST)
    assert output.rstrip().endswith("no differences")
    # Two files of one name are told apart by their folders.
    assert str(ASSETS) in output.splitlines()[0]


def test_json_of_one_and_of_two() -> None:
    one = json.loads(inspected(FIRST, "--json"))
    both = json.loads(inspected(FIRST, SECOND, "--json"))
    assert one["runtimes"][0]["runtime"] == "onnxruntime 1.18.1 and newer"
    assert both["first"] == one
    assert {fact["name"] for fact in both["facts"] if not fact["same"]} >= {"size", "MACs"}


def test_long_texts_are_cut() -> None:
    assert shortened("a" * 120) == "a" * 99 + "…"
    assert shortened("two\nlines") == "two lines"
