"""What a run will cost, before it is paid: the run itself on latents without channels (docs/adr/006)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from longtake.core.engine import Engine
from longtake.core.plan import Ghost, emptied, exact, lag
from longtake.core.rollout import Rollout, Timeline
from longtake.core.rows import Row
from longtake.core.stream import stream
from longtake.core.tree import walk

Cost = int | Callable[[Sequence[int]], int]
"""Network evaluations of a window, or how they depend on its levels."""


@dataclass(frozen=True)
class Forecast:
    """The cost of a run before it is paid. For data-dependent searches nfe is a bound and `exact` is False."""

    num_latents: int
    nfe: int
    frame_nfe: int
    first_nfe: int
    first_tick: int
    peak_rows: int
    exact: bool

    @property
    def nfe_per_latent(self) -> float:
        """Network evaluations per emitted latent, warm-up included."""
        return self.nfe / max(self.num_latents, 1)


def forecast(
    rollout: Rollout[Any], num_latents: int, timeline: Timeline | str = "", context: int = 0, cost: Cost = 1
) -> Forecast:
    """Run `rollout` without a network until `num_latents` are out, from `context` clean latents.

    A search that may hold latents back is charged for as many more as it may hold: then its cost is a bound.
    """
    timeline = Timeline.of(timeline) if isinstance(timeline, str) else timeline
    ghost, engine = emptied(rollout), Engine(Ghost(cost), batch=1 << 20)
    state = engine.drive(ghost.init(0, timeline, [torch.zeros(ghost.shape)] * context))
    tick = first_nfe = first_tick = peak = 0
    for state, emission in stream(ghost, engine, state, num_latents + lag(rollout)):
        tick += 1
        peak = max(peak, sum(isinstance(item, Row) for item in walk(state)))
        if emission.latents and not first_tick:
            first_nfe, first_tick = engine.meter.nfe, tick
    meter = engine.meter
    return Forecast(num_latents, meter.nfe, meter.frame_nfe, first_nfe, first_tick, peak, exact(rollout))
