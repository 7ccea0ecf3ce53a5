"""Progress on stderr: a bar on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from longtake.output.job import Progress

LINE_SECONDS = 5.0


def shown(progress: Iterable[Progress], quiet: bool = False) -> Iterator[Progress]:
    """Pass progress on and show it. NO_COLOR and dumb terminals are respected (by rich)."""
    if quiet:
        yield from progress
    elif sys.stderr.isatty():
        yield from _bar(progress)
    else:
        yield from _lines(progress)


def _bar(progress: Iterable[Progress]) -> Iterator[Progress]:
    columns = TextColumn("{task.description}"), BarColumn()
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        for item in progress:
            total = item.num_frames
            bar.update(task, description=line(item), completed=item.frames if total else None, total=total)
            yield item


def _lines(progress: Iterable[Progress]) -> Iterator[Progress]:
    last = time.monotonic()
    for item in progress:
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            print(line(item), file=sys.stderr, flush=True)
        yield item


def line(item: Progress) -> str:
    """Frames done, seconds of video, NFE/s, time left."""
    frames = f"{item.frames}/{item.num_frames}" if item.num_frames else f"{item.frames}"
    left = f", {clock(item.seconds_left)} left" if item.seconds_left is not None else ""
    return f"{frames} frames, {item.video_seconds:.1f} s of video, {item.nfe_per_second:.1f} NFE/s{left}"


def clock(seconds: float) -> str:
    """12 s, 3:05, 2:03:05."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes = f"{rest // 60:02d}" if hours else f"{rest // 60}"
    return (f"{hours}:" if hours else "") + f"{minutes}:{rest % 60:02d}"
