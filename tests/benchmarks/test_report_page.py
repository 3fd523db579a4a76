"""The page and the JSON: complete, by themselves, and as the schema says."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from benchmarks.networks import NETWORKS
from edgekit_benchmarks.bench import BenchReport, run_bench
from edgekit_benchmarks.features import FEATURES
from edgekit_benchmarks.gates import Limits
from edgekit_benchmarks.page import check_accuracies, render_page, write_page
from edgekit_benchmarks.plan import Plan
from edgekit_benchmarks.svg import Scale, padded, shortened
from edgekit_runtime.errors import UsageError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return NETWORKS["super_resolution"](tmp_path_factory.mktemp("page") / "a <b> & c.onnx")


@pytest.fixture(scope="module")
def report(model: Path) -> BenchReport:
    plan = Plan(
        profiles=("raspberrypi4", "pixel3"),
        threads=(1, 2),
        runs=3,
        min_seconds=0.0,
        sustained_seconds=0.1,
        operators=True,
        limits=Limits(latency_ms=1e-6, size_mb=100),
    )
    return run_bench([model], plan)


@pytest.fixture(scope="module")
def page(report: BenchReport, model: Path) -> str:
    return render_page(report, accuracies={str(model): 0.98})


def schema() -> dict[str, object]:
    file = resources.files("edgekit_benchmarks") / "results_schema.json"
    found: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    return found


def test_results_are_as_the_schema_says(report: BenchReport) -> None:
    document = json.loads(json.dumps(report.to_json()))
    jsonschema.validate(document, schema())
    document["models"][0]["predictions"][0]["kind"] = "certain"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema())


def test_the_schema_knows_every_count() -> None:
    definitions = schema()["$defs"]
    assert isinstance(definitions, dict)
    assert tuple(definitions["features"]["required"]) == FEATURES


def test_the_page_says_it_in_words_first(page: str) -> None:
    words = re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", page, flags=re.DOTALL)
    order = [
        "How quick, how large?",
        "here (onnxruntime ",
        "on a Raspberry Pi 4 Model B",
        "Limits",
        "Measured here",
        "Under sustained load",
        "Latency against accuracy",
        "Not measured: on boards",
        "Where the time goes",
        "Where the time would go",
        "Memory over the model",
        "The machine that measured",
    ]
    places = [words.index(text) for text in order]
    assert places == sorted(places)
    assert "estimate only" in words
    assert '<span class="fail">broken</span>' in words
    assert '<span class="pass">kept</span>' in words


def test_pictures_are_whole_and_titled(page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(pictures) == 7
    for picture in pictures:
        root = ET.fromstring(picture)
        assert root.get("aria-label")
        assert root.get("role") == "img"
        width, height = (float(v) for v in root.attrib["viewBox"].split()[2:])
        for element in root.iter():
            for name, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                if name in element.attrib:
                    assert -1 <= float(element.attrib[name]) <= most + 1, element.attrib


def test_names_are_shown_and_not_run(page: str) -> None:
    assert "a <b> & c" not in page
    assert "a &lt;b&gt; &amp; c.onnx" in page


def test_nothing_comes_from_elsewhere_and_every_tag_is_closed(page: str) -> None:
    assert "<script" not in page
    assert "default-src 'none'" in page
    for attribute in ("src=", "@import", "url("):
        assert attribute not in page
    Closed().feed(page)


def test_predictions_alone_make_a_page(model: Path) -> None:
    plan = Plan(profiles=("raspberrypi",), measure_here=False)
    text = render_page(run_bench([model], plan), accuracies={})
    assert "Measured here" not in text
    assert "Not measured: on boards" in text


def test_the_page_is_written(report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(replace(report, verdicts=()), path)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "<h2>Limits" not in path.read_text(encoding="utf-8")


def test_accuracies_are_of_the_models() -> None:
    models = [Path("a/one.onnx"), Path("two.tflite")]
    found = check_accuracies({"one.onnx": 0.9, "two.tflite": 0.8}, models)
    assert found == {"a/one.onnx": 0.9, "two.tflite": 0.8}
    with pytest.raises(UsageError, match=r"no model 'three'; 98 of 'one.onnx' is no share"):
        check_accuracies({"three": 0.5, "one.onnx": 98}, models)


@pytest.mark.parametrize(("low", "high"), [(0.003, 0.004), (7.5, 9.8), (0.1, 2000), (1, 1e9)])
def test_an_axis_has_round_ticks_inside(low: float, high: float) -> None:
    for scale in (
        Scale(low=low, high=high, start=0, end=100, logarithmic=True),
        Scale(low=0, high=high, start=0, end=100),
    ):
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 12
        assert all(0 <= scale.at(tick) <= 100 for tick in ticks)
        assert ticks == sorted(ticks)


def test_values_all_alike_have_an_axis() -> None:
    scale = padded([5.0, 5.0], start=0, end=100, logarithmic=True)
    assert 0 < scale.at(5.0) < 100
    assert padded([], start=0, end=100, logarithmic=False).ticks()


def test_long_names_keep_both_ends() -> None:
    assert shortened("abcdefghij", 7) == "abc…hij"
    assert shortened("short", 7) == "short"


class Closed(HTMLParser):
    """Fails on a tag that is closed without having been opened, or in another order."""

    VOID = frozenset({"meta", "rect", "line", "circle", "polyline", "polygon"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
