"""FIFO-Diffusion: one row a level, one latent out and one noise in at every tick, for ever, from a short-clip model.

Kim et al. 2024, diagonal denoising with latent partitioning and lookahead denoising (Alg. 1, Sec. 4).
Symbols: f -> window, n -> partitions, S = T = n f -> schedule.num_steps, N -> latents wanted (the engine's affair).

Deviations from the paper and from its reference code
- every row really ends clean: the reference's last step is an identity that leaves 3 % noise
- eta is 0 by default; the reference runs DDIM with eta 1, which erases what a search has chosen
- a row keeps the prompt of its own place in time; the reference switches the whole queue at once
- `start="fanout"` (default) needs no base clip: the queue fills one row a tick. "replicate" is the reference's
  (Sec. 1.3): a base clip of S steps, its first latent repeated down the queue, S - f warm-up latents thrown away.
  Replicating from a user's clip repeats its last latent, so that the first latent out continues the clip.
- noise is keyed; windows of a sweep all read the state before it (the reference's visiting order comes to the same)

Cost in window calls (2 w a tick for lookahead, w without, w = partitions; a guidance pair counts 2)
- lookahead, replicate   S + (N + S - f) 2w - w (2w - 1), the last term what exact ending saves
- lookahead, fan-out     sum over r = 1..S of max(1, ceil(2r / f) - 1), + (N - 1) 2w - w (2w - 1)
  (odd f: max(1, floor(2 (r - 1) / f)), since half windows are cut at ceil(i f / 2))
Rows held: S, and f/2 finished ones for lookahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from torch import Tensor

from longtake.core.noise import fold, root
from longtake.core.rollout import Emission, Timeline, View
from longtake.core.rows import Queue, Row, clean_row, noise_row, noised_row
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.core.step import Step, denoise
from longtake.core.window import Grid, Side, Window
from longtake.rollouts import diagonal
from longtake.rollouts.diagonal import Diagonal, LineState


@dataclass(frozen=True)
class Fifo:
    """FIFO on a queue of num_steps = partitions x window rows.

    stride   rows that a window commits, default half a window (lookahead) or all of it
    side     which end of the window is committed: "before" reads cleaner rows in front of it (the paper's)
    history  finished rows that the first window still reads, default half a window (lookahead) or none
    end      no row from this index on enters: the queue shrinks at the end (`--set ending=shrink`); None: endless
    """

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver = Solver()
    window: int = 12
    lookahead: bool = True
    stride: int | None = None
    side: Side = "before"
    history: int | None = None
    start: Literal["fanout", "replicate"] = "fanout"
    end: int | None = None

    def __post_init__(self) -> None:
        steps, window = self.schedule.num_steps, self.window
        if steps % window:
            below, above = max(steps // window, 1) * window, (steps // window + 1) * window
            raise ValueError(
                f"fifo needs steps = partitions x window ({window}), got {steps} steps; use {below} or {above}"
            )
        if self.start not in ("fanout", "replicate"):
            raise ValueError(f"fifo.init must be fanout or replicate, got {self.start!r}")
        if self.history is not None and self.history < 0:
            raise ValueError(f"fifo.history must be at least 0, got {self.history}")
        _ = self.line  # checks stride and side

    @property
    def partitions(self) -> int:
        """n of the paper: windows that the queue holds side by side."""
        return self.schedule.num_steps // self.window

    @property
    def line(self) -> Diagonal:
        """The diagonal machine with FIFO's integers: group 1, period 1, cut from the head on."""
        half = Fraction(self.window, 2)
        stride = self.stride or (half if self.lookahead else self.window)
        kept = (self.window // 2 if self.lookahead else 0) if self.history is None else self.history
        return Diagonal(
            self.shape, self.schedule, self.solver, Grid(self.window, stride, self.side), history=kept, end=self.end
        )

    @property
    def in_flight(self) -> int:
        """The rows of the queue, history included."""
        return self.line.in_flight

    @property
    def reach(self) -> int:
        """Latents before row j that a change at row j can touch."""
        return self.line.reach

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[LineState]:
        """An empty queue behind `context`, or a full one made of a clip."""
        path = root(seed)
        if self.start == "fanout":
            return self.line.begin(path, timeline, context)
        if context:
            return self._replicated([context[-1]], -self.schedule.num_steps, path, timeline, context)
        clip = yield from self._base_clip(path, timeline)
        return self._replicated(clip, self.window - self.schedule.num_steps, path, timeline, clip[:1] * self.window)

    def step(self, state: LineState) -> Step[tuple[LineState, Emission]]:
        """One tick: every row one level down, the head out, noise in."""
        return self.line.step(state)

    def preview(self, state: LineState, steps: int) -> Step[View]:
        """The undecided rows finished in `steps` calls, for a search to look at."""
        return self.line.preview(state, steps)

    def regrow(self, state: LineState, first: int, key: int, guides: int) -> Step[LineState]:
        """The rows from `first` on grown again from other noise behind `guides` frozen ones."""
        return diagonal.regrow(self.line, state, first, key, guides)

    fresh = staticmethod(diagonal.fresh)
    fork = staticmethod(diagonal.fork)
    view = staticmethod(diagonal.view)

    def _base_clip(self, path: int, timeline: Timeline) -> Step[list[Tensor]]:
        # the released code: an ordinary clip of f latents with all S steps
        base, steps = fold(path, "base clip"), self.schedule.num_steps
        rows = tuple(noise_row(self.shape, steps, index, base) for index in range(self.window))
        queue, every = Queue(rows), tuple(range(self.window))
        for _ in range(steps):
            queue = yield from denoise(queue, [Window(every, every)], self.solver, self.schedule, timeline.cond)
        return [row.x for row in queue.rows]

    def _replicated(
        self, clip: Sequence[Tensor], first: int, path: int, timeline: Timeline, past: Sequence[Tensor]
    ) -> LineState:
        """The released code: rows `first`... at levels 1..S, the clip on the noisiest, its first latent before."""
        steps, kept = self.schedule.num_steps, self.line.history
        rows: list[Row] = []
        for place in range(steps):
            source, given = clip[max(0, place - (steps - len(clip)))], timeline.picture(first + place)
            noised = noised_row(source, place + 1, first + place, path, self.schedule)
            rows.append(noised if given is None else clean_row(given, noised.index, path))
        recent = list(past)[len(past) - min(kept, len(past)) :]
        before = [clean_row(x, first - len(recent) + place, path) for place, x in enumerate(recent)]
        # row i is at level S - (t - i): the row at level 1 tells the tick
        state = LineState(Queue((*before, *rows)), steps - 1 + first, first, 0, path, timeline)
        return state if rows[-1].index >= state.tick else replace(state, tick=rows[-1].index)
