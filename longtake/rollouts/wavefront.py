"""A wave of unified sweeps that follows the rows as they come: many sweeps over all latents, in constant memory.

A sweep at a unified level reads only rows of that level near its window. So a window may be evaluated as soon as the
rows that it reads have come down to the level, and need not wait for the end of the video: the sweeps of all levels run
behind each other along the timeline. The windows lie on one absolute grid, so the values are those of the sweeps over
the whole video (MIGA Alg. 5, l. 16-26), bit for bit.

What a later window still reads at a level that a row has left is kept in the queue's `old`, and nothing longer. A row
that is given (level 0 from the start) passes no level: it is read as it is, wherever in a cell of the grid it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from longtake.core.rows import Queue
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.core.step import CondAt, Step, denoise
from longtake.core.window import Grid, Window, sweep

FAR = 1 << 60

Guides = Callable[[int, int], Sequence[int]]
"""(first row of a window, first row of all) -> the rows far in front of it that it reads as well."""


@dataclass(frozen=True)
class Front:
    """How the sweeps are cut.

    guides  rows read in front, at most `most` a window and at most `span` rows before it
    first   the first row of the timeline (negative for warm-up rows)
    rotate  shift the grid by the level, so that seams of different levels do not meet
    """

    grid: Grid
    guides: Guides
    most: int
    span: int
    first: int
    rotate: bool = False

    @property
    def back(self) -> int:
        """Rows before those not yet written that a window may read."""
        behind = int(self.grid.size - self.grid.stride) if self.grid.side == "before" else 0
        return behind + self.span

    @property
    def span_read(self) -> int:
        """Rows before the first one not yet finished that a window of any level may read."""
        return self.back + int(self.grid.stride)

    def cell(self, row: int, level: int) -> int:
        """The first row of the grid's cell that holds `row`."""
        stride = int(self.grid.stride)
        return max(row - (row - self._offset(level)) % stride, self.first)

    def _offset(self, level: int) -> int:
        return level % int(self.grid.stride) if self.rotate else 0

    def windows(self, rows: range, limits: range, level: int) -> list[Window]:
        """The windows that write `rows` at `level` and read rows of `limits`."""
        offset = self._offset(level)

        def guides(start: int) -> Sequence[int]:
            return self.guides(start, limits.start)

        planned = sweep(rows, self.grid, offset, limits, guides, self.most)
        return [replace(window, level=level) for window in planned]


def advance(
    queue: Queue, level: int, front: Front, solver: Solver, schedule: NoiseSchedule, conds: CondAt
) -> Step[Queue]:
    """Move down one level every row at `level` whose window has come down to it whole."""
    come = next((row.index for row in queue.rows if row.level > level), queue.stop)
    # cells are written whole, so what lies before the first waiting row of its cell is given
    done = front.cell(next((row.index for row in queue.rows if row.level >= level), queue.stop), level)
    beyond = range(done, come + int(front.grid.stride) + 1)  # whole cells only: a cut one would not be on the grid
    ready: list[Window] = []
    for window in front.windows(beyond, range(front.first, FAR), level) if done < come else []:
        if max(*window.read, *window.write) >= come:
            break
        ready.append(window)
    if not ready:
        return queue
    left = max(window.write[-1] for window in ready) + 1
    written = [queue.at(index) for w in ready for index in w.write if index >= left - front.back]
    keep = {(row.index, level): row.x for row in written if row.level}
    moved = yield from denoise(queue, ready, solver, schedule, conds)
    old = {key: x for key, x in queue.old.items() if key[1] != level or key[0] >= left - front.back}
    return replace(moved, old=old | keep)
