"""Panels of curves with intervals as one SVG, with nothing but the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Number = dict[str, float]
COLOURS = ("#222222", "#d1495b", "#edae49", "#00798c", "#7a5195", "#4c9f70")
WIDE, HIGH, LEFT, TOP, GAP = 300, 190, 46, 26, 26


@dataclass(frozen=True)
class Panel:
    """A title and, by name, a curve of {"mean", "low", "high"}."""

    title: str
    lines: dict[str, list[Number]]


def draw(panels: list[Panel], step: float, below: str, columns: int = 3, marks: Sequence[str] = ()) -> str:
    """The SVG; point i of a curve stands at (i + 1/2) * `step` seconds, or is told by `marks`."""
    rows = -(-(len(panels) + 1) // columns)
    width, height = columns * (WIDE + GAP), rows * (HIGH + GAP) + 24
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
             f'<rect width="{width}" height="{height}" fill="white"/>']  # fmt: skip
    for number, panel in enumerate(panels):
        x, y = number % columns * (WIDE + GAP), number // columns * (HIGH + GAP)
        parts.append(f'<g transform="translate({x} {y})">{_panel(panel, step, colour, marks)}</g>')
    x, y = len(panels) % columns * (WIDE + GAP) + LEFT, len(panels) // columns * (HIGH + GAP) + TOP
    for i, name in enumerate(names):
        parts.append(f'<rect x="{x}" y="{y + 22 * i}" width="22" height="4" fill="{colour[name]}"/>')
        parts.append(f'<text x="{x + 30}" y="{y + 22 * i + 7}" font-size="13">{escape(name)}</text>')
    parts.append(f'<text x="{LEFT}" y="{height - 8}" font-size="11" fill="#555">{escape(below)}</text></svg>')
    return "\n".join(parts) + "\n"


def _panel(panel: Panel, step: float, colour: dict[str, str], marks: Sequence[str]) -> str:
    points = [point for line in panel.lines.values() for point in line]
    if not points:
        return ""
    low, high = min(p["low"] for p in points), max(p["high"] for p in points)
    low, high = (low - 0.5, high + 0.5) if high - low < 1e-9 else (low, high)
    longest = max(len(line) for line in panel.lines.values()) * step

    def at(i: int, value: float) -> str:
        across = LEFT + (i + 0.5) * step / longest * (WIDE - LEFT)
        return f"{across:.1f},{TOP + (high - value) / (high - low) * (HIGH - TOP - 20):.1f}"

    bottom = HIGH - 20
    parts = [f'<text x="{LEFT}" y="16" font-size="13">{escape(panel.title)}</text>',
             f'<path d="M{LEFT} {TOP}V{bottom}H{WIDE}" fill="none" stroke="#999"/>']  # fmt: skip
    for value in (low, (low + high) / 2, high):
        y = float(at(0, value).split(",")[1])
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" font-size="10" text-anchor="end">{value:.2f}</text>')
    spots = [((i + 0.5) / len(marks), mark) for i, mark in enumerate(marks)]
    for share, told in spots or [(share, f"{share * longest:.0f} s") for share in (0, 0.5, 1)]:
        x = LEFT + share * (WIDE - LEFT)
        parts.append(f'<text x="{x}" y="{bottom + 14}" font-size="10" text-anchor="middle">{told}</text>')
    for name, line in panel.lines.items():
        edge = [at(i, p["high"]) for i, p in enumerate(line)] + [at(i, p["low"]) for i, p in enumerate(line)][::-1]
        parts.append(f'<polygon points="{" ".join(edge)}" fill="{colour[name]}" opacity="0.15"/>')
        middle = " ".join(at(i, p["mean"]) for i, p in enumerate(line))
        parts.append(f'<polyline points="{middle}" fill="none" stroke="{colour[name]}" stroke-width="2"/>')
    return "".join(parts)
