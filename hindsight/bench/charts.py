"""The picture of a latency distribution, readable at a glance: bars, percentiles, where the time goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hindsight.bench.samples import ELSEWHERE, Stage, percentile
from hindsight.bench.session import Measured
from hindsight.errors import OptionError

__all__ = ["draw_histogram", "save_picture"]

_SIZE = (1400, 820)
_PLOT = (96, 150, 1350, 560)  # left, top, right, bottom
_STAGES = (96, 690, 1350, 738)
_PER_DECADE = 24  # bars between 10 and 100 ms
_INK, _SOFT, _GRID, _BAR, _BACK = "#1d2433", "#667085", "#e4e7ec", "#4c78a8", "#ffffff"
_MARKS = {50.0: "#2e7d32", 90.0: "#b26a00", 99.0: "#c62828"}
_BAD = "#c62828"
_STAGE_COLOURS = ("#3b6ea8", "#b85c00", "#3a803a", "#c03a3c", "#2b8580", "#8a5682", "#8f7010", "#7a5846")
_LEAST_MS = 1e-3
_LEAST_SHARE = 0.015  # of the client's time, that is named in the picture


def save_picture(picture: Image.Image, path: Path) -> None:
    """As PNG. Raises OptionError where the file cannot be written."""
    try:
        picture.save(path, "PNG", optimize=True)
    except OSError as error:
        raise OptionError(f"{path} cannot be written ({error.strerror or error})") from error


def draw_histogram(measured: Measured, title: str) -> Image.Image:
    """Latencies of the good answers, on a logarithmic axis; failures as a red bar at its end."""
    picture = Image.new("RGB", _SIZE, _BACK)
    draw = ImageDraw.Draw(picture)
    summary = measured.summary
    latencies = [1000 * sample.latency for sample in measured.counted if sample.is_good]
    failed = summary.requests - summary.good
    _text(draw, (_PLOT[0], 28), title, 30)
    said = (
        f"{measured.name}: {summary.requests} requests in {summary.seconds:.0f} s, "
        f"{summary.goodput:.2f} good answers a second"
    )
    _text(draw, (_PLOT[0], 70), said, 21, _SOFT)
    if not latencies:
        _text(draw, (_PLOT[0], 300), f"No good answer at all ({failed} without one)", 34, _BAD)
        return picture
    axis = _Axis(min(latencies), max(latencies), failed > 0)
    counts, edges = np.histogram(np.log10(np.maximum(latencies, _LEAST_MS)), bins=axis.edges)
    tallest = int(counts.max())
    _grid(draw, axis, tallest)
    for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            box = (axis.x_log(low) + 1, _height(count, tallest), axis.x_log(high) - 1, _PLOT[3])
            draw.rectangle(box, fill=_BAR)
    if failed:
        _failures(draw, axis.right + 40, failed, failed / summary.requests)
    _percentiles(draw, axis, latencies)
    _text(draw, ((_PLOT[0] + axis.right) / 2, _PLOT[3] + 44), "milliseconds, logarithmic", 20, _SOFT, "ma")
    if ELSEWHERE in summary.stages_ms:
        _where_time_goes(draw, summary.stages_ms, summary.latency_ms["mean"])
    return picture


class _Axis:
    """Milliseconds to pixels. With failures there is room for their bar at the right."""

    def __init__(self, least: float, most: float, failures: bool) -> None:
        low = math.floor(math.log10(max(least, _LEAST_MS)) * _PER_DECADE) / _PER_DECADE
        high = math.ceil(math.log10(max(most, _LEAST_MS)) * _PER_DECADE + 1e-9) / _PER_DECADE
        if high - low < 0.3:  # less than a factor of two: bars as wide as the picture would say nothing
            low, high = low - 0.15, high + 0.15
        bins = max(1, round((high - low) * _PER_DECADE))
        if bins < 40:
            bins = 40
        self.low, self.high = low, high
        self.edges = np.linspace(low, high, bins + 1)
        self.right = _PLOT[2] - (150 if failures else 0)

    def x_log(self, value: float) -> float:
        return _PLOT[0] + (value - self.low) / (self.high - self.low) * (self.right - _PLOT[0])

    def x(self, milliseconds: float) -> float:
        return self.x_log(math.log10(max(milliseconds, _LEAST_MS)))

    def ticks(self) -> list[float]:
        """1, 2, 5, 10, 20, ... within; closer ones where these are fewer than three."""
        for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), tuple(n / 10 for n in range(10, 100, 2))):
            found = [
                step * 10**decade
                for decade in range(math.floor(self.low) - 1, math.ceil(self.high) + 1)
                for step in steps
                if self.low <= math.log10(step * 10**decade) <= self.high
            ]
            if len(found) >= 4:
                break
        kept: list[float] = []
        for tick in found:
            if not kept or self.x(tick) - self.x(kept[-1]) >= 60:
                kept.append(tick)
        return kept


def _height(count: int, tallest: int) -> float:
    return _PLOT[3] - count / tallest * (_PLOT[3] - _PLOT[1] - 10)


def _grid(draw: ImageDraw.ImageDraw, axis: _Axis, tallest: int) -> None:
    for tick in axis.ticks():
        draw.line((axis.x(tick), _PLOT[1], axis.x(tick), _PLOT[3]), fill=_GRID)
        _text(draw, (axis.x(tick), _PLOT[3] + 10), f"{tick:g}", 20, _SOFT, "ma")
    step = _round_step(tallest / 4)
    for count in range(0, tallest + 1, step):
        y = _height(count, tallest)
        draw.line((_PLOT[0], y, axis.right, y), fill=_GRID)
        _text(draw, (_PLOT[0] - 12, y), str(count), 18, _SOFT, "rm")
    draw.line((_PLOT[0], _PLOT[3], axis.right, _PLOT[3]), fill=_INK, width=2)


def _round_step(value: float) -> int:
    """The round number next above."""
    size = 10 ** math.floor(math.log10(max(value, 1)))
    return int(next(step * size for step in (1, 2, 5, 10) if step * size >= value or step == 10))


def _failures(draw: ImageDraw.ImageDraw, left: float, count: int, share: float) -> None:
    """A bar of its own scale: full is all requests."""
    right, middle = _PLOT[2] - 8, (left + _PLOT[2] - 8) / 2
    top = _PLOT[3] - max(3.0, share * (_PLOT[3] - _PLOT[1]))
    draw.rectangle((left, _PLOT[1], right, _PLOT[3]), outline=_GRID, width=2)
    draw.rectangle((left, top, right, _PLOT[3]), fill=_BAD)
    inside = share > 0.2  # else there is no room for the figures in it
    colour, y = ("#ffffff", top + 10) if inside else (_BAD, top - 56)
    _text(draw, (middle, y), f"{share:.1%}", 22, colour, "ma")
    _text(draw, (middle, y + 26), str(count), 20, colour, "ma")
    _text(draw, (middle, _PLOT[3] + 10), "no good", 19, _BAD, "ma")
    _text(draw, (middle, _PLOT[3] + 32), "answer", 19, _BAD, "ma")


def _percentiles(draw: ImageDraw.ImageDraw, axis: _Axis, latencies: Sequence[float]) -> None:
    """A line each, with its name above the plot, moved aside where two would overlap."""
    values = {percent: percentile(latencies, percent) for percent in _MARKS}
    labels = {percent: f"p{percent:g}  {_shown(value)}" for percent, value in values.items()}
    widths = {percent: draw.textlength(label, font=_font(21)) for percent, label in labels.items()}
    lefts, end = {}, float(_PLOT[0])
    for percent, value in values.items():
        lefts[percent] = max(axis.x(value) - widths[percent] / 2, end)
        end = lefts[percent] + widths[percent] + 18
    end = axis.right + 30.0
    for percent in reversed(values):
        lefts[percent] = min(lefts[percent], end - widths[percent])
        end = lefts[percent] - 18
    for percent, colour in _MARKS.items():
        x = axis.x(values[percent])
        draw.line((x, _PLOT[1] - 8, x, _PLOT[3]), fill=colour, width=3)
        _text(draw, (lefts[percent], _PLOT[1] - 36), labels[percent], 21, colour)


def _where_time_goes(draw: ImageDraw.ImageDraw, stages: dict[str, Stage], mean: float) -> None:
    left, top, right, bottom = _STAGES
    whole = sum(stage.mean for stage in stages.values())
    _text(draw, (left, top - 40), f"Where the mean {_shown(mean)} go, by the server's own account", 21, _INK)
    x, small = float(left), []
    names = [name for name, stage in stages.items() if stage.mean >= _LEAST_SHARE * whole]
    for number, name in enumerate(names):
        colour = _STAGE_COLOURS[number % len(_STAGE_COLOURS)]
        width = stages[name].mean / whole * (right - left)
        draw.rectangle((x, top, x + width, bottom), fill=colour, outline=_BACK)
        label = f"{name} {_shown(stages[name].mean)}"
        if draw.textlength(label, font=_font(18)) < width - 8:
            _text(draw, (x + width / 2, (top + bottom) / 2), label, 18, "#ffffff", "mm")
        else:
            small.append((label, colour))
        x += width
    rest = len(stages) - len(names)
    if rest:
        draw.rectangle((x, top, right, bottom), fill=_SOFT)
        small.append((f"{rest} more, each under {_LEAST_SHARE:.1%}", _SOFT))
    x = float(left)
    for label, colour in small:
        draw.rectangle((x, bottom + 18, x + 14, bottom + 32), fill=colour)
        _text(draw, (x + 22, bottom + 14), label, 18, _INK)
        x += 22 + draw.textlength(label, font=_font(18)) + 26


def _shown(milliseconds: float) -> str:
    if milliseconds >= 10_000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.1f} ms"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    colour: str = _INK,
    anchor: str = "la",
) -> None:
    draw.text(place, text, fill=colour, font=_font(size), anchor=anchor)
