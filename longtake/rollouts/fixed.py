"""The machine of the methods that make a video of fixed length: one level for all rows, windows fused where they meet.

All latents are denoised together, one level a tick, by overlapping windows of the model's native length; where windows
overlap, their estimates x0 are averaged (every solver here is linear in x0, so this fuses the steps as well).
The end is known, so the last window slides back to it. Memory grows with the length, and nothing is released early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from longtake.core.rollout import Emission, Timeline, View
from longtake.core.rows import Queue, Row, clean_row
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.core.step import Step, denoise
from longtake.core.window import Window
from longtake.rollouts.diagonal import LineState, finished_view

Fuse = Literal["pyramid", "uniform", "linear"]


def weights(fuse: Fuse, size: int, overlap: int) -> tuple[float, ...]:
    """The weight of each row of a window: uniform 1; pyramid 1, 2, ..., 2, 1; linear ramps over the overlaps only."""
    ends = [min(place, size - 1 - place) + 1 for place in range(size)]
    if fuse == "pyramid":
        return tuple(float(end) for end in ends)
    if fuse == "linear":
        return tuple(min(end / (overlap + 1), 1.0) for end in ends)
    return (1.0,) * size


def starts(rows: range, size: int, overlap: int) -> list[int]:
    """First rows of the windows: every `size - overlap` rows, the last one slid back to the end."""
    if len(rows) <= size:
        return [rows.start]
    last = rows.stop - size
    return [*range(rows.start, last, size - overlap), last]


@dataclass(frozen=True)
class Fixed:
    """The integers of a fixed-length method: `size` rows a window, `overlap` shared with the next."""

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver
    num_latents: int
    size: int
    overlap: int
    fuse: Fuse

    def __post_init__(self) -> None:
        if self.num_latents < 1:
            raise ValueError(f"a video of fixed length has at least 1 latent, got {self.num_latents}")
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"overlap must be in 0..{self.size - 1} (below the window), got {self.overlap}")
        if self.fuse not in ("pyramid", "uniform", "linear"):
            raise ValueError(f"fuse must be pyramid, uniform or linear, got {self.fuse!r}")

    def begin(self, rows: Sequence[Row], path: int, timeline: Timeline, context: Sequence[Tensor]) -> LineState:
        """All rows, behind the clean `context` that still fits in a window."""
        kept = list(context)[len(context) - min(self.size - 1, len(context)) :]
        before = [clean_row(x, place - len(kept), path) for place, x in enumerate(kept)]
        return LineState(Queue((*before, *rows)), 0, 0, 0, path, timeline)

    def step(self, state: LineState) -> Step[tuple[LineState, Emission]]:
        """All rows one level down; at level 0 the whole video is released."""
        queue = yield from denoise(
            state.queue, self.windows(state.queue), self.solver, self.schedule, state.timeline.conds(0)
        )
        if any(row.level for row in queue.rows):
            return replace(state, queue=queue, tick=state.tick + 1), Emission(0)
        done = tuple(row.x for row in queue.rows if row.index >= 0)
        return replace(state, queue=queue, tick=state.tick + 1, head=len(done), finished=True), Emission(0, done)

    def preview(self, state: LineState, steps: int) -> Step[View]:
        """The whole video in `steps` sweeps on a coarse grid of levels, from the same noise and by the same windows."""
        queue, planned = state.queue, self.windows(state.queue)
        level = max(row.level for row in queue.rows)
        moving = [row.index for row in queue.rows if row.level]
        solver = Solver() if self.solver.noise_scale else self.solver
        for to in sorted({level * left // steps for left in range(steps)}, reverse=True):
            sweep = [replace(window, to=to) for window in planned]
            queue = yield from denoise(queue, sweep, solver, self.schedule, state.timeline.conds(0))
        return finished_view([queue.at(index) for index in moving], state.timeline)

    def windows(self, queue: Queue) -> list[Window]:
        """The windows of every sweep."""
        rows = range(queue.start, queue.stop)
        planned = []
        for start in starts(rows, self.size, self.overlap):
            read = range(start, min(start + self.size, rows.stop))
            part = zip(read, weights(self.fuse, len(read), self.overlap), strict=True)
            chosen = [(index, weight) for index, weight in part if index >= 0]
            planned.append(Window(tuple(read), tuple(i for i, _ in chosen), weight=tuple(w for _, w in chosen)))
        return [window for window in planned if window.write]
