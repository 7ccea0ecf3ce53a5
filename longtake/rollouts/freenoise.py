"""FreeNoise: context windows over noise that repeats, shuffled, so that distant windows begin alike.

Qiu et al. 2023, "FreeNoise": noise rescheduling (Sec. 3.2) and window fusion (Sec. 3.3). Rows beyond the first window
take the noise of the rows one window earlier, in groups whose order is shuffled; windows overlap by all but a stride
and are fused by a pyramid of weights.

Symbols: N_train -> window, S (window stride) -> window - overlap, shuffle unit -> shuffle.
Deviation: the paper fuses inside the temporal attention layers of a U-Net, in one pass over all frames. Here the
estimates of whole windows are fused, which any network can do, transformers with 3-D attention included; it costs
a call a window where theirs runs the rest of the network once.
Cost: S * (ceil((N - f) / (f - overlap)) + 1) window calls for N >= f latents, exactly. Rows held: all N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from longtake.core.noise import fold, normal, root
from longtake.core.rollout import Emission, Mix, Timeline, View
from longtake.core.rows import Row, clean_row
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.core.step import Step, nothing
from longtake.rollouts import diagonal
from longtake.rollouts.diagonal import LineState
from longtake.rollouts.fixed import Fixed, Fuse


def sources(num: int, window: int, group: int, path: int) -> list[int]:
    """For each row the row of the first window whose noise it has: each later window permutes the one before by groups.

    FreeNoise Sec. 3.2: the group at rows i..i+group is the group one window earlier, shuffled.
    """
    found = list(range(min(num, window)))
    while len(found) < num:
        start = len(found)
        size = min(group, window - start % window)  # groups do not straddle windows
        order = sorted(range(size), key=lambda place: fold(path, "shuffle", start, place))
        found.extend(found[start - window + place] for place in order)
    return found[:num]


@dataclass(frozen=True)
class FreeNoise:
    """A video of `num_latents` latents. Defaults after the paper: stride and shuffled groups of a quarter window."""

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver = Solver()
    window: int = 12
    num_latents: int = 48
    overlap: int | None = None
    fuse: Fuse = "pyramid"
    shuffle: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.group <= self.window:
            raise ValueError(f"freenoise.shuffle must be in 1..{self.window} (the window), got {self.group}")
        _ = self.machine

    @property
    def group(self) -> int:
        """Rows that are shuffled among themselves."""
        return max(self.window // 4, 1) if self.shuffle is None else self.shuffle

    @property
    def machine(self) -> Fixed:
        """What all fixed-length methods share."""
        overlap = self.window - max(self.window // 4, 1) if self.overlap is None else self.overlap
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
        """All rows with their repeated noise, behind `context`."""
        path = root(seed)
        given = [(row, timeline.picture(row.index)) for row in self._rows(path)]
        rows = [row if x is None else clean_row(x, row.index, path) for row, x in given]
        return nothing(self.machine.begin(rows, path, timeline, context))

    def step(self, state: LineState) -> Step[tuple[LineState, Emission]]:
        """All rows one level down."""
        return self.machine.step(state)

    def preview(self, state: LineState, steps: int) -> Step[View]:
        """The whole video in `steps` sweeps, for a search to look at."""
        return self.machine.preview(state, steps)

    fresh = staticmethod(diagonal.fresh)
    view = staticmethod(diagonal.view)

    def fork(self, state: LineState, key: int, mix: Mix | None = None, which: str = "fresh") -> LineState:
        """Other noise, repeated in the same way; row by row it would no longer repeat."""
        if key == 0 or which == "flight" or not self.fresh(state):
            return diagonal.fork(state, key, mix, which)
        path = fold(state.path, "fork", key)
        drawn = [row for row in self._rows(path) if state.queue.at(row.index).level]
        rows = [replace(row, x=mix(state.queue.at(row.index), row.x)) if mix else row for row in drawn]
        return replace(state, queue=state.queue.replaced(rows), path=path)

    def _rows(self, path: int) -> list[Row]:
        drawn = [normal(self.shape, path, "init", index) for index in range(min(self.window, self.num_latents))]
        found = sources(self.num_latents, self.window, self.group, path)
        # copies: windows that happen to begin alike would be evaluated once, and the cost would depend on the seed
        return [Row(drawn[source].clone(), self.schedule.num_steps, index, path) for index, source in enumerate(found)]
