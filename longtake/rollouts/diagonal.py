"""The machine that the diagonal methods share: one row of levels that slides along the timeline.

Row i enters as pure noise and is at level S - (t - period * (i // group)) at tick t. With different integers this is
one clip (`plain`), chunks, FIFO, PA-VDM, stage 1 of MIGA and diffusion forcing. A method's own file names its integers
after its paper and adds what is its own.

Cost: every tick is one Jacobi sweep over the rows in flight, `grid` says how it is cut into windows.
Rows held: those in flight, and `history` finished rows that windows still read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, TypeVar

from torch import Tensor

from longtake.core.noise import fold, root
from longtake.core.plan import reach
from longtake.core.rollout import Emission, Mix, Timeline, View, entering, view_of
from longtake.core.rows import Queue, Row, advance, clean_row
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Memory, Solver
from longtake.core.step import Step, call_of, denoise, nothing
from longtake.core.window import Grid, Window, sweep

AnyState = TypeVar("AnyState", bound=Any)
"""A state with `queue`, `path`, `timeline` and `emitted`."""


@dataclass(frozen=True, eq=False)
class LineState:
    """The rows alive and where they are.

    head   index of the next row to finish; rows before it are context at level 0
    lead   rows by which the first group is longer than the others
    path   keys the noise of rows to come
    """

    queue: Queue
    tick: int
    head: int
    lead: int
    path: int
    timeline: Timeline
    finished: bool = False

    @property
    def emitted(self) -> int:
        """Latents released so far; rows before 0 are context or warm-up and are never released."""
        return max(self.head, 0)


@dataclass(frozen=True)
class Diagonal:
    """A rollout by its integers.

    shape    (C, H, W) of a latent
    group    rows that share a level and enter together
    period   ticks between groups; None: only the first group ever enters
    grid     how a sweep is cut into windows, from the head on
    history  finished rows kept for windows to read
    fill     the first group also takes the places of history that is not there
    end      no row from this index on ever enters (PA-VDM Sec. 3.2: the window shrinks); None: endless
    """

    shape: tuple[int, int, int]
    schedule: NoiseSchedule
    solver: Solver
    grid: Grid
    group: int = 1
    period: int | None = 1
    history: int = 0
    fill: bool = False
    end: int | None = None

    @property
    def in_flight(self) -> int:
        """Rows above level 0, at most (a longer first group aside)."""
        steps = self.schedule.num_steps
        return self.group * (1 if self.period is None else -(-steps // self.period)) + self.history

    @property
    def cycle(self) -> int:
        """Rows after which the pattern of windows repeats."""
        return self.group

    @property
    def reach(self) -> int:
        """Latents before row j that a change at row j can touch."""
        return reach(self)

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[LineState]:
        """Start empty behind the last `history` latents of `context`; rows fan out from there, one group a period."""
        return nothing(self.begin(root(seed), timeline, context))

    def begin(self, path: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> LineState:
        """The state before the first tick, its first group already in the queue."""
        kept = list(context)[len(context) - min(self.history, len(context)) :]
        rows = [clean_row(x, place - len(kept), path) for place, x in enumerate(kept)]
        lead = self.history - len(kept) if self.fill else 0
        return self._admit(LineState(Queue(tuple(rows)), 0, 0, lead, path, timeline))

    def step(self, state: LineState) -> Step[tuple[LineState, Emission]]:
        """One tick: a sweep, release what reached level 0, let the next rows in."""
        conds = state.timeline.conds(state.head)
        queue = yield from denoise(state.queue, self.windows(state), self.solver, self.schedule, conds)
        done = list(takewhile(lambda row: row.level == 0, (row for row in queue.rows if row.index >= state.head)))
        head = self._whole(state, state.head + len(done))
        done = done[: head - state.head]
        emission = Emission(state.emitted, tuple(row.x for row in done if row.index >= 0))
        if done:
            # finished rows are read as they are: their solver memory is spent
            queue = queue.replaced(replace(row, memory=Memory()) for row in done).since(head - self.history)
        return self._admit(replace(state, queue=queue, tick=state.tick + 1, head=head)), emission

    def fresh(self, state: LineState) -> range:
        """Rows that have just entered and that no network has read."""
        return fresh(state)

    def fork(self, state: LineState, key: int, mix: Mix | None = None, which: str = "fresh") -> LineState:
        """Other noise for the fresh rows (or all in flight) and for every row to come; key 0 is the state itself."""
        return fork(state, key, mix, which)

    def view(self, state: LineState) -> View:
        """Rows in flight that have been seen."""
        return view(state)

    def preview(self, state: LineState, steps: int) -> Step[View]:
        """The newest window finished in `steps` calls: `preview` of the last rows that fit in one."""
        read = tuple(row.index for row in state.queue.rows[-self.grid.size :])
        return preview(state, read, read, (self.solver, self.schedule), steps)

    def windows(self, state: LineState) -> list[Window]:
        """The windows of the coming sweep."""
        rows = range(state.head, state.queue.stop)
        return sweep(rows, self.grid, state.head, range(state.queue.start, state.queue.stop))

    def _whole(self, state: LineState, stop: int) -> int:
        # a group is released together, also where its first rows were given and are done before the others
        if self.end is not None and stop >= self.end:
            return stop
        if self.period is None:  # one clip, shorter by the context in front
            return stop if stop >= state.queue.stop else state.head
        return max(stop - (stop - state.lead) % self.group, state.head)

    def _admit(self, state: LineState) -> LineState:
        # level(i, t) = S - (t - period * (i // group)): group g enters at tick period * g
        if self.period is None:
            if state.tick > 0:
                return replace(state, finished=not any(row.level for row in state.queue.rows))
            groups = 1
        else:
            groups = state.tick // self.period + 1
        stop = state.lead + groups * self.group
        if self.end is not None and stop >= self.end:
            stop = self.end
            state = replace(state, finished=state.head >= self.end)
        start = state.queue.stop if state.queue.rows else state.head
        steps, line = self.schedule.num_steps, state.timeline
        rows = [entering(line, self.shape, steps, index, state.path) for index in range(start, stop)]
        return replace(state, queue=state.queue.appended(rows)) if rows else state


def fresh(state: AnyState) -> range:
    """`Rollout.fresh` of every method on this machine."""
    unseen = [row.index for row in state.queue.rows if not row.seen]
    return range(unseen[0], unseen[-1] + 1) if unseen else range(0)


def fork(
    state: AnyState, key: int, mix: Mix | None = None, which: str = "fresh", undecided: range | None = None
) -> AnyState:
    """`Rollout.fork` of every method on this machine; `undecided` where those are not the unseen rows."""
    if which not in ("fresh", "flight"):
        raise ValueError(f"which must be 'fresh' or 'flight', got {which!r}")
    if key == 0:
        return state
    decided = fresh(state) if undecided is None else undecided
    flight = [row for row in state.queue.rows if row.level > 0]
    rows = [_forked(row, key, mix, which) for row in flight if which == "flight" or row.index in decided]
    return replace(state, queue=state.queue.replaced(rows), path=fold(state.path, "fork", key))


def view(state: AnyState) -> View:
    """`Rollout.view` of every method on this machine."""
    return view_of(state.queue.rows, state.timeline)


def preview(
    state: Any,
    read: Sequence[int],
    write: Sequence[int],
    by: tuple[Solver, NoiseSchedule],
    steps: int,
    told: Callable[[Queue], Queue] = lambda queue: queue,
) -> Step[View]:
    """One window, rows `read`, finished in `steps` calls on a coarse grid of levels and from the same noise.

    Rows go down in proportion to their levels, so that one level, as in a clip, is an ordinary short schedule (k-step
    paper, Alg. 1 l. 10), and one step of any rows is their estimate (ScalingNoise Eq. 6). No noise is drawn: a
    stochastic solver's few large steps from one noise would lead elsewhere than its many small ones. `told` is what a
    call is shown of the queue.
    """
    queue, schedule, conds = state.queue, by[1], state.timeline.conds(state.head)
    moving = {index: queue.at(index).level for index in write if queue.at(index).level > 0}
    solver = Solver() if by[0].noise_scale else by[0]
    for left in range(steps - 1, -1, -1):
        to = {index: level * left // steps for index, level in moving.items()}
        moved = tuple(index for index in moving if to[index] < queue.at(index).level)
        if not moved:
            continue
        (x0,) = yield [call_of(told(queue), Window(tuple(read), moved), conds(moved))]
        estimates = dict(zip(read, x0, strict=True))
        rows = [queue.at(index) for index in moved]
        tos = [to[index] for index in moved]
        queue = queue.replaced(advance(rows, [estimates[index] for index in moved], tos, solver, schedule))
    return finished_view([queue.at(index) for index in moving], state.timeline)


def finished_view(rows: Sequence[Row], timeline: Timeline) -> View:
    """The view of a preview: its rows as if they were done."""
    x = tuple(row.x for row in rows)
    conds = tuple(timeline.at(row.index) for row in rows)
    return View(tuple(row.index for row in rows), x, x, (0,) * len(rows), conds)


def regrow(line: Diagonal, state: AnyState, first: int, key: int, guides: int) -> Step[AnyState]:
    """MIGA Alg. 6, l. 18-29: the rows from `first` on once more from other noise, back to the levels that they have.

    Rows enter one level after the other as they did, and only they move; up to `guides` rows in front are read as they
    are now. Windows read cleaner rows first, so that the guides are seen. A row that is given enters with the one
    before it and stays as it is.
    """
    targets = [row for row in state.queue.rows if row.index >= first]
    steps, grid = line.schedule.num_steps, replace(line.grid, side="before")
    limit = max(first - guides, state.queue.start)
    queue = replace(state.queue, rows=tuple(row for row in state.queue.rows if limit <= row.index < first))
    conds = state.timeline.conds(state.emitted)
    passed = [0 if row.level == 0 else steps - row.level for row in targets]
    for place, row in enumerate(targets):
        passed[place] = passed[place - 1] if row.level == 0 and place else passed[place]
    for tick in range(max(passed), -1, -1):
        entering = [row for row, ticks in zip(targets, passed, strict=True) if ticks >= tick]
        entering = [row for row in entering if row.index not in range(limit, _stop(queue, first))]
        queue = queue.appended(replace(row.redraw(key), level=steps) if row.level else row for row in entering)
        if tick:
            windows = sweep(range(first, queue.stop), grid, first, range(queue.start, queue.stop))
            queue = yield from denoise(queue, windows, line.solver, line.schedule, conds)
    return replace(state, queue=state.queue.replaced(row for row in queue.rows if row.index >= first))


def _stop(queue: Queue, default: int) -> int:
    return queue.stop if queue.rows else default


def _forked(row: Row, key: int, mix: Mix | None, which: str) -> Row:
    # new noise for the row, or (in flight, no mix) only for the draws still ahead of it
    drawn = row.redraw(key)
    if mix is not None:
        return replace(drawn, x=mix(row, drawn.x), level=row.level)
    return replace(row, path=drawn.path) if which == "flight" else replace(drawn, level=row.level)
