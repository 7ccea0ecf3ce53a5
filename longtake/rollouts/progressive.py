"""PA-VDM: the window is the queue. F rows of rising noise, one network call a tick, a clean chunk kept in front.

Xie et al. 2025, "Progressive Autoregressive Video Diffusion Models": progressive levels (Eq. 7, 8; Alg. 1), variable
length (Sec. 3.2), chunked frames (Sec. 3.3), overlapped conditioning (Sec. 3.4).
Symbols: F -> window (the noisy rows), S -> schedule.num_steps, C -> chunk, the clean chunk of Sec. 3.4 -> prefix.
The network reads F + prefix rows, so the window is the model's own less the prefix.

Any integer ratio (Sec. 3.1): a chunk enters every S C / F ticks. F a multiple of S makes F / S rows share a level (C is
then that many, where the chunk is less); S a multiple of F shifts every S / F ticks.

`lead="first"` puts the video's own first latent in the place of the oldest clean row (rollouts/leading): on pocket the
place and the colours stay nearer to the beginning (benchmarks/position0.py). Off by default, as in `chunk`.

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
from typing import Literal

from torch import Tensor

from longtake.core.rollout import Emission, Timeline, View
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.core.step import Step
from longtake.core.window import Grid
from longtake.rollouts import diagonal
from longtake.rollouts.diagonal import Diagonal, LineState
from longtake.rollouts.leading import LedState, begun, led, noted, unled


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
    lead: Literal["last", "first"] = "last"

    def __post_init__(self) -> None:
        steps, window = self.schedule.num_steps, self.window
        if self.chunk < 1 or window % self.chunk:
            raise ValueError(f"progressive.chunk must divide progressive.window ({window}), got {self.chunk}")
        if self.prefix < 0:
            raise ValueError(f"progressive.prefix must be at least 0, got {self.prefix}")
        if not fits(steps, window, self.chunk):
            below, above = fitting_steps(steps, window, self.chunk)
            raise ValueError(
                f"progressive needs chunks ({self.chunk}) that enter at whole ticks of a window of {window}, "
                f"got {steps} steps; use {below} or {above}"
            )
        if self.lead not in ("last", "first"):
            raise ValueError(f"progressive.lead must be last or first, got {self.lead!r}")
        if self.lead == "first" and not self.prefix:
            raise ValueError(
                "progressive.lead=first needs a clean row to exchange; give progressive.prefix of 1 or more"
            )

    @property
    def group(self) -> int:
        """Rows that share a level: a chunk, or all F / S rows of a level where F is a multiple of S."""
        return _group(self.schedule.num_steps, self.window, self.chunk)

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
        state = yield from self.line.init(seed, timeline, context)
        return begun(state, LedState, context) if self.lead == "first" else state

    def step(self, state: LineState) -> Step[tuple[LineState, Emission]]:
        """Alg. 1, l. 5-8: all rows one level down; at the end of a period a chunk out and a chunk in."""
        if self.lead == "last":
            return (yield from self.line.step(state))
        following, emission = yield from self.line.step(led(state))
        return noted(unled(state, following), emission), emission

    def preview(self, state: LineState, steps: int) -> Step[View]:
        """All noisy rows finished in `steps` calls, each from its own level, for a search to look at."""
        return self.line.preview(led(state) if self.lead == "first" else state, steps)

    def regrow(self, state: LineState, first: int, key: int, guides: int) -> Step[LineState]:
        """The rows from `first` on grown again from other noise behind `guides` frozen ones."""
        return diagonal.regrow(self.line, state, first, key, guides)

    fresh = staticmethod(diagonal.fresh)
    fork = staticmethod(diagonal.fork)
    view = staticmethod(diagonal.view)


def _group(steps: int, window: int, chunk: int) -> int:
    return max(chunk, window // steps)


def fits(steps: int, window: int, chunk: int = 1) -> bool:
    """Whether chunks enter at whole ticks and share their level."""
    group = _group(steps, window, chunk)
    return group % chunk == 0 and steps * group % window == 0


def fitting_steps(steps: int, window: int, chunk: int = 1) -> tuple[int, int]:
    """The nearest numbers of steps below and above that fit; the one above twice if there is none below."""
    above = next(many for many in range(steps + 1, steps + window + 1) if fits(many, window, chunk))
    return next((many for many in range(steps - 1, 0, -1) if fits(many, window, chunk)), above), above
