"""Replacement: clip after clip, the last latents of one held in the window of the next while it is denoised.

The two baselines of PA-VDM (Xie et al. 2025, Sec. 2.2). `noise=True` is replacement with noise (Eq. 6; Ho et al. 2022,
"Video Diffusion Models", Sec. 3.1): at every step the held latents are noised afresh to the level of the others, so a
network call sees one level only and any model will do. `noise=False` is replacement without noise (Eq. 5): they stay
clean and are told as level 0, which is what `chunk` with a latent join does, bit for bit.

Symbols: E -> overlap, F -> window, S -> schedule.num_steps.
Deviation: Eq. 5 leaves open what a network is told of clean rows; here level 0, as in training with clean first frames.
Cost: as chunk, exactly S * (1 + ceil((N - F) / (F - E))) window calls for N >= F latents. Rows held: F.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from longtake.core.noise import normal
from longtake.core.rollout import Emission, Timeline, View
from longtake.core.rows import Queue, Row
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.core.step import Step
from longtake.core.window import Grid
from longtake.rollouts import diagonal
from longtake.rollouts.diagonal import Diagonal, LineState


@dataclass(frozen=True)
class Replace:
    """Clips of `window` latents, the first `overlap` of each being the last of the one before."""

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver = Solver()
    window: int = 12
    overlap: int = 2
    noise: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"replace.overlap must be in 0..{self.window - 1} (below the window), got {self.overlap}")

    @property
    def line(self) -> Diagonal:
        """The diagonal machine: a whole clip's rows share a level, and the next enter when they are done."""
        grid, period = Grid(self.window, self.window), self.schedule.num_steps
        group = self.window - self.overlap
        return Diagonal(self.shape, self.schedule, self.solver, grid, group, period, self.overlap, fill=True)

    @property
    def cycle(self) -> int:
        """Rows after which the pattern repeats."""
        return self.window - self.overlap

    @property
    def in_flight(self) -> int:
        """One window."""
        return self.window

    @property
    def reach(self) -> int:
        """Latents before row j in the same clip."""
        return self.line.reach

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[LineState]:
        """The first clip as pure noise, behind the last `overlap` latents of `context`."""
        return self.line.init(seed, timeline, context)

    def step(self, state: LineState) -> Step[tuple[LineState, Emission]]:
        """Eq. 6 (or 5): held latents at the level of the rest (or clean), the rest one level down."""
        if not self.noise:
            return (yield from self.line.step(state))
        held = [row for row in state.queue.rows if row.index < state.head]
        following, emission = yield from self.line.step(replace(state, queue=self._told(state.queue, state.head)))
        kept = [row for row in held if row.index >= following.queue.start]
        return replace(following, queue=following.queue.replaced(kept)), emission

    def preview(self, state: LineState, steps: int) -> Step[View]:
        """The undecided rows finished in `steps` calls, the held ones noised at each as in a step."""
        if not self.noise:
            return self.line.preview(state, steps)
        read = tuple(row.index for row in state.queue.rows)
        told = partial(self._told, head=state.head)
        return diagonal.preview(state, read, read, (self.solver, self.schedule), steps, told)

    fresh = staticmethod(diagonal.fresh)
    fork = staticmethod(diagonal.fork)
    view = staticmethod(diagonal.view)

    def _told(self, queue: Queue, head: int) -> Queue:
        level = max(row.level for row in queue.rows)
        return queue.replaced(self._noised(row, level) for row in queue.rows if row.index < head)

    def _noised(self, row: Row, level: int) -> Row:
        # drawn anew at every level: x0 is known, so each is an exact draw of q(x_level | x0)
        eps = normal(row.x.shape, row.path, "replace", row.index, level).to(row.x)
        return replace(row, x=self.schedule.alphas[level] * row.x + self.schedule.sigmas[level] * eps, level=level)
