"""PA-VDM: the window is the queue. F rows of rising noise, one network call a tick, a clean chunk kept in front.

Xie et al. 2025, "Progressive Autoregressive Video Diffusion Models": progressive levels (Eq. 7, 8; Alg. 1), variable
length (Sec. 3.2), chunked frames (Sec. 3.3), overlapped conditioning (Sec. 3.4).
Symbols: F -> window (the noisy rows), S -> schedule.num_steps, C -> chunk, the clean chunk of Sec. 3.4 -> prefix.
The network reads F + prefix rows, so the window is the model's own less the prefix.

Any integer ratio (Sec. 3.1): a chunk enters every S C / F ticks. F a multiple of S with C = 1 makes F / S rows share a
level; S a multiple of F shifts every S / F ticks.

Deviations
- starts from text alone by growing the window from one chunk (Sec. 3.2); the released code needs a clip (Alg. 1)
- a given clip is kept as the clean prefix instead of being noised and made again: its own latents are not emitted twice
- endless by default. `end` (`--set ending=shrink`) is the termination of Sec. 3.2: no row enters behind the last, so
  the last window shrinks, and the last F latents differ from those of a longer video
- levels are indices into the model's own schedule, so they are linear in time only where that schedule is (Eq. 7)

Cost: one window call a tick, S + p (ceil(N / C) - 1) for N latents with p = S C / F; p / C calls a latent once running,
each of F + prefix rows, so overlapped conditioning adds prefix / F. F = S: 1 call a latent; 2 F = S: 2; F = 2 S: 1/2.
Rows held: F + prefix. First latents after S calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from torch import Tensor

from longtake.core.rollout import Emission, Timeline, View
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.core.step import Step
from longtake.core.window import Grid
from longtake.rollouts import diagonal
from longtake.rollouts.diagonal import Diagonal, LineState


@dataclass(frozen=True)
class Progressive:
    """PA-VDM with `window` noisy rows in chunks of `chunk`, behind `prefix` clean ones."""

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver = Solver()
    window: int = 11
    chunk: int = 1
    prefix: int = 1
    end: int | None = None

    def __post_init__(self) -> None:
        steps, window = self.schedule.num_steps, self.window
        if self.chunk < 1 or window % self.chunk:
            raise ValueError(f"progressive.chunk must divide progressive.window ({window}), got {self.chunk}")
        if self.prefix < 0:
            raise ValueError(f"progressive.prefix must be at least 0, got {self.prefix}")
        if steps * self.group % window:
            unit = window // gcd(window, self.group)
            below = max(steps // unit, 1) * unit
            raise ValueError(
                f"progressive needs steps x chunk ({self.chunk}) to be a multiple of the window ({window}), "
                f"got {steps} steps; use {below} or {below + unit}"
            )

    @property
    def group(self) -> int:
        """Rows that share a level: a chunk, or all F / S rows of a level where F is a multiple of S."""
        return max(self.chunk, self.window // self.schedule.num_steps)

    @property
    def period(self) -> int:
        """Ticks between chunks."""
        return self.schedule.num_steps * self.group // self.window

    @property
    def line(self) -> Diagonal:
        """The diagonal machine: one window over all rows and the clean prefix."""
        size = self.window + self.prefix
        return Diagonal(
            self.shape, self.schedule, self.solver, Grid(size, size), self.group, self.period, self.prefix, end=self.end
        )

    @property
    def cycle(self) -> int:
        """Rows after which the pattern repeats."""
        return self.group

    @property
    def in_flight(self) -> int:
        """The noisy rows and the prefix."""
        return self.window + self.prefix

    @property
    def reach(self) -> int:
        """Latents before row j that a change at row j can touch."""
        return self.line.reach

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[LineState]:
        """Sec. 3.2: one noisy chunk, behind the last `prefix` latents of `context`."""
        return self.line.init(seed, timeline, context)

    def step(self, state: LineState) -> Step[tuple[LineState, Emission]]:
        """Alg. 1, l. 5-8: all rows one level down; at the end of a period a chunk out and a chunk in."""
        return self.line.step(state)

    def preview(self, state: LineState, steps: int) -> Step[View]:
        """All noisy rows finished in `steps` calls, each from its own level, for a search to look at."""
        return self.line.preview(state, steps)

    def regrow(self, state: LineState, first: int, key: int, guides: int) -> Step[LineState]:
        """The rows from `first` on grown again from other noise behind `guides` frozen ones."""
        return diagonal.regrow(self.line, state, first, key, guides)

    fresh = staticmethod(diagonal.fresh)
    fork = staticmethod(diagonal.fork)
    view = staticmethod(diagonal.view)
