"""The only effect of a method: a step yields the network calls it needs and is sent their x0, in the same order.

Rollouts and searches are written as generators, so they know nothing of batching, devices or counting; the engine
(core/engine) answers. Candidates run in lockstep through `all_of`, which merges their calls into shared batches.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from longtake.core.model import Cond
from longtake.core.rows import Queue, advance
from longtake.core.schedule import NoiseSchedule
from longtake.core.solvers import Solver
from longtake.core.window import Window

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Call:
    """One window of one branch. `x` holds a (C, H, W) tensor a row; `window` says what is read and committed."""

    x: tuple[Tensor, ...]
    levels: tuple[int, ...]
    cond: Cond
    window: Window

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for equal work: the same tensors (by identity), levels and prompt."""
        return (tuple(id(x) for x in self.x), self.levels, self.cond)


Step = Generator[list[Call], list[Tensor], T]
"""Yields lists of calls; is sent one x0 tensor (F, C, H, W) a call; returns its value."""

Task = tuple[Callable[..., "Step[Any]"], tuple[Any, ...]]
"""A step not yet begun: a bound method and its arguments, so that it can also run elsewhere."""

CondAt = Callable[[Sequence[int]], Cond]
"""The prompt of a window, from the indices of the rows that it commits."""


def denoise(
    queue: Queue, windows: Sequence[Window], solver: Solver, schedule: NoiseSchedule, cond_at: CondAt
) -> Step[Queue]:
    """One Jacobi sweep: every window reads the queue as it was before the sweep; one yield for all of them.

    A row that several windows write moves with the weighted mean of their estimates.
    """
    x0s = yield [call_of(queue, window, cond_at(window.write)) for window in windows]
    targets: dict[int, int] = {}
    estimates: dict[int, list[tuple[float, Tensor]]] = {}
    for window, x0 in zip(windows, x0s, strict=True):
        place = {index: position for position, index in enumerate(window.read)}
        for index, weight in zip(window.write, window.weight or (1.0,) * len(window.write), strict=True):
            if queue.at(index).level == 0:  # given
                continue
            targets[index] = queue.at(index).level - 1 if window.to < 0 else window.to
            estimates.setdefault(index, []).append((weight, x0[place[index]]))
    if not targets:
        return queue
    rows = [queue.at(index) for index in targets]
    return queue.replaced(advance(rows, [_mean(e) for e in estimates.values()], [*targets.values()], solver, schedule))


def _mean(estimates: Sequence[tuple[float, Tensor]]) -> Tensor:
    if len(estimates) == 1:
        return estimates[0][1]
    total = sum(weight for weight, _ in estimates)
    return torch.stack([weight / total * x0 for weight, x0 in estimates]).sum(0)


def call_of(queue: Queue, window: Window, cond: Cond) -> Call:
    """The network call that evaluates `window` on `queue`."""
    rows = [queue.read(index, window.level) for index in window.read]
    return Call(tuple(x for x, _ in rows), tuple(level for _, level in rows), cond, window)


def all_of(tasks: Sequence[Task]) -> Step[list[Any]]:
    """Run tasks in lockstep and merge the calls they yield; the values equal those of running them one by one."""
    steps = [function(*arguments) for function, arguments in tasks]
    values: list[Any] = [None] * len(steps)
    replies: dict[int, list[Tensor] | None] = dict.fromkeys(range(len(steps)))
    while replies:
        asked: dict[int, list[Call]] = {}
        for number, reply in replies.items():
            try:
                asked[number] = steps[number].send(reply)  # type: ignore[arg-type]
            except StopIteration as stop:
                values[number] = stop.value
        if not asked:
            break
        answers = iter((yield [call for calls in asked.values() for call in calls]))
        replies = {number: [next(answers) for _ in calls] for number, calls in asked.items()}
    return values


def nothing(value: T) -> Step[T]:
    """A step that needs no network."""
    return value
    yield []
