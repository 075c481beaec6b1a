"""Charts as inline SVG, coloured by the page's CSS variables: they follow dark mode, print, and weigh a few kilobytes.

Conditions differ in shape as well as colour: raw is a ring, raw few-shot a diamond, aligned a disc.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from steersman.evals.conditions import ALIGNED, FEW_SHOT, RAW
from steersman.report.blocks import Curve, Rate
from steersman.report.format import phrase, visible

DOTS_WIDTH = 216
_LANE, _PAD = 15, 9
SIGNS = {phrase(RAW): "raw", phrase(FEW_SHOT): "few", phrase(ALIGNED): "ali"}  # condition as shown: CSS class


def escaped(text: str) -> str:
    """Text for element content or a quoted attribute: the one place where text becomes HTML."""
    return escape(visible(text), quote=True)


def _x(share: float) -> float:
    return round(_PAD + share * (DOTS_WIDTH - 2 * _PAD), 1)


def mark(condition: str, x: float, y: float) -> str:
    """The sign of a condition, also used in the legend."""
    kind = SIGNS[condition]
    if kind == "few":
        return f'<path class="few" d="M{x - 5:g} {y:g}l5-5 5 5-5 5z"/>'
    return f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{4 if kind == "raw" else 4.8}"/>'


def dots(rates: Mapping[str, Rate]) -> str:
    """Dot and whisker for each condition on a scale from 0 to 100 %. Decorative: the numbers stand beside it."""
    height = _LANE * len(rates) + 3
    parts = [f'<path class="grid" d="{"".join(f"M{_x(s):g} 0v{height}" for s in (0, 0.25, 0.5, 0.75, 1))}"/>']
    for lane, (condition, rate) in enumerate(rates.items()):
        y = _LANE * lane + 9
        if rate.value is not None and rate.low is not None and rate.high is not None:
            parts.append(f'<path class="whisker {SIGNS[condition]}" d="M{_x(rate.low):g} {y}H{_x(rate.high):g}"/>')
            parts.append(mark(condition, _x(rate.value), y))
    size = f'viewBox="0 0 {DOTS_WIDTH} {height}" width="{DOTS_WIDTH}" height="{height}"'
    return f'<svg class="dots" aria-hidden="true" {size}>{"".join(parts)}</svg>'


def dots_axis() -> str:
    """The scale above a column of `dots`."""
    texts = (("start", 0.0, "0"), ("middle", 0.5, "50"), ("end", 1.0, "100 %"))
    labels = "".join(
        f'<text x="{_x(s) + (4 - 8 * (a == "start")) * (a != "middle"):g}" y="11" text-anchor="{a}">{t}</text>'
        for a, s, t in texts
    )
    size = f'viewBox="0 0 {DOTS_WIDTH} 14" width="{DOTS_WIDTH}" height="14"'
    return f'<svg class="dots" aria-hidden="true" {size}>{labels}</svg>'


def sample(name: str) -> str:
    """A condition's sign alone, for headings; empty for any other name."""
    size = 'viewBox="0 0 14 14" width="14" height="14"'
    return f'<svg class="key" aria-hidden="true" {size}>{mark(name, 7, 7)}</svg>' if name in SIGNS else ""


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that cover [low, high], the outermost at or beyond its ends."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / about))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def thinned(points: Sequence[tuple[float, float]], limit: int = 300) -> list[tuple[float, float]]:
    """At most about ``limit`` points: means of equal blocks."""
    block = -(-len(points) // limit) or 1
    groups = [points[i : i + block] for i in range(0, len(points), block)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def lines(curves: Sequence[Curve], label: str, width: int, y_name: str, x_name: str = "step") -> str:
    """A line chart drawn for ``width`` CSS pixels. ``label`` is read out in its place."""
    height, left, right, top, bottom = round(min(300, 120 + width * 0.24)), 46, 14, 24, 40
    drawn = [(curve, thinned(curve.points)) for curve in curves]
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    x_ticks = ticks(min(xs), max(xs), 4 if width < 500 else 8)
    y_ticks = ticks(min(ys), max(ys), 5)
    x_end = max(xs) if max(xs) > min(xs) else min(xs) + 1

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - min(xs)) / (x_end - min(xs))
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(left + across * (width - left - right), 1), round(
            height - bottom - up * (height - top - bottom), 1
        )

    parts = []
    for y in y_ticks:
        _, py = at(0, y)
        parts.append(f'<path class="grid" d="M{left} {py:g}H{width - right}"/>')
        parts.append(f'<text x="{left - 7}" y="{py + 4:g}" text-anchor="end">{y:g}</text>')
    for x in (x for x in x_ticks if min(xs) <= x <= x_end):
        px, _ = at(x, y_ticks[0])
        parts.append(f'<text x="{px:g}" y="{height - bottom + 18}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<text class="name" x="0" y="12">{escaped(y_name)}</text>')
    parts.append(f'<text class="name" x="{width - right}" y="{height - 5}" text-anchor="end">{escaped(x_name)}</text>')
    for curve, points in drawn:
        placed = [at(x, y) for x, y in points]
        parts.append(f'<path class="line {curve.style}" d="M{"L".join(f"{x:g} {y:g}" for x, y in placed)}"/>')
        if curve.style == "marked":
            parts += [f'<circle class="point" cx="{x:g}" cy="{y:g}" r="3.4"/>' for x, y in placed]
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg class="lines" role="img" aria-label="{escaped(label)}" {size}>{"".join(parts)}</svg>'
