"""Context windows: a video of fixed length, denoised at one level by overlapping windows that are fused at every step.

Gen-L-Video (Wang et al. 2023, Sec. 3.3: temporal co-denoising) averages the overlaps uniformly and is `fuse=uniform`,
under its own name too; the context windows of AnimateDiff-Evolved and ComfyUI weigh them by a pyramid, which is the
default; `linear` cross-fades over the overlap alone.

Symbols of Gen-L-Video: M -> window, S (its stride) -> window - overlap, N -> num_latents.
Deviation: the estimates of the clean latents are fused, not the noise; with one level for all rows both are the same.
Cost: S * (ceil((N - f) / (f - overlap)) + 1) window calls for N >= f latents, exactly; S for fewer.
Rows held: all N, so this streams nothing and its memory grows with the video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from longtake.core.noise import root
from longtake.core.rollout import Emission, Timeline, View, entering
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.core.step import Step, nothing
from longtake.rollouts import diagonal
from longtake.rollouts.diagonal import LineState
from longtake.rollouts.fixed import Fixed, Fuse


@dataclass(frozen=True)
class Windows:
    """A video of `num_latents` latents by windows of `window` that share `overlap` rows, half of them by default."""

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver = Solver()
    window: int = 12
    num_latents: int = 48
    overlap: int | None = None
    fuse: Fuse = "pyramid"

    def __post_init__(self) -> None:
        _ = self.machine

    @property
    def machine(self) -> Fixed:
        """What all fixed-length methods share."""
        overlap = self.window // 2 if self.overlap is None else self.overlap
        return Fixed(self.shape, self.schedule, self.solver, self.num_latents, self.window, overlap, self.fuse)

    @property
    def in_flight(self) -> int:
        """The whole video."""
        return self.num_latents

    @property
    def reach(self) -> int:
        """Every latent may depend on every other."""
        return self.num_latents - 1

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[LineState]:
        """All rows as pure noise, behind `context`."""
        path, steps = root(seed), self.schedule.num_steps
        rows = [entering(timeline, self.shape, steps, index, path) for index in range(self.num_latents)]
        return nothing(self.machine.begin(rows, path, timeline, context))

    def step(self, state: LineState) -> Step[tuple[LineState, Emission]]:
        """All rows one level down."""
        return self.machine.step(state)

    def preview(self, state: LineState, steps: int) -> Step[View]:
        """The whole video in `steps` sweeps, for a search to look at."""
        return self.machine.preview(state, steps)

    fresh = staticmethod(diagonal.fresh)
    fork = staticmethod(diagonal.fork)
    view = staticmethod(diagonal.view)
