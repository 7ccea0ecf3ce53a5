"""Copy this file to add a rollout: three integers on the shared machine, and the law kit to check it.

python examples/skeleton_rollout.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from longtake.core.rollout import Emission, Timeline
from longtake.core.schedule import NoiseSchedule, flow
from longtake.core.solvers import Solver
from longtake.core.step import Step
from longtake.core.window import Grid
from longtake.models.analytic import GaussianVideo
from longtake.rollouts import diagonal
from longtake.rollouts.diagonal import Diagonal, LineState
from longtake.testing import check_rollout


@dataclass(frozen=True)
class Pairs:
    """A queue in which rows enter two by two: group 2, period 2, windows that commit half of what they read."""

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver = Solver()
    window: int = 8

    @property
    def line(self) -> Diagonal:
        """The integers that make this method."""
        grid = Grid(self.window, self.window // 2)
        return Diagonal(self.shape, self.schedule, self.solver, grid, group=2, period=2)

    @property
    def in_flight(self) -> int:
        """Rows alive at once."""
        return self.line.in_flight

    @property
    def reach(self) -> int:
        """Latents before row j that a change at row j can touch."""
        return self.line.reach

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[LineState]:
        """Start empty."""
        return self.line.init(seed, timeline, context)

    def step(self, state: LineState) -> Step[tuple[LineState, Emission]]:
        """One tick."""
        return self.line.step(state)

    fresh = staticmethod(diagonal.fresh)
    fork = staticmethod(diagonal.fork)
    view = staticmethod(diagonal.view)


if __name__ == "__main__":
    schedule = flow(16, shift=3.0)
    rollout = Pairs((2, 3, 3), schedule)
    check_rollout(rollout, GaussianVideo(schedule, rollout.shape), other="a cat")
    print(f"every law holds; a prompt change reaches back {rollout.reach} latents")
