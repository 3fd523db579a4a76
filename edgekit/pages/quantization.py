"""A diagnosis of quantization as one HTML page that stands by itself: words, pictures, a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit.cli.render import percent
from edgekit.pages.quantization_pictures import (
    Trade,
    channels,
    histogram,
    layer_ratios,
    trades,
)
from edgekit_runtime.durable import write_bytes

if TYPE_CHECKING:
    from edgekit_converters.diagnosis import QuantizationDiagnosis
    from edgekit_converters.diagnosis.diagnose import LayerDiagnosis

_MOST_BARS: Final = 70
_MOST_CARDS: Final = 6
_STYLE: Final = """
:root { --paper: #fff; --ink: #1f2933; --muted: #64707d; --line: #e3e7eb; --soft: #f5f7fa;
  --kept: #dcebf5; --good: #00735c; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e6e9ec; --muted: #98a4b0;
  --line: #2b333c; --soft: #1c2229; --kept: #1d3442; --good: #3fc49f; --bad: #ff8a7a; } }
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 1180px; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
h3 { font-size: 1rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; max-width: 46rem; } .muted { color: var(--muted); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .7rem;
  margin: 1.2rem 0; }
.tile { background: var(--soft); border-radius: .6rem; padding: .7rem .9rem; min-width: 0;
  overflow-wrap: anywhere; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.25; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1rem; margin: 1rem 0; }
.card { background: var(--soft); border-radius: .6rem; padding: .9rem 1rem; min-width: 0; }
code { display: inline-block; max-width: 100%; background: var(--line); border-radius: .3rem;
  padding: 0 .35rem; font-size: .88rem; overflow-wrap: anywhere; }
ul { margin: .3rem 0; padding-left: 1.2rem; } li { margin: .2rem 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { color: var(--muted); font-weight: 600; }
td { overflow-wrap: anywhere; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bad { color: var(--bad); font-weight: 600; } .good { color: var(--good); font-weight: 600; }
figure { margin: .8rem 0; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 12px system-ui, sans-serif; } svg .ink { fill: var(--ink); }
svg .muted { fill: var(--muted); } svg .grid { stroke: var(--line); stroke-width: 1; }
details summary { cursor: pointer; }
"""


def write_page(
    path: Path,
    diagnosis: QuantizationDiagnosis,
    *,
    model: str,
    quantized: str,
    search: Mapping[str, Any] | None = None,
) -> None:
    """Write the page, replacing one that is there.

    Args:
        path: Where to.
        diagnosis: What is shown.
        model: What the float model is called.
        quantized: What its quantized form is called.
        search: `SearchResult.to_json()` of the search that it came from, if one ran.

    Raises:
        EnvironmentLackError: If the file cannot be written.
    """
    page = render_page(diagnosis, model=model, quantized=quantized, search=search)
    write_bytes(path, page.encode())


def render_page(
    diagnosis: QuantizationDiagnosis,
    *,
    model: str,
    quantized: str,
    search: Mapping[str, Any] | None = None,
) -> str:
    """The page: no script, nothing from elsewhere."""
    sections = [
        _tiles(diagnosis),
        _culprits(diagnosis),
        _ratios(diagnosis.layers),
        _cards(diagnosis),
        _search(search) if search else "",
        _table(diagnosis.layers),
    ]
    title = f"{escape(quantized)} beside {escape(model)}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>Quantization: {title}</title><style>{_STYLE}</style></head><body>"
        f'<h1>What quantization loses, and where</h1><p class="muted">{title}: '
        f"{escape(diagnosis.scheme)}, compared on {diagnosis.samples} sample(s); "
        f"{escape(diagnosis.judged)}.</p>{''.join(sections)}</body></html>\n"
    )


def _tiles(diagnosis: QuantizationDiagnosis) -> str:
    first = diagnosis.first_parting
    known = [one.noise.sqnr_db for one in diagnosis.layers if one.noise.sqnr_db is not None]
    tiles = [
        (escape(first.noise.node), "the first layer that computes something else", "bad")
        if first
        else ("none", "layers that compute something else", "good"),
        (
            str(len(diagnosis.culprits)),
            "layers that bring in noise for a reason of their own",
            "bad" if diagnosis.culprits else "good",
        ),
    ]
    if diagnosis.agreement is not None:
        tiles.insert(0, (percent(diagnosis.agreement), "of the samples get the same class", ""))
    if known:
        tiles.append((f"{known[-1]:.0f} dB", "signal to noise of the last layer", ""))
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><b class="{kind}">{figure}</b>{words}</div>'
            for figure, words, kind in tiles
        )
        + "</div>"
    )


def _culprits(diagnosis: QuantizationDiagnosis) -> str:
    if not diagnosis.culprits:
        return (
            "<h2>Where it comes from</h2><p>No layer is far from its float form: what is lost "
            "is lost a little everywhere.</p>"
        )
    items = []
    for layer in diagnosis.culprits:
        finding = layer.findings[0]
        ways = " or ".join(f"<code>{escape(fix)}</code>" for fix in finding.fixes)
        items.append(
            f"<li><b>{escape(layer.noise.node)}</b> ({escape(layer.noise.op)}, "
            f"{_ratio(_own(layer))}): {escape(finding.text)}. Try {ways}.</li>"
        )
    return (
        "<h2>Where it comes from, and what mends it</h2><p class='muted'>The worst first; the "
        f"options are those of <code>edgekit convert</code>.</p><ul>{''.join(items)}</ul>"
    )


def _ratios(layers: Sequence[LayerDiagnosis]) -> str:
    shown, left = _most_telling(layers)
    note = f" {left} good layers are left out." if left else ""
    return (
        "<h2>Layer by layer</h2><p>Bars: how well the output of each layer is computed in the "
        "whole model, which is its own noise and that of all layers before it. Points: the "
        f"layer's own noise, where it reads what the float model computes.{note}</p>"
        f"<figure>{layer_ratios(shown)}</figure>"
    )


def _most_telling(layers: Sequence[LayerDiagnosis]) -> tuple[list[LayerDiagnosis], int]:
    """The layers with weights and the weak ones, in their order; and how many there are beside."""
    if len(layers) <= _MOST_BARS:
        return list(layers), 0
    ranked = sorted(range(len(layers)), key=lambda at: (not layers[at].findings, _own(layers[at])))
    kept = sorted(ranked[:_MOST_BARS])
    return [layers[at] for at in kept], len(layers) - len(kept)


def _cards(diagnosis: QuantizationDiagnosis) -> str:
    worst = [layer for layer in diagnosis.culprits if layer.spread]
    if not worst:
        rated = [layer for layer in diagnosis.layers if layer.spread]
        worst = sorted(rated, key=_own)[:2]
    if not worst:
        return ""
    cards = []
    for layer in worst[:_MOST_CARDS]:
        spread = layer.spread
        if spread is None:  # pragma: no cover - filtered above
            continue
        several = sum(one > 0 for one in spread.channel_magnitudes) > 1
        cards.append(
            f'<div class="card"><h3>{escape(layer.noise.node)}</h3><p class="muted">reads '
            f"{escape(spread.value)}: 99 % within ±{spread.usual:.3g}"
            + (f", {percent(spread.clipped_share)} cut off" if spread.clipped_share else "")
            + f"</p><figure>{histogram(spread)}</figure>"
            + (f"<figure>{channels(spread)}</figure>" if several else "")
            + "</div>"
        )
    return (
        "<h2>What the worst layers read</h2><p>All values of an activation share the steps of one "
        "range. Where a few are far larger than the rest, or some channels far smaller than "
        f'others, little is left for those.</p><div class="cards">{"".join(cards)}</div>'
    )


def _search(search: Mapping[str, Any]) -> str:
    best, curve = search["best"], search["trade_off"]
    found = [
        Trade(
            label=_label(attempt),
            # Null: it gave no numbers any more.
            drop=1.0 if attempt["drop"] is None else attempt["drop"],
            size_bytes=attempt["size_bytes"],
            latency_ms=attempt["latency_ms"],
            on_curve=attempt in curve,
            chosen=attempt == best,
        )
        for attempt in search["attempts"]
    ]
    rows = "".join(
        f'<tr><td class="n">{number}</td><td>{_marked(one)}'
        f'</td><td class="n">{100 * one.drop:.2f} %</td><td class="n">'
        f'{one.size_bytes / 1000:.1f} kB</td><td class="n">'
        f"{'-' if one.latency_ms is None else f'{one.latency_ms:.3g} ms'}</td></tr>"
        for number, one in enumerate(found, start=1)
    )
    return (
        "<h2>What the search found</h2><p>Each point is an attempt; the line joins those that "
        "no other beats in cost and accuracy alike.</p>"
        f'<figure>{trades(found)}</figure><div class="scroll"><table><tr>'
        '<th></th><th>attempt</th><th class="n">lost</th><th class="n">size</th>'
        f'<th class="n">latency</th></tr>{rows}</table></div>'
    )


def _marked(one: Trade) -> str:
    return f"<b>{escape(one.label)}, chosen</b>" if one.chosen else escape(one.label)


def _label(attempt: Mapping[str, Any]) -> str:
    return " + ".join(attempt["repairs"]) or "plain"


def _table(layers: Sequence[LayerDiagnosis]) -> str:
    rows = "".join(
        f"<tr><td>{escape(layer.noise.node)}</td><td>{escape(layer.noise.op)}</td>"
        f'<td class="n">{_ratio(layer.noise.sqnr_db)}</td>'
        f'<td class="n">{_ratio(layer.noise.own_sqnr_db)}</td>'
        f"<td>{escape('; '.join(finding.text for finding in layer.findings))}</td></tr>"
        for layer in layers
    )
    return (
        f"<h2>All layers</h2><details><summary>{len(layers)} layers in figures</summary>"
        '<div class="scroll"><table><tr><th>node</th><th>operator</th><th class="n">in the model'
        f'</th><th class="n">by itself</th><th>why</th></tr>{rows}</table></div></details>'
    )


def _own(layer: LayerDiagnosis) -> float:
    """The layer's own ratio, or that of its output where it has none."""
    noise = layer.noise
    found = noise.sqnr_db if noise.own_sqnr_db is None else noise.own_sqnr_db
    return float("inf") if found is None else found


def _ratio(decibels: float | None) -> str:
    return "-" if decibels is None or decibels == float("inf") else f"{decibels:.1f} dB"
