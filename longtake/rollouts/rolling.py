"""Diffusion forcing in blocks: inside a window every block starts `delay` steps after the one before it.

The asynchronous sampling of SkyReels-V2 (Chen et al. 2025, Sec. 3.4), on the idea of Diffusion Forcing (Chen et al.
2024) and Rolling Diffusion (Ruhe et al. 2024): earlier blocks are always cleaner, so later ones follow them. A window
is worked off before the next begins, which keeps the last `overlap` latents clean in front.

Symbols: ar_step -> delay, causal_block_size -> block, overlap_history -> overlap, base_num_frames -> window.
Two ends: delay 0 is `chunk`, bit for bit; delay S makes one block after the other, each seeing pure noise ahead.
Unlike `progressive`, rows that have not started are in the window too, as noise: the network sees its native length.

Cost: S + delay * (ceil(n / block) - 1) window calls for a window of n new latents (f, later f - overlap), exactly; an
unfinished last window stops when the block of the last latent is done. Rows held: f. Blocks are released when done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from longtake.core.noise import root
from longtake.core.plan import reach
from longtake.core.rollout import Emission, Mix, Timeline, View, entering
from longtake.core.rows import Queue, Row, clean_row
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Memory, Solver
from longtake.core.step import Step, denoise, nothing
from longtake.core.window import Window
from longtake.rollouts import diagonal


@dataclass(frozen=True, eq=False)
class RollingState:
    """One window. `start`: its first new row; `age`: its ticks so far; `head`: the next row to finish."""

    queue: Queue
    start: int
    age: int
    head: int
    path: int
    timeline: Timeline
    finished: bool = False

    @property
    def emitted(self) -> int:
        """Latents released so far."""
        return max(self.head, 0)


@dataclass(frozen=True)
class Rolling:
    """Windows of `window` latents in blocks of `block`, each `delay` steps behind the last."""

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver = Solver()
    window: int = 12
    block: int = 1
    delay: int = 2
    overlap: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.block <= self.window:
            raise ValueError(f"rolling.block must be in 1..{self.window} (the window), got {self.block}")
        if not 0 <= self.delay <= self.schedule.num_steps:
            raise ValueError(f"rolling.delay must be in 0..{self.schedule.num_steps} (the steps), got {self.delay}")
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"rolling.overlap must be in 0..{self.window - 1} (below the window), got {self.overlap}")

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
        """Latents before row j in the same window."""
        return reach(self)

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[RollingState]:
        """The first window as pure noise, behind the last `overlap` latents of `context`."""
        path, kept = root(seed), list(context)[len(context) - min(self.overlap, len(context)) :]
        rows = tuple(clean_row(x, place - len(kept), path) for place, x in enumerate(kept))
        return nothing(self._begun(rows, 0, path, timeline))

    def step(self, state: RollingState) -> Step[tuple[RollingState, Emission]]:
        """Every block that has started goes one level down; what is done is released, in order."""
        read = tuple(row.index for row in state.queue.rows)
        write = tuple(row.index for row in state.queue.rows if row.level and self._moves(row, state))
        conds = state.timeline.conds(state.head)
        queue = yield from denoise(state.queue, [Window(read, write)], self.solver, self.schedule, conds)
        head = next((row.index for row in queue.rows if row.level), queue.stop)
        done = [replace(row, memory=Memory()) for row in queue.rows if state.head <= row.index < head]
        queue = queue.replaced(done)
        emission = Emission(state.emitted, tuple(row.x for row in done))
        if head == queue.stop:
            rows = queue.rows[len(queue) - self.overlap :]
            return self._begun(rows, head, state.path, state.timeline), emission
        return replace(state, queue=queue, age=state.age + 1, head=head), emission

    def preview(self, state: RollingState, steps: int) -> Step[View]:
        """The window finished in `steps` calls, its blocks together: at so few steps there is no room for a delay."""
        read = tuple(row.index for row in state.queue.rows)
        return diagonal.preview(state, read, read, (self.solver, self.schedule), steps)

    def fresh(self, state: RollingState) -> range:
        """The new rows of a window that has not been read yet."""
        return range(state.start, state.queue.stop) if state.age == 0 else range(0)

    def fork(self, state: RollingState, key: int, mix: Mix | None = None, which: str = "fresh") -> RollingState:
        """Other noise for those rows (or all in flight) and for every window to come."""
        return diagonal.fork(state, key, mix, which, self.fresh(state))

    view = staticmethod(diagonal.view)

    def _moves(self, row: Row, state: RollingState) -> bool:
        return (row.index - state.start) // self.block * self.delay <= state.age

    def _begun(self, before: Sequence[Row], start: int, path: int, timeline: Timeline) -> RollingState:
        steps = self.schedule.num_steps
        stop = start + self.window - len(before)
        fresh = [entering(timeline, self.shape, steps, index, path) for index in range(start, stop)]
        return RollingState(Queue((*before, *fresh)), start, 0, start, path, timeline)
