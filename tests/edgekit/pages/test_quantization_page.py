"""The page of a diagnosis: it stands by itself, and shows what was found."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from edgekit.pages.quantization import render_page, write_page
from edgekit_converters.diagnosis import QuantizationDiagnosis
from edgekit_converters.diagnosis.causes import Cause, Finding
from edgekit_converters.diagnosis.diagnose import LayerDiagnosis
from edgekit_converters.diagnosis.layers import LayerNoise
from edgekit_converters.diagnosis.spread import ValueSpread


def layer(
    name: str,
    ratio: float | None = 40.0,
    own: float | None = 45.0,
    *,
    findings: tuple[Finding, ...] = (),
    channels: tuple[float, ...] = (4.0, 1.0, 0.001, 0.0),
) -> LayerDiagnosis:
    spread = ValueSpread(
        value=f"{name}_in",
        edges=(-1.0, 0.0, 1.0, 4.0),
        shares=(0.0, 0.999, 0.001),
        kept_low=-1.0,
        kept_high=4.0,
        usual=1.0,
        clipped_share=0.02,
        channels_apart=4000.0,
        channel_magnitudes=channels,
    )
    return LayerDiagnosis(
        noise=LayerNoise(
            node=name,
            op="Conv",
            value=f"{name}_out",
            inputs=(spread.value,),
            sqnr_db=ratio,
            own_sqnr_db=own,
        ),
        findings=findings,
        spread=spread if own is not None else None,
    )


def diagnosis(*layers: LayerDiagnosis, agreement: float | None = 0.5) -> QuantizationDiagnosis:
    culprits = tuple(one for one in layers if one.findings)
    return QuantizationDiagnosis(
        scheme="int8",
        samples=64,
        agreement=agreement,
        layers=layers,
        first_parting=culprits[0] if culprits else None,
        culprits=culprits,
        judged="computed by a <b>",
    )


BAD = layer(
    "/9/<Conv>",
    -3.2,
    0.4,
    findings=(
        Finding(
            cause=Cause.CHANNELS,
            text="the channels of /8 are 506 times apart",
            fixes=("--max-accuracy-drop 0.5%", "--keep-float /9/Conv"),
            weight=3.0,
            value="/8",
        ),
    ),
)


def attempt(drop: float, size: int, latency: float | None, *repairs: str) -> dict[str, Any]:
    return {
        "repairs": list(repairs),
        "scheme": "int8",
        "drop": drop,
        "size_bytes": size,
        "latency_ms": latency,
        "wide": [],
        "keep_float": [],
    }


def search(*latencies: float | None) -> dict[str, Any]:
    first, second, third = latencies
    tried = [
        attempt(0.4, 9000, first),
        attempt(0.0, 9000, second, "equalized channels"),
        attempt(-0.001, 9900, third, "float for what 1 layer reads"),
    ]
    return {
        "best": tried[1],
        "ending": "met",
        "attempts": tried,
        "trade_off": tried[1:],
        "sensitive": [],
    }


def pictures(page: str) -> list[ET.Element]:
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.S)]


def labels(picture: ET.Element) -> list[str]:
    return ["".join(text.itertext()) for text in picture.iter("text")]


def test_what_was_found_is_said_and_drawn() -> None:
    page = render_page(diagnosis(layer("/0/Conv"), BAD), model="m.onnx", quantized="q.tflite")
    assert "50.00 %" in page
    assert "506 times apart" in page
    assert "<code>--max-accuracy-drop 0.5%</code> or <code>--keep-float /9/Conv</code>" in page
    ratios, histogram, channels = pictures(page)
    assert {"/0/Conv", "/9/<Conv>", "-3", "40"} <= set(labels(ratios))
    assert "range that is kept: -1 to 4" in labels(histogram)
    assert "channels: 4000 times apart" in labels(channels)
    assert "red line: one step of 8 bits" in labels(channels)
    # A dead channel has no place on a logarithmic axis.
    assert sum(one.tag == "rect" for one in channels.iter()) == 3


def test_it_asks_nothing_of_the_network_and_runs_nothing() -> None:
    page = render_page(diagnosis(BAD), model="<m>", quantized="q", search=search(1.0, 2.0, 3.0))
    assert not re.search(r"<script|<link|<img|https?://|@import|url\(", page)
    assert "default-src 'none'" in page
    assert "<m>" not in page
    assert "computed by a &lt;b&gt;" in page


@pytest.mark.parametrize("latencies", [(2.0, 2.0, 4.0), (None, None, None)])
def test_the_trades_of_a_search_are_drawn(latencies: tuple[float | None, ...]) -> None:
    page = render_page(diagnosis(BAD), model="m", quantized="q", search=search(*latencies))
    picture = pictures(page)[-1]
    words = labels(picture)
    assert "chosen" in words
    timed = latencies[0] is not None
    assert ("predicted latency on the device, ms" in words) == timed
    assert ("size, kB" in words) == (not timed)
    assert sum(one.tag == "circle" for one in picture.iter()) == 3
    assert "<b>equalized channels, chosen</b>" in page
    assert page.count(">2 ms<") == (2 if timed else 0)


def test_a_good_model_has_nothing_to_mend() -> None:
    page = render_page(diagnosis(layer("a"), layer("b"), agreement=None), model="m", quantized="q")
    assert "No layer is far from its float form" in page
    assert "same class" not in page
    assert "<code>" not in page
    assert len(pictures(page)) == 5


def test_layers_that_are_not_seen_are_left_open() -> None:
    bare = layer("bare", None, None)
    page = render_page(
        diagnosis(bare, layer("one", None, 41.0, channels=(1.0,))), model="m", quantized="q"
    )
    ratios, *rest = pictures(page)
    assert sum(one.tag == "circle" for one in ratios.iter()) == 2
    assert len(rest) == 1
    alone = render_page(diagnosis(bare), model="m", quantized="q")
    assert len(pictures(alone)) == 1


def test_of_many_layers_the_weak_ones_are_drawn() -> None:
    many = [layer(f"layer{number}", 50.0, 50.0 - number / 10) for number in range(120)]
    page = render_page(diagnosis(*many[:60], BAD, *many[60:]), model="m", quantized="q")
    words = labels(pictures(page)[0])
    assert "/9/<Conv>" in words
    assert "layer119" in words
    assert "layer0" not in words
    assert "51 good layers are left out" in page
    assert page.count("<tr><td>") == 121


def test_it_is_written_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, diagnosis(BAD), model="m", quantized="q")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
