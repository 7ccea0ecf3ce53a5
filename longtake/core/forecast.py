"""What a run will cost, before it is paid: the run itself on latents without channels (docs/adr/006)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from longtake.core.engine import Engine
from longtake.core.plan import Ghost, emptied, exact, lag, steady
from longtake.core.rollout import Rollout, Timeline
from longtake.core.rows import Row
from longtake.core.stream import stream
from longtake.core.tree import walk

Cost = int | Callable[[Sequence[int]], int]
"""Network evaluations of a window, or how they depend on its levels."""
LONGEST = 512
"""Ticks of the longest period that is looked for: on queues the generations of a search take some hundred."""


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
    rollout: Rollout[Any],
    num_latents: int,
    timeline: Timeline | str = "",
    context: int = 0,
    cost: Cost = 1,
    seed: int = 0,
) -> Forecast:
    """Run `rollout` without a network until `num_latents` are out, from `context` clean latents.

    `seed` is the run's: what a search draws, such as whether a candidate comes of an inversion, may cost calls.
    A search that may hold latents back is charged for as many more as it may hold: then its cost is a bound.
    Searches move many branches a tick, and with a reward that prefers nobody their ticks soon repeat themselves: from
    there on what a period costs is added up, not run again. Methods without a search are run to their end, where they
    skip calls, and so are searches whose ticks are not alike (`core/plan.steady`).
    """
    timeline = Timeline.of(timeline) if isinstance(timeline, str) else timeline
    ghost, engine = emptied(rollout), Engine(Ghost(cost), batch=1 << 20)
    state = engine.drive(ghost.init(seed, timeline, [torch.zeros(ghost.shape)] * context))
    begun, until = (engine.meter.nfe, engine.meter.frame_nfe), num_latents + lag(rollout)
    repeats, ticks, period = Repeats(rollout.in_flight), [], 0
    for state, emission in stream(ghost, engine, state, until):
        rows = sum(isinstance(item, Row) for item in walk(state))
        ticks.append(Tick(emission.info.nfe, emission.info.frame_nfe, rows, len(emission.latents)))
        period = repeats.add(ticks) if steady(rollout) else 0
        if period:
            break
    latents = state.emitted
    while period and latents < until:
        ticks.append(ticks[-period])
        latents += ticks[-1].latents
    first = next((place for place, tick in enumerate(ticks, 1) if tick.latents), 0)
    return Forecast(
        num_latents,
        begun[0] + sum(tick.nfe for tick in ticks),
        begun[1] + sum(tick.frame_nfe for tick in ticks),
        begun[0] + sum(tick.nfe for tick in ticks[:first]) if first else 0,
        first,
        max((tick.rows for tick in ticks), default=0),
        exact(rollout),
    )


class Tick(NamedTuple):
    """What a tick costs, the rows that are alive after it, and the latents that it lets out."""

    nfe: int
    frame_nfe: int
    rows: int
    latents: int


class Repeats:
    """Tells when ticks go round: every row in flight was replaced, and each tick was like the one a period before."""

    def __init__(self, in_flight: int) -> None:
        self.in_flight = in_flight
        self.like = [0] * (LONGEST + 1)  # by period: how many of the last ticks were like the one a period before

    def add(self, ticks: Sequence[Tick]) -> int:
        """The period once there is one, after the last of `ticks`; else 0."""
        for period in range(1, min(LONGEST, len(ticks) - 1) + 1):
            same = ticks[-1] == ticks[-1 - period]
            self.like[period] = span = self.like[period] + 1 if same else 0
            if span >= 2 * period and sum(tick.latents for tick in ticks[-span:]) > self.in_flight:
                return period
        return 0
