"""Curves over time as inline SVG: no library, no network, readable in light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 360, 130
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 10, 22


def curve_svg(
    values: Sequence[float | None], seconds: float, every: float, name: str, cuts: Sequence[float] = ()
) -> str:
    """A curve of one value for every `every` seconds of a video of `seconds`; None leaves a gap, cuts are dashed.

    A flat curve is drawn in the middle; the scale otherwise runs from its lowest to its highest value.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return ""
    low, high = min(known), max(known)
    # a curve that hardly changes must not look like one that does: the scale covers a hundredth of the value at least
    room = max(high - low, abs(high) * 0.01, 1e-6)
    low, high = (low + high - room) / 2, (low + high + room) / 2
    length = seconds

    def place(second: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * second / length
        return x, TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    starts = [min(index * every, length) for index in range(len(values))]
    middles = [(start + min(start + every, length)) / 2 for start in starts]
    parts = [
        _line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"),
        _text(LEFT, HEIGHT - 6, "0 s", "start"),
    ]
    parts += [_text(WIDTH - RIGHT, HEIGHT - 6, f"{length:.4g} s", "end")]
    parts += [_text(LEFT - 6, TOP + 8, _short(high), "end"), _text(LEFT - 6, HEIGHT - BOTTOM, _short(low), "end")]
    parts += [_line(place(cut, low)[0], TOP, place(cut, low)[0], HEIGHT - BOTTOM, "cut") for cut in cuts]
    for run in _runs(values):
        points = [place(middles[index], float(values[index] or 0.0)) for index in run]
        parts.append(f'<polyline class="curve" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
    for second, value in zip(middles, values, strict=True):
        if value is not None and math.isfinite(value):
            x, y = place(second, value)
            parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.5">')
            parts.append(f"<title>{second:.4g} s: {value:.4f}</title></circle>")
    label = html.escape(name, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label} over time">{"".join(parts)}</svg>'


def _runs(values: Sequence[float | None]) -> list[list[int]]:
    runs: list[list[int]] = [[]]
    for index, value in enumerate(values):
        if value is not None and math.isfinite(value):
            runs[-1].append(index)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _line(x0: float, y0: float, x1: float, y1: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _short(value: float) -> str:
    return f"{value:.4f}" if 0.001 <= abs(value) < 10 else f"{value:.3g}"
