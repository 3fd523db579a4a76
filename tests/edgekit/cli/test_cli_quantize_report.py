"""`edgekit quantize-report` in a terminal: the worst layers, the reason, the option."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from edgekit.cli import edgekit
from edgekit_converters.ranges import collect_ranges
from edgekit_converters.repair.attempts import Candidate
from edgekit_converters.repair.written import write_candidate
from edgekit_runtime.errors import UsageError
from edgekit_runtime.formats import ModelFormat
from tests.converters.repair.chain_models import plan_of
from tests.converters.repair.small_networks import broken, trained


@pytest.fixture(params=tuple(ModelFormat))
def files(tmp_path: Path, request: pytest.FixtureRequest) -> list[str]:
    network, _ = broken(outlier=1.0)
    quantized = tmp_path / f"m-int8{request.param.suffix}"
    plan = plan_of(collect_ranges(network.model, network.calibration))
    write_candidate(Candidate(model=network.model, plan=plan), request.param, quantized)
    onnx.save(network.model, tmp_path / "m.onnx")
    data = np.concatenate([batch["x"] for batch in network.calibration])
    np.savez(tmp_path / "data.npz", x=data)
    return [
        str(tmp_path / "m.onnx"), str(quantized), "--calibration", str(tmp_path / "data.npz")
    ]  # fmt: skip


def test_the_worst_layer_comes_first_with_what_mends_it(files: list[str]) -> None:
    done = CliRunner().invoke(edgekit, ["quantize-report", *files], catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    _, pairs = broken(outlier=1.0)
    assert lines[2].split()[0] in {second for _, second in pairs}
    assert lines[2].endswith("channels")
    assert "times apart, and one scale." in done.stdout
    assert "  try --max-accuracy-drop 0.5% or --keep-float " in done.stdout
    assert "They part at" in done.stdout


def test_of_a_long_name_the_end_is_shown() -> None:
    from edgekit.cli.quantize_report import _ending

    assert _ending("/stem/Conv") == "/stem/Conv"
    shown = _ending("/features" * 9 + "/layers.2/Conv")
    assert (len(shown), shown[0]) == (44, "…")
    assert shown.endswith("/layers.2/Conv")


def test_json_is_alone_on_standard_output(files: list[str], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = CliRunner().invoke(
        edgekit,
        ["quantize-report", *files, "--json", "--samples", "8", "-o", str(page)],
        catch_exceptions=False,
    )
    document = json.loads(done.stdout)
    assert document["samples"] == 8
    assert document["fixes"] == ["--max-accuracy-drop 0.5%"]
    assert f"wrote {page}" in done.stderr
    assert "What the worst layers read" in page.read_text(encoding="utf-8")


def test_a_good_model_says_so(tmp_path: Path) -> None:
    network = trained(spread=0.0)
    plan = plan_of(collect_ranges(network.model, network.calibration))
    quantized = tmp_path / "q.onnx"
    write_candidate(Candidate(model=network.model, plan=plan), ModelFormat.ONNX, quantized)
    onnx.save(network.model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=network.evaluation[0]["x"])
    done = CliRunner().invoke(
        edgekit,
        ["quantize-report", str(tmp_path / "m.onnx"), str(quantized), "--calibration",
         str(tmp_path / "d.npz")],
        catch_exceptions=False,
    )  # fmt: skip
    assert "No layer parts from its float form" in done.stdout
    assert "try" not in done.stdout


def test_a_report_without_a_search_is_refused_before_any_work(files: list[str]) -> None:
    done = CliRunner().invoke(edgekit, ["quantize-report", *files, "--search", files[0]])
    assert isinstance(done.exception, UsageError)
    assert "no report of" in str(done.exception)


def test_the_options_that_findings_name_are_those_of_convert() -> None:
    from edgekit.cli.convert import convert
    from edgekit_converters.diagnosis import causes

    known = {option for parameter in convert.params for option in parameter.opts}
    named = {
        value.split()[0]
        for name, value in vars(causes).items()
        if isinstance(value, str) and value.startswith("--") and name.startswith("_")
    }
    assert len(named) >= 2
    assert named | {"--keep-float"} <= known
