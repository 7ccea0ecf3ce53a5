"""MIGA: a queue in which neighbours share a level, then the last levels in unified sweeps, with guides from far ahead.

Feng et al. 2026, "MIGA": stage 1, zigzag iterative denoising (Eq. 3; Alg. 5, l. 5-15), stage 2, denoising at a unified
level (Eq. 4; Alg. 5, l. 16-26; alone: Alg. 8), long-range frame guidance (Eq. 8; Alg. 7). Self-reflection (Alg. 6) is
`search/reflect`, which wraps this. It narrows the gap between training, where a window has one level, and queues.
Symbols: T -> schedule.num_steps, L_zig -> zigzag, e - 1 -> handover (the level at which rows leave stage 1; handover T
is stage 2 alone), m_guid -> anchors, f0 -> window, l_stride -> stride, L = zigzag (T - handover) rows in stage 1.

Deviations
- stage 2 runs as a wavefront behind stage 1 (rollouts/wavefront): constant memory and bounded delay, where Alg. 5
  waits for all N latents. `stage2="batch"` is Alg. 5 for `end` latents; the values are equal.
- every window of a sweep reads the queue as it was (Jacobi); Alg. 7 writes in place, the released code does both
- a window writes its first `stride` rows, the last one all that is left (Alg. 7 writes only `stride`, losing some)
- guides are at fixed distances, half a group and then whole groups before the window, as in the released code (the
  paper samples them); where less than `anchors` groups lie before it they are spread evenly, with less than `anchors`
  rows there are none. Stage 2 has them too: Sec. A.1.3 applies them to every step over a queue
- without a clip the queue fills from nothing (Alg. 4 with an empty base clip). A given clip is Alg. 4: its last
  latents, noised to the levels before the first new group, go through the queue first and are not emitted
- a latent that is given (a picture to end on) stands clean in its place, told as level 0, and is never moved
- `rotate` (the grid moves with every sweep) and `refine` (r levels of noise again, then r unified sweeps) are in the
  released code and not in the paper; both are off. In stage 2 the grid moves by level, not by tick: else no wavefront

Cost in window calls, exactly, for N latents of a stream (s = stride, h = handover, S steps; windows that read the same
rows are one), counted from the last latent backwards, where n rows are needed, at first N:
- stage 2: at levels 1..refine, then 1..h, the windows on the grid of s that write the first n rows; n becomes what they
  read, so that each level needs up to window - s rows more
- stage 1: at ticks (n - 1) // zigzag + S - h - 1 down to 0, the windows of the zigzag min(tick + 1, S - h) rows there
  that write one of the first n; n becomes what they read
Where stride < anchors, windows among the first rows may read the same, and it is a bound. A latent, once running, costs
at most ceil(L / s) / zigzag + (h + refine) / s. First latents after L / zigzag ticks and the delay of stage 2, which is
h * ceil((d - s) / s) * s rows for side "after" with d = window - anchors, and none for "before".
Rows held: L, that delay, and old versions of at most (anchors zigzag + d - s) rows a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import ceil, lcm
from typing import Literal

from torch import Tensor

from longtake.core.noise import fold, root
from longtake.core.plan import reach
from longtake.core.rollout import Emission, Mix, Timeline, View, entering
from longtake.core.rows import Queue, Row, noised_row
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.core.step import Step, denoise, nothing
from longtake.core.window import Grid, Side, Window, sweep
from longtake.rollouts import diagonal, wavefront
from longtake.rollouts.diagonal import Diagonal
from longtake.rollouts.wavefront import Front


@dataclass(frozen=True, eq=False)
class MigaState:
    """Rows of both stages in one queue, those of the extra pass in `post`; `first`: the first row of all."""

    queue: Queue
    post: Queue
    tick: int
    head: int
    first: int
    path: int
    timeline: Timeline
    finished: bool = False

    @property
    def emitted(self) -> int:
        """Latents released so far; rows before 0 come from a given clip and are never released."""
        return max(self.head, 0)


@dataclass(frozen=True)
class Miga:
    """MIGA's two stages. `end` is the length for `stage2="batch"`, which needs one."""

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver = Solver()
    window: int = 12
    zigzag: int = 3
    handover: int = 5
    anchors: int = 4
    stride: int | None = None
    side: Side = "after"
    rotate: bool = False
    stage2: Literal["stream", "batch"] = "stream"
    refine: int = 0
    end: int | None = None

    def __post_init__(self) -> None:
        steps, room = self.schedule.num_steps, self.window - self.step_rows
        if not 0 <= self.handover <= steps:
            raise ValueError(f"miga.handover must be in 0..{steps} (the steps), got {self.handover}")
        if not 0 <= self.refine < steps:
            raise ValueError(f"miga.refine must be in 0..{steps - 1} (below the steps), got {self.refine}")
        if self.zigzag < 1:
            raise ValueError(f"miga.zigzag must be at least 1, got {self.zigzag}")
        if not 0 <= self.anchors <= room:
            raise ValueError(
                f"miga.anchors must be in 0..{room} (the window {self.window} less the stride), got {self.anchors}"
            )
        if self.stage2 not in ("stream", "batch"):
            raise ValueError(f"miga.stage2 must be stream or batch, got {self.stage2!r}")
        if self.stage2 == "batch" and (self.end is None or self.refine):
            raise ValueError("miga.stage2=batch needs a length and miga.refine=0; give --seconds, or use stage2=stream")
        _ = self.grid

    @property
    def step_rows(self) -> int:
        """Rows that a window writes: half a window unless given (Alg. 7, l. 5)."""
        return max(self.window // 2, 1) if self.stride is None else self.stride

    @property
    def grid(self) -> Grid:
        """How a sweep is cut."""
        return Grid(self.window, self.step_rows, self.side)

    @property
    def cycle(self) -> int:
        """Rows after which the pattern of windows repeats."""
        return lcm(self.zigzag, self.step_rows) * (self.step_rows if self.rotate else 1)

    @property
    def in_flight(self) -> int:
        """Rows of stage 1 and, at most, those that wait for their windows in stage 2."""
        waiting = ceil(self.window / self.step_rows) * self.step_rows
        rows = self.zigzag * (self.schedule.num_steps - self.handover + 1)
        return rows + (self.handover + self.refine) * waiting + (self.end or 0) * (self.stage2 == "batch")

    @property
    def reach(self) -> int:
        """Latents before row j that a change at row j can touch, in both stages."""
        return reach(self)

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[MigaState]:
        """Alg. 4: the last latents of `context` at the levels before the first group, which enters as noise."""
        path, z, top = root(seed), self.zigzag, self.schedule.num_steps
        room = max(z * (top - self.handover - 1), 0)
        kept = list(context)[max(len(context) - min(room, self.window), 0) :]
        levels = [(place, top + (place - len(kept)) // z) for place in range(len(kept))]
        rows = [noised_row(kept[p], level, p - len(kept), path, self.schedule) for p, level in levels]
        state = MigaState(Queue(tuple(rows)), Queue(()), 0, -len(kept), -len(kept), path, timeline)
        return nothing(self._admit(state))

    def step(self, state: MigaState) -> Step[tuple[MigaState, Emission]]:
        """Alg. 5: one pass over stage 1, whatever stage 2 can do behind it, release, a group of noise in."""
        if self.stage2 == "batch" and self._full(state):
            return (yield from self._unified(state))
        conds, queue = state.timeline.conds(state.head), state.queue
        if windows := self._stage1(state):
            queue = yield from denoise(queue, windows, self.solver, self.schedule, conds)
        front = self._front(state.first)
        for level in range(self.handover if self.stage2 == "stream" else 0, 0, -1):
            queue = yield from wavefront.advance(queue, level, front, self.solver, self.schedule, conds)
        done, post = [], state.post
        if self.stage2 == "stream":
            done, queue = self._finished(state, queue, post.stop if post.rows else state.head)
        if self.refine:
            done, post = yield from self._refined(state, done, front, conds)
        head = state.head + len(done)
        emission = Emission(state.emitted, tuple(row.x for row in done if row.index >= 0))
        return self._admit(replace(state, queue=queue, post=post, tick=state.tick + 1, head=head)), emission

    def guides(self, start: int, first: int) -> tuple[int, ...]:
        """Eq. 8: rows before `start` and from `first` on that its window reads as well."""
        m, z, prior = self.anchors, self.zigzag, start - first
        if m == 0 or prior < m:
            return ()
        if prior >= m * z:
            return tuple(start - max(z // 2, 1) - k * z for k in reversed(range(m)))
        return tuple(first + k * prior // m for k in range(m))

    def fresh(self, state: MigaState) -> range:
        """The group that has just entered."""
        unseen = diagonal.fresh(state)
        return range(max(unseen.start, unseen.stop - self.zigzag), unseen.stop) if unseen else unseen

    def fork(self, state: MigaState, key: int, mix: Mix | None = None, which: str = "fresh") -> MigaState:
        """Other noise for that group (or all in flight) and for every row to come."""
        return diagonal.fork(state, key, mix, which, self.fresh(state))

    def regrow(self, state: MigaState, first: int, key: int, guides: int) -> Step[MigaState]:
        """Alg. 6, l. 18-29: the rows from `first` on, of stage 1, grown again behind `guides` frozen ones."""
        line = Diagonal(self.shape, self.schedule, self.solver, self.grid, self.zigzag)
        return diagonal.regrow(line, state, first, key, guides)

    view = staticmethod(diagonal.view)

    def preview(self, state: MigaState, steps: int) -> Step[View]:
        """The newest window finished in `steps` calls, each row from its own level and behind the guides of stage 1.

        In stage 2 alone, where rows wait for their windows, it is the last rows that there are.
        """
        planned = self._stage1(state)
        read = planned[-1].read if planned else tuple(row.index for row in state.queue.rows[-self.window :])
        own = [index for place, index in enumerate(read) if read[-1] - index == len(read) - 1 - place]
        return diagonal.preview(state, read, own, (self.solver, self.schedule), steps)

    def _stage1(self, state: MigaState) -> list[Window]:
        rows = range(_leaves(state.queue, self.handover), state.queue.stop)
        if not rows:
            return []
        offset = rows.start + (state.tick % self.step_rows if self.rotate else 0)
        return sweep(rows, self.grid, offset, rows, lambda start: self.guides(start, rows.start), self.anchors)

    def _front(self, first: int) -> Front:
        return Front(self.grid, self.guides, self.anchors, self.anchors * self.zigzag, first, self.rotate)

    def _total(self) -> int:
        return ceil((self.end or 0) / self.zigzag) * self.zigzag

    def _full(self, state: MigaState) -> bool:
        # Alg. 5, l. 6: ceil(N / L_zig) groups have left stage 1
        return _leaves(state.queue, self.handover) >= self._total()

    def _unified(self, state: MigaState) -> Step[tuple[MigaState, Emission]]:
        # Alg. 5, l. 16-26, one sweep over all latents a tick
        rows = range(state.first, self._total())
        queue = replace(state.queue, rows=tuple(row for row in state.queue.rows if row.index in rows))
        level = max(row.level for row in queue.rows)
        if level:
            windows = self._front(state.first).windows(rows, rows, level)
            conds = state.timeline.conds(state.head)
            queue = yield from denoise(queue, windows, self.solver, self.schedule, conds)
        if any(row.level for row in queue.rows):
            return replace(state, queue=queue, tick=state.tick + 1), Emission(0)
        done = tuple(row.x for row in queue.rows if row.index >= 0)
        return replace(state, queue=queue, tick=state.tick + 1, head=rows.stop, finished=True), Emission(0, done)

    def _refined(
        self, state: MigaState, entering: Sequence[Row], front: Front, conds: wavefront.CondAt
    ) -> Step[tuple[list[Row], Queue]]:
        # the released code's extra pass: noise again, then unified sweeps with the solver's memory void
        post = state.post.appended(self._again(row, state.timeline) for row in entering)
        for level in range(self.refine, 0, -1):
            if post.rows:
                post = yield from wavefront.advance(post, level, front, self.solver, self.schedule, conds)
        return self._finished(state, post, state.head)

    def _finished(self, state: MigaState, queue: Queue, head: int) -> tuple[list[Row], Queue]:
        # the rows that reached level 0, from `head` on, and the queue without them. A row that is given was never at
        # the levels at which windows read it, so it stays, and what is behind it, while one may
        done = [row for row in takewhile(lambda row: row.level == 0, queue.rows) if row.index >= head]
        head += len(done)
        near = range(head - self._front(state.first).span_read, head)
        kept = [row.index for row in queue.rows if row.index in near and state.timeline.picture(row.index) is not None]
        return done, queue.since(min([head, *kept]))

    def _again(self, row: Row, timeline: Timeline) -> Row:
        if timeline.picture(row.index) is not None:
            return row
        return noised_row(row.x, self.refine, row.index, fold(row.path, "refine"), self.schedule)

    def _admit(self, state: MigaState) -> MigaState:
        # Alg. 5, l. 12-13: L_zig rows of noise at the tail
        top, start = self.schedule.num_steps, state.tick * self.zigzag
        indices, line = range(start, start + self.zigzag), state.timeline
        rows = [entering(line, self.shape, top, index, state.path) for index in indices]
        return replace(state, queue=state.queue.appended(rows))


def _leaves(queue: Queue, handover: int) -> int:
    """The first row that is still in stage 1."""
    return next((row.index for row in queue.rows if row.level > handover), queue.stop)
