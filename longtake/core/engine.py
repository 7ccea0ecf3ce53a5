"""The engine answers steps: batching, equal calls made once, counting. It lives here and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from longtake.core.model import Denoiser
from longtake.core.step import Call, Step
from longtake.errors import UsageError

log = logging.getLogger("longtake")
T = TypeVar("T")


def cost_of(denoiser: Denoiser, levels: Sequence[int]) -> int:
    """Network evaluations of one window: `cost`, unless the denoiser says how it depends on levels (two experts)."""
    by_levels = getattr(denoiser, "cost_of", None)
    return denoiser.cost if by_levels is None else by_levels(levels)


@dataclass
class Meter:
    """What a run has cost so far.

    nfe        network evaluations of one window; a guidance pair counts 2
    frame_nfe  nfe times the rows of each window, the unit in which methods are compared
    forwards   batches sent to the denoiser
    """

    nfe: int = 0
    frame_nfe: int = 0
    forwards: int = 0


class Engine:
    """Drives steps with one denoiser. `batch` is the largest number of windows in one forward.

    Results can differ in the last bits between batch sizes, so a run records its own.
    """

    def __init__(self, denoiser: Denoiser, batch: int = 1) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.denoiser = denoiser
        self.batch = batch
        self.meter = Meter()

    def drive(self, step: Step[T], dead: Collection[int] = ()) -> T:
        """Run a step to its value.

        `dead` numbers calls, counted from 0 over the whole step, whose results nothing emitted will ever read:
        they are answered without the network (core/plan computes them).
        """
        reply: Any = None
        asked = 0
        while True:
            try:
                calls = step.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = self.answer(calls, {number - asked for number in dead})
            asked += len(calls)

    def answer(self, calls: Sequence[Call], dead: Collection[int] = ()) -> list[Tensor]:
        """x0 of each call, (F, C, H, W); equal calls are evaluated once, the rest in batches of one window length."""
        results: dict[tuple[Any, ...], Tensor] = {}
        waiting: dict[int, list[Call]] = {}
        known: set[tuple[Any, ...]] = set()
        for number, call in enumerate(calls):
            if number not in dead and call.key not in known:
                known.add(call.key)
                waiting.setdefault(len(call.x), []).append(call)
        for group in waiting.values():
            while group:  # the batch may shrink on the way, where memory runs out
                part, group = group[: self.batch], group[self.batch :]
                results.update(zip([call.key for call in part], self._forward(part), strict=True))
        return [results[call.key] if call.key in results else self._rows(call) for call in calls]

    def _rows(self, call: Call) -> Tensor:
        # new rows are drawn on the host, the others are where the network left them
        return torch.stack([row.to(self.denoiser.device) for row in call.x])

    def _forward(self, calls: Sequence[Call]) -> list[Tensor]:
        x = torch.stack([self._rows(call) for call in calls])
        levels = torch.tensor([call.levels for call in calls])
        problem = None
        try:
            with torch.inference_mode():
                x0 = self.denoiser(x, levels, [call.cond for call in calls])
        except RuntimeError as error:
            if not _is_memory(error):
                raise
            problem = error.with_traceback(None)  # its frames would hold the memory that the next try needs
        if problem is not None:
            del x, levels
            return self._in_smaller_batches(calls, problem)
        self.meter.forwards += 1
        costs = [cost_of(self.denoiser, call.levels) for call in calls]
        self.meter.nfe += sum(costs)
        self.meter.frame_nfe += levels.shape[1] * sum(costs)
        return [part.clone() for part in x0]

    def _in_smaller_batches(self, calls: Sequence[Call], problem: Exception) -> list[Tensor]:
        """The same calls after memory ran out, fewer at a time from here on. UsageError if one is too many."""
        if len(calls) == 1:
            raise UsageError(
                "out of memory with one window at a time; use a smaller --size, --offload group, or --dtype bfloat16"
            ) from problem
        self.batch = (len(calls) + 1) // 2
        log.warning(
            "out of memory with %d windows at once: going on with %d; last bits may differ", len(calls), self.batch
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        done: list[Tensor] = []
        while calls:
            part, calls = calls[: self.batch], calls[self.batch :]
            done += self._forward(part)
        return done


def _is_memory(error: RuntimeError) -> bool:
    # an accelerator raises a kind of its own; a CPU tells only in words
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
