"""One clip, as the model makes it: all rows at one level, one window, S steps.

The base that every other method is measured against; equals the stock pipeline on the same noise.
Cost: S window calls for N latents (exactly), with a guidance pair 2 S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from longtake.core.rollout import Emission, Timeline, View
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.core.step import Step
from longtake.core.window import Grid
from longtake.rollouts import diagonal
from longtake.rollouts.diagonal import Diagonal, LineState


@dataclass(frozen=True)
class Plain:
    """One clip of `window` latents, clean `context` rows of a picture or clip counted in.

    With context the clip has that many latents fewer to make: they are read at level 0 and not emitted again.
    """

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver = Solver()
    window: int = 12

    @property
    def line(self) -> Diagonal:
        """The diagonal machine with this clip's integers."""
        return self._line(0)

    def _line(self, context: int) -> Diagonal:
        if context >= self.window:
            raise ValueError(f"context of {context} latents fills the window of {self.window}; give fewer or use chunk")
        grid = Grid(self.window, self.window)
        return Diagonal(self.shape, self.schedule, self.solver, grid, self.window - context, None, context)

    @property
    def in_flight(self) -> int:
        """The whole clip."""
        return self.window

    @property
    def reach(self) -> int:
        """Every latent of a clip depends on every other."""
        return self.window - 1

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[LineState]:
        """The clip as pure noise, behind `context`."""
        return self._line(len(context)).init(seed, timeline, context)

    def step(self, state: LineState) -> Step[tuple[LineState, Emission]]:
        """All rows one level down."""
        return self.line.step(state)

    def preview(self, state: LineState, steps: int) -> Step[View]:
        """The undecided rows finished in `steps` calls, for a search to look at."""
        return self.line.preview(state, steps)

    fresh = staticmethod(diagonal.fresh)
    fork = staticmethod(diagonal.fork)
    view = staticmethod(diagonal.view)
