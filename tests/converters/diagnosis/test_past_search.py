"""The search behind a quantized file is found in the report of its conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit_converters.diagnosis.past_search import find_search
from edgekit_runtime.errors import UsageError

SEARCH = {"best": {}, "attempts": []}


def report(path: Path, *, name: str = "m-int8.onnx", search: Any = SEARCH) -> Path:
    document = {
        "artifacts": [{"path": f"out/{name}", "precision": "int8"}],
        "quantization": [
            {"scheme": "mixed", "search": {"other": True}},
            {"scheme": "int8", "search": search},
        ],
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["m-int8.onnx.report.json", "m.report.json"])
def test_a_report_beside_the_file_is_found(tmp_path: Path, name: str) -> None:
    report(tmp_path / "another.report.json", name="other-int8.onnx")
    (tmp_path / "broken.report.json").write_text("{", encoding="utf-8")
    (tmp_path / "list.report.json").write_text("[]", encoding="utf-8")
    report(tmp_path / name)
    assert find_search(tmp_path / "m-int8.onnx", None) == SEARCH


def test_without_a_search_there_is_nothing(tmp_path: Path) -> None:
    assert find_search(tmp_path / "m-int8.onnx", None) is None
    report(tmp_path / "m.report.json", search=None)
    assert find_search(tmp_path / "m-int8.onnx", None) is None


def test_a_report_that_is_named_must_be_one(tmp_path: Path) -> None:
    quantized = tmp_path / "m-int8.onnx"
    assert find_search(quantized, report(tmp_path / "r.json")) == SEARCH
    with pytest.raises(UsageError, match="no search"):
        find_search(quantized, report(tmp_path / "r.json", search=None))
    with pytest.raises(UsageError, match="no report"):
        find_search(quantized, tmp_path / "missing.json")
