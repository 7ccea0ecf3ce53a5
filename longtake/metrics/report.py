"""A report on measured videos as one HTML file: player, contact sheet, curves over time, and every number.

The numbers are entries as `metrics.measure` makes them: {"value", "encoder", "n"} by name, some with "curve" (a value
for every two seconds), "slope", "cuts", "alarm". Several videos begin with a table of all; beyond 40 only the table
shows them, as the report must open in a browser.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from longtake.metrics import embed
from longtake.metrics.plots import curve_svg
from longtake.output.video import probe, read_frames

EVERY = 2.0
"""Seconds of a point of a curve, and at least between two tiles of a sheet."""
TILES, TILE = 48, 160
SECTIONS = 40

Entries = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Measured:
    """A video with its numbers; `told` is what else is known of it, such as its prompt and seed."""

    name: str
    path: Path
    entries: Entries
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sheet:
    """Tiles of a contact sheet with their times, and how long the video is in frames and seconds."""

    tiles: tuple[tuple[float, Image.Image], ...]
    num_frames: int
    seconds: float


def write_report(out: Path, videos: Sequence[Measured], mean: Entries | None = None) -> Path:
    """Write the page, whole or not at all. `mean`: entries over all videos."""
    parts = [f"<h1>{len(videos)} videos measured</h1>" if len(videos) > 1 else "<h1>One video measured</h1>", NOTE]
    if len(videos) > 1:
        parts.append(overview(videos, mean))
        if len(videos) > SECTIONS:
            parts.append(f'<p class="quiet">The first {SECTIONS} are shown below; the table has all.</p>')
    parts += [section(index, video) for index, video in enumerate(videos[:SECTIONS])]
    embed.write_page(out, embed.page("report.html", "longtake eval", body="\n".join(parts)))
    return out


NOTE = (
    '<p class="quiet">Every value carries the name of the encoder that it was measured with. What follows @ names the '
    "formula; -formula marks another encoder than the one that the formula was published with: such a value can be "
    "compared with others of the same encoder, and with no published table.</p>"
)


def section(index: int, video: Measured) -> str:
    """One video: player, sheet, alarms, curves, numbers."""
    sheet = contact_sheet(video.path)
    clip = probe(video.path)
    facts = f"{clip.width} x {clip.height}, {float(clip.fps):.4g} frames a second, {sheet.num_frames} frames, "
    facts += f"{sheet.seconds:.4g} s"
    told = "".join(f"<p>{_safe(name)}: {_safe(value)}</p>" for name, value in video.told.items() if value is not None)
    alarms = "".join(
        f'<p class="alarm">{_safe(entry["alarm"])}</p>' for entry in video.entries.values() if entry.get("alarm")
    )
    tiles = "".join(
        f'<button data-at="{second:.3f}"><img alt="the video at {second:.1f} s" src="{embed.picture_uri(tile)}">'
        f"{second:.1f} s</button>"
        for second, tile in sheet.tiles
    )
    player = f'<video controls muted loop playsinline preload="metadata" src="{embed.video_uri(video.path)}"></video>'
    return (
        f'<section id="v{index}"><h2>{_safe(video.name)}</h2><p class="quiet">{facts}</p>{told}{alarms}'
        f'<div class="top"><div>{player}</div><div class="sheet">{tiles}</div></div>'
        f'<div class="plots">{curves(video.entries, sheet.seconds)}</div>{numbers(video.entries)}</section>'
    )


def curves(entries: Entries, seconds: float) -> str:
    """A plot for every entry with a curve of several points; VBench-Long's clips are nearly the same curves."""
    cuts = _cuts(entries, seconds)
    plots = []
    for name, entry in entries.items():
        values = entry.get("curve") or ()
        if sum(value is not None for value in values) > 1 and "@vbench-long" not in name:
            label = name + " (mean flow in pixels)" * ("flow" in entry)
            drawn = curve_svg(values, seconds, EVERY, label, cuts)
            plots.append(f"<figure>{drawn}<figcaption>{_safe(label)}{_slope(entry)}</figcaption></figure>")
    return "".join(plots)


