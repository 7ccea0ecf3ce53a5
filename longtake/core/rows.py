"""Rows and queues: the values that every method moves along its timeline.

A row is one latent frame with all its baggage (level, path, solver memory). It is immutable: branching shares rows,
and the identity of a row's tensor is what makes equal network calls recognisable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from longtake.core.noise import fold, normal
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Memory, Solver, combine


@dataclass(frozen=True, eq=False)
class Row:
    """One latent frame: x is (C, H, W); `index` is its place in time, negative for context and warm-up.

    `path` keys every draw of this row. `seen` says that a network has read it, so that a reward may.
    """

    x: Tensor
    level: int
    index: int
    path: int
    memory: Memory = Memory()
    seen: bool = False

    def redraw(self, key: int) -> Row:
        """The same place in time with other noise: path folded, memory void."""
        path = fold(self.path, "fork", key)
        return Row(normal(self.x.shape, path, "init", self.index).to(self.x.device), self.level, self.index, path)


@dataclass(frozen=True, eq=False)
class Queue:
    """Rows in order of time, contiguous in `index`. `old` holds earlier versions that later windows still read."""

    rows: tuple[Row, ...]
    old: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def start(self) -> int:
        """The index of the first row."""
        return self.rows[0].index

    @property
    def stop(self) -> int:
        """One past the index of the last row."""
        return self.rows[-1].index + 1

    def at(self, index: int) -> Row:
        """The row at an absolute index."""
        return self.rows[index - self.start]

    def read(self, index: int, level: int = -1) -> tuple[Tensor, int]:
        """(x, level) of a row as it is, or as it was at `level`."""
        if (index, level) in self.old:
            return self.old[index, level], level
        row = self.at(index)
        if level not in (-1, row.level) and row.level:  # a given row is clean at every level
            raise ValueError(f"row {index} is at level {row.level} and nothing kept it at {level}")
        return row.x, row.level

    def replaced(self, rows: Iterable[Row]) -> Queue:
        """The queue with these rows in the places of those of equal index."""
        new = {row.index: row for row in rows}
        return replace(self, rows=tuple(new.get(row.index, row) for row in self.rows))

    def since(self, index: int) -> Queue:
        """The queue without the rows before `index`."""
        return replace(self, rows=tuple(row for row in self.rows if row.index >= index))

    def appended(self, rows: Iterable[Row]) -> Queue:
        """The queue with `rows` behind its last."""
        return replace(self, rows=(*self.rows, *rows))


def clean_row(x: Tensor, index: int, path: int) -> Row:
    """A row of context, or one that is given: level 0, read and never written."""
    return Row(x, 0, index, path, seen=True)


def noise_row(shape: Sequence[int], level: int, index: int, path: int) -> Row:
    """A row that enters the timeline as pure noise."""
    return Row(normal(shape, path, "init", index), level, index, path)


def noised_row(x0: Tensor, level: int, index: int, path: int, schedule: NoiseSchedule) -> Row:
    """A clean latent forward-noised to `level` with the row's own initial noise."""
    eps = normal(x0.shape, path, "init", index).to(x0)
    return Row(schedule.alphas[level] * x0 + schedule.sigmas[level] * eps, level, index, path)


def advance(
    rows: Sequence[Row], x0s: Sequence[Tensor], tos: Sequence[int], solver: Solver, schedule: NoiseSchedule
) -> list[Row]:
    """Move each row to its target level with its own estimate x0 (C, H, W), memory and noise."""
    if x0s and not x0s[0].numel():  # latents without channels, as plans use: nothing to compute
        parts = zip(rows, x0s, tos, strict=True)
        return [
            Row(row.x.clone(), to, row.index, row.path, solver.remember(row.memory, x0, row.level), seen=True)
            for row, x0, to in parts
        ]
    plans = [solver.plan(schedule, row.level, to, row.memory) for row, to in zip(rows, tos, strict=True)]
    basis = [_basis(row, x0) for row, x0 in zip(rows, x0s, strict=True)]
    samples = combine([plan.next for plan in plans], basis)
    starts = combine([plan.start for plan in plans if plan.start], basis) if plans[0].start else [None] * len(rows)
    moved = []
    for row, x0, to, plan, sample, start in zip(rows, x0s, tos, plans, samples, starts, strict=True):
        if plan.std:
            sample = sample + plan.std * normal(sample.shape, row.path, "step", row.index, row.level).to(sample)
        memory = solver.remember(row.memory, x0, row.level)
        if start is not None:
            memory = memory._replace(start=start.clone(), order=plan.order)
        # a clone, since a view would keep the tensors of its whole batch alive
        moved.append(Row(sample.clone(), to, row.index, row.path, memory, seen=True))
    return moved


def _basis(row: Row, x0: Tensor) -> tuple[Tensor | None, ...]:
    past = (*row.memory.x0s, None, None)
    return row.x, x0, past[0], past[1], row.memory.start
