"""The forecast of a search adds up what its ticks cost once they repeat: it is what running them all would count."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from longtake.core.engine import Engine
from longtake.core.forecast import LONGEST, Repeats, Tick, forecast
from longtake.core.plan import Ghost, emptied, lag, steady
from longtake.core.rollout import Timeline
from longtake.core.rows import Row
from longtake.core.tree import walk
from tests.search_cases import every_search


def walked(rollout: Any, many: int, context: int = 0) -> tuple[int, ...]:
    """Every tick run: (nfe, frame nfe, nfe to the first latent, ticks to it, most rows)."""
    ghost, engine = emptied(rollout), Engine(Ghost(2), batch=1 << 20)
    state = engine.drive(ghost.init(0, Timeline.of(""), [torch.zeros(ghost.shape)] * context))
    tick = first = first_tick = peak = 0
    while not state.finished and state.emitted < many + lag(rollout):
        state, emission = engine.drive(ghost.step(state))
        tick += 1
        peak = max(peak, sum(isinstance(item, Row) for item in walk(state)))
        if emission.latents and not first_tick:
            first, first_tick = engine.meter.nfe, tick
    return engine.meter.nfe, engine.meter.frame_nfe, first, first_tick, peak


SLOW = ("evolve", "beam preview", "latsearch fifo", "best-of chunk", "beam chunk")
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name, search in every_search().items()
    if steady(search)
]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_running_every_tick_counts(name: str):
    search = every_search()[name]
    for many, context in ((3, 0), (search.in_flight * 2 + 7, 2)):
        told = forecast(search, many, context=context, cost=2)
        counted = told.nfe, told.frame_nfe, told.first_nfe, told.first_tick, told.peak_rows
        assert counted == walked(search, many, context)


def test_ticks_of_a_search_that_draws_its_cost_are_all_run():
    searches = every_search()
    assert not steady(searches["beam proposals"]) and steady(searches["beam"])
    assert not steady(searches["beam"].inner)


def test_a_period_is_one_that_was_seen_twice_while_every_row_was_replaced():
    def told(costs: list[int], latents: int, in_flight: int) -> tuple[int, int]:
        repeats, ticks = Repeats(in_flight), []
        for cost in costs:
            ticks.append(Tick(cost, cost, 1, latents))
            if period := repeats.add(ticks):
                return period, len(ticks)
        return 0, 0

    assert told([9, 5, 1, 1, 1, 1, 1, 1], 1, 3) == (1, 7)  # like the tick before: four of them, more than are in flight
    assert told([9, *[1, 2, 3] * 4], 1, 3) == (3, 10)
    assert told([9, *[1] * 10, *[1, 2] * 9], 1, 12) == (2, 26)
    assert told([9, *range(100)] * 3, 1, 3) == (101, 303)  # as generations on a queue take
    assert told([1] * 50, 0, 3) == (0, 0)  # nothing comes out
    assert told(list(range(LONGEST + 1)) * 5, 1, 3) == (0, 0)  # longer than is looked for


@pytest.mark.parametrize("latents", [97, 100, 131])
def test_what_is_continued_along_a_line_is_what_the_whole_would_cost(latents: int, monkeypatch: pytest.MonkeyPatch):
    """Beyond a number of latents costs are continued: of methods that have to know their length and of searches too."""
    from longtake.apps import planning
    from longtake.rollouts.chunk import Chunk
    from longtake.rollouts.freenoise import FreeNoise
    from longtake.rollouts.miga import Miga
    from longtake.rollouts.progressive import Progressive
    from longtake.rollouts.windows import Windows
    from longtake.search.k_step import k_step
    from tests.cases import SHAPE, SOLVERS, WINDOW, Smooth, grid

    s, e = grid(), SOLVERS[0]
    monkeypatch.setattr(planning, "EXACT_LATENTS", 60)
    for made in (
        Windows(SHAPE, s, e, WINDOW, latents, overlap=3),
        FreeNoise(SHAPE, s, e, WINDOW, latents),
        Miga(SHAPE, s, e, WINDOW, 3, 4, 2, stage2="batch", end=latents),
        Progressive(SHAPE, grid(e, 4), e, 8, prefix=2, end=latents),
        Chunk(SHAPE, s, e, WINDOW, overlap=3),
        k_step(Chunk(SHAPE, s, e, WINDOW, overlap=3), Smooth(), 3, 2),
        k_step(Windows(SHAPE, s, e, WINDOW, latents, overlap=3), Smooth(), 3, 2),
    ):
        assert planning.cost(made, latents) == forecast(made, latents)


def test_searches_on_queues_are_continued_by_their_own_stretches(monkeypatch: pytest.MonkeyPatch):
    """They decide once in many cycles of the method: a line through two of its cycles ran flat, at half of the cost."""
    from longtake.apps import planning
    from longtake.search.beam import beam
    from longtake.search.best_of import best_of
    from longtake.search.latsearch import LatSearch
    from longtake.search.proposals import Mixture
    from tests.cases import Smooth, rollouts

    monkeypatch.setattr(planning, "EXACT_LATENTS", 60)
    base = rollouts()
    for made in (best_of(base["fifo"], Smooth(), 2), LatSearch(base["progressive"], Smooth(), 2, (12,))):
        for latents in (61, 75, 131):
            assert planning.cost(made, latents) == forecast(made, latents)
    mixture = Mixture((("gaussian", 1.0), ("inversion", 1.0)), inversion_steps=3)
    drawn = beam(base["fifo"], Smooth(), 1, 3, proposals=mixture)
    told = planning.cost(drawn, 240, seed=2)
    assert told.nfe == pytest.approx(forecast(drawn, 240, seed=2).nfe, rel=0.05) and not told.exact


def test_what_is_drawn_is_costed_by_the_seed_of_the_run():
    from longtake.search.beam import beam
    from longtake.search.proposals import Mixture
    from tests.cases import Smooth, rollouts, run

    mixture = Mixture((("gaussian", 1.0), ("inversion", 1.0)), inversion_steps=3)
    search, told = beam(rollouts()["chunk"], Smooth(), 1, 3, proposals=mixture), set()
    for seed in range(5):
        _, engine = run(search, 50, seed=seed)
        assert forecast(search, 50, seed=seed).nfe == engine.meter.nfe
        told.add(engine.meter.nfe)
    assert len(told) > 1


def test_a_budget_holds_for_the_whole_of_a_long_video(monkeypatch: pytest.MonkeyPatch):
    """Sizes are weighed by the beginning, where what a search costs may be less than over the whole."""
    from dataclasses import replace

    from longtake.apps import budget
    from longtake.apps.planning import dry_run, plan
    from longtake.apps.settings import Request
    from longtake.errors import UsageError

    def planned(factor: str) -> tuple[float, list[str]]:
        asked = Request("a dog walks right", method="rolling", search="k-step", seconds=6, search_budget=factor)
        settings, facts, notes = plan(asked)
        paid, free = (dry_run(replace(settings, search=name), facts)[0].nfe for name in ("k-step", "none"))
        return paid / free, notes

    monkeypatch.setattr(budget, "LONGEST", 8)
    reached, notes = planned("3x")  # nine candidates: 2.9 over 8 latents, 3.06 over all 13
    assert 2 < reached <= 3 and any(line.endswith(f"at most {reached:.2f}x the cost without it") for line in notes)
    monkeypatch.setattr(budget, "looks", lambda inner: {4: 0.39})
    reached, _ = planned("1.3x")
    with pytest.raises(UsageError, match=rf"is too little for k-step: its smallest costs {reached:.3g}x"):
        planned(f"{reached - 1e-3:.6g}x")