def numbers(entries: Entries) -> str:
    """The table of one video."""
    rows = "".join(
        f'<tr><td>{_safe(name)}</td><td class="number">{_number(entry["value"])}</td>'
        f'<td class="number">{entry["n"]}</td><td>{_safe(entry["encoder"])}</td><td>{_more(entry)}</td></tr>'
        for name, entry in entries.items()
    )
    head = '<tr><th>metric</th><th class="number">value</th><th class="number">n</th><th>encoder</th><th></th></tr>'
    return f'<div class="wide"><table>{head}{rows}</table></div>'


def overview(videos: Sequence[Measured], mean: Entries | None) -> str:
    """The table of all videos: a row each, a column a metric."""
    names = list(dict.fromkeys(name for video in videos for name in video.entries))
    head = "".join(f'<th class="number">{_safe(name)}</th>' for name in names)
    rows = [f"<tr><th>video</th>{head}</tr>"]
    for index, video in enumerate(videos):
        label = f'<a href="#v{index}">{_safe(video.name)}</a>' if index < SECTIONS else _safe(video.name)
        cells = "".join(f'<td class="number">{_cell(video.entries.get(name))}</td>' for name in names)
        mark = ' <span class="alarm">!</span>' if any(entry.get("alarm") for entry in video.entries.values()) else ""
        rows.append(f"<tr><td>{label}{mark}</td>{cells}</tr>")
    if mean:
        cells = "".join(f'<td class="number"><b>{_cell(mean.get(name))}</b></td>' for name in names)
        rows.append(f"<tr><td><b>mean</b></td>{cells}</tr>")
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def contact_sheet(path: Path) -> Sheet:
    """One frame for every two seconds, at most 48 of the whole video, each at most 160 pixels wide or high.

    In one pass: as soon as there are too many tiles every second one is dropped and the distance doubled.
    """
    fps = float(probe(path).fps)
    step, count = max(1, round(EVERY * fps)), 0
    tiles: list[tuple[int, Image.Image]] = []
    for number, frame in enumerate(read_frames(path)):
        count = number + 1
        if number % step:
            continue
        tile = Image.fromarray(frame)
        tile.thumbnail((TILE, TILE))
        tiles.append((number, tile))
        if len(tiles) > TILES:
            tiles, step = tiles[::2], 2 * step
    return Sheet(tuple((number / fps, tile) for number, tile in tiles), count, count / fps)


def _cuts(entries: Entries, seconds: float) -> list[float]:
    scenes = entries.get("scene_count", {})
    frames = scenes.get("n") or 1
    return [cut / frames * seconds for cut in scenes.get("cuts", ())]


def _slope(entry: Mapping[str, Any]) -> str:
    slope = entry.get("slope")
    if not slope:
        return ""
    return f" {slope['value']:+.4f} a minute [{slope['low']:+.4f}, {slope['high']:+.4f}]"


def _more(entry: Mapping[str, Any]) -> str:
    said = [f"flow {entry['flow']:.2f} px"] if "flow" in entry else []
    if "low" in entry:
        said.append(f"[{entry['low']:.3f}, {entry['high']:.3f}]")
    if slope := _slope(entry).strip():
        said.append(slope)
    said += [
        f"frames {event['start']}-{event['stop'] - 1}: {event['fidelity']:.2f}" for event in entry.get("events", ())
    ]
    if alarm := entry.get("alarm"):
        said.append(f'<span class="alarm">{_safe(alarm)}</span>')
    return "; ".join(said)


def _cell(entry: Mapping[str, Any] | None) -> str:
    return "" if entry is None else _number(entry["value"])


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _safe(value: Any) -> str:
    return html.escape(str(value))
