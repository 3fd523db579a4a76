"""The pictures of a quantization report: one question each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.svg import COLOURS, Picture, Scale, padded, width_of
from edgekit_converters.diagnosis.diagnose import PARTED_DB

if TYPE_CHECKING:
    from edgekit_converters.diagnosis.diagnose import LayerDiagnosis
    from edgekit_converters.diagnosis.spread import ValueSpread

# Narrow enough that letters stay letters on a phone.
_WIDTH: Final = 460.0
_MOST_LABEL: Final = 22
_ROW: Final = 20.0
_GOOD, _OWN, _BAD = COLOURS[0], COLOURS[1], COLOURS[5]
_BEST_DB: Final = 60.0
_LEAST_SHARE: Final = 1e-5
_TALL: Final = 150.0
# In per cent; less is nothing.
_LEAST_DROP: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """One attempt of a search.

    Attributes:
        label: What was done.
        drop: What it loses, as a share of one.
        size_bytes: Of the quantized model.
        latency_ms: Predicted on the device, None where no profile was given.
        on_curve: Whether no other is better in cost and drop alike.
        chosen: Whether it was taken.
    """

    label: str
    drop: float
    size_bytes: float
    latency_ms: float | None
    on_curve: bool
    chosen: bool


def layer_ratios(layers: Sequence[LayerDiagnosis]) -> str:
    """The signal-to-noise ratio of every layer's output, in order; and the layer's own."""
    labels = [_ending(layer.noise.node) for layer in layers]
    left = 14 + max(map(width_of, labels), default=0)
    bottom = 30 + _ROW * len(layers)
    picture = Picture(_WIDTH, bottom + 42, "Signal to quantization noise, layer by layer")
    known = [
        ratio
        for layer in layers
        for ratio in (layer.noise.sqnr_db, layer.noise.own_sqnr_db)
        if ratio is not None
    ]
    low = min(0.0, 10 * math.floor(min(known, default=0.0) / 10))
    scale = Scale(low=max(low, -_BEST_DB), high=_BEST_DB, start=left, end=_WIDTH - 34)
    picture.across(scale, top=26, bottom=bottom, label="decibels; more is better")
    _key(picture)
    for position, layer in enumerate(layers):
        middle = 26 + _ROW * position + _ROW / 2
        picture.text(left - 6, middle + 4, labels[position], anchor="end")
        ratio, own = layer.noise.sqnr_db, layer.noise.own_sqnr_db
        tip = f"{layer.noise.node} ({layer.noise.op})"
        if ratio is not None:
            colour = _BAD if ratio < PARTED_DB else _GOOD
            length = scale.at(ratio) - scale.start
            words = f"{tip}: {ratio:.1f} dB in the model"
            picture.box(left, middle - 6, length, 12, colour=colour, title=words)
            picture.text(_WIDTH - 4, middle + 4, f"{round(ratio)}", anchor="end", muted=True)
        if own is not None:
            words = f"{tip}: {own:.1f} dB by itself"
            picture.dot(scale.at(own), middle, colour=_OWN, title=words)
    return picture.render()


def _ending(name: str) -> str:
    """The end of a long name: that is where paths of modules differ."""
    return name if len(name) <= _MOST_LABEL else f"…{name[1 - _MOST_LABEL :]}"


def _key(picture: Picture) -> None:
    x = 8.0
    for colour, words in ((_GOOD, "in the model"), (_BAD, f"below {PARTED_DB:.0f} dB")):
        picture.box(x, 6, 12, 12, colour=colour)
        picture.text(x + 18, 16, words, muted=True)
        x += 32 + width_of(words)
    picture.dot(x + 6, 12, colour=_OWN)
    picture.text(x + 18, 16, "the layer by itself", muted=True)


def histogram(spread: ValueSpread) -> str:
    """How the values lie that a layer reads, and the range that 8 bits stand for."""
    picture = Picture(_WIDTH, _TALL + 76, f"Histogram of {spread.value}")
    scale = Scale(low=spread.edges[0], high=spread.edges[-1], start=40, end=_WIDTH - 16)
    top, bottom = 30.0, 30 + _TALL
    begin, end = scale.at(spread.kept_low), scale.at(spread.kept_high)
    words = f"kept: {spread.kept_low:.4g} to {spread.kept_high:.4g}"
    picture.box(begin, top, end - begin, _TALL, colour="var(--kept)", title=words)
    picture.text(40, 18, f"range that is kept: {spread.kept_low:.3g} to {spread.kept_high:.3g}")
    picture.across(scale, top=top, bottom=bottom, label="value; heights are logarithmic")
    floor = math.log(_LEAST_SHARE)
    for low, high, share in zip(spread.edges, spread.edges[1:], spread.shares, strict=False):
        if share <= 0:
            continue
        height = _TALL * max(1 - math.log(max(share, _LEAST_SHARE)) / floor, 0.02)
        x, width = scale.at(low), scale.at(high) - scale.at(low)
        tip = f"{100 * share:.3g} % from {low:.4g} to {high:.4g}"
        picture.box(x + 0.5, bottom - height, width - 1, height, colour=_GOOD, title=tip)
    return picture.render()


def channels(spread: ValueSpread) -> str:
    """The largest magnitude of each channel, the largest first, on a logarithmic axis."""
    used = sorted((one for one in spread.channel_magnitudes if one > 0), reverse=True)
    picture = Picture(_WIDTH, _TALL + 62, f"Magnitudes of the channels of {spread.value}")
    top, bottom = 30.0, 30 + _TALL
    scale = padded([*used, used[0] / 4], start=bottom, end=top, logarithmic=True)
    picture.text(60, 18, f"channels: {spread.channels_apart:.0f} times apart")
    for value in scale.ticks():
        picture.line([(60, scale.at(value)), (_WIDTH - 16, scale.at(value))], colour="var(--line)")
        picture.text(54, scale.at(value) + 4, f"{value:.3g}", anchor="end", muted=True)
    width = (_WIDTH - 76) / len(used)
    for position, value in enumerate(used):
        y = scale.at(value)
        picture.box(
            60 + width * position + width * 0.1,
            y,
            width * 0.8,
            bottom - y,
            colour=_OWN,
            title=f"up to {value:.4g}",
        )
    step = spread.kept_high - spread.kept_low
    if step > 0 and scale.low < step / 255 < scale.high:
        y = scale.at(step / 255)
        picture.line([(60, y), (_WIDTH - 16, y)], colour=_BAD, width=2)
        picture.text(_WIDTH - 16, 18, "red line: one step of 8 bits", anchor="end", muted=True)
    picture.text((60 + _WIDTH) / 2, bottom + 20, "channels, largest first", anchor="middle")
    return picture.render()


def trades(found: Sequence[Trade]) -> str:
    """What the attempts of a search lose, by what they cost."""
    timed = all(one.latency_ms is not None for one in found)
    costs = [one.latency_ms or 0.0 if timed else one.size_bytes / 1000 for one in found]
    # Plain int8 may lose a thousand times what is left in the end.
    lost = [max(100 * one.drop, _LEAST_DROP) for one in found]
    picture = Picture(_WIDTH, 330, "What the attempts of the search lose, by what they cost")
    room = (max(costs) - min(costs)) * 0.08 or max(costs) * 0.05 or 1.0
    across = Scale(low=min(costs) - room, high=max(costs) + room, start=58, end=_WIDTH - 20)
    upright = padded([*lost, _LEAST_DROP, 1.0], start=270, end=34, logarithmic=True)
    label = "predicted latency on the device, ms" if timed else "size, kB"
    picture.across(across, top=34, bottom=270, label=label)
    words = f"lost, %; at the bottom {_LEAST_DROP:g} or less"
    picture.upright(upright, left=58, right=_WIDTH - 20, label=words)
    points = [(across.at(cost), upright.at(drop)) for cost, drop in zip(costs, lost, strict=True)]
    curve = sorted(point for point, one in zip(points, found, strict=True) if one.on_curve)
    picture.line(curve, colour=_GOOD, width=2)
    # The chosen one last, above others in its place.
    for (x, y), one in sorted(zip(points, found, strict=True), key=lambda pair: pair[1].chosen):
        tip = f"{one.label}: {100 * one.drop:.2f} % lost, {one.size_bytes / 1000:.1f} kB"
        colour = _OWN if one.chosen else _GOOD
        picture.dot(x, y, colour=colour, title=tip, hollow=not (one.on_curve or one.chosen))
        if one.chosen:
            anchor = "end" if x > _WIDTH / 2 else "start"
            picture.text(x + (-9 if anchor == "end" else 9), y - 9, "chosen", anchor=anchor)
    return picture.render()
