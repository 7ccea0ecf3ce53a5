"""What branches keep and lose: sums of scores, what was decided before a copy, and what waits while they live."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from longtake.core.engine import Engine
from longtake.core.rollout import Timeline
from longtake.core.stream import stream
from longtake.search import branch
from longtake.search.beam import beam
from longtake.search.latsearch import renoised
from tests.cases import equal, oracle, rollouts, run
from tests.search_cases import Drift, every_search


def test_beams_by_their_sums_are_ranked_by_their_sums():
    """From the book: a branch's total is its parent's and its own score, and those with the highest totals stay."""

    class Restless(Drift):
        """What scores high at one tick says nothing of the next."""

        def _one(self, view: Any) -> float:
            return float((1000 * view.x0[-1].sum()).sin())

    search = beam(rollouts()["fifo"], Restless(), 2, 3, 2, cumulative=True, max_lag=4)
    engine = Engine(oracle(search), 8)
    state = engine.drive(search.init(7, Timeline.of("a")))
    told: dict[int, list[Any]] = {}
    for now, emission in stream(search, engine, state, 8):
        state = now
        for one in emission.info.candidates:
            told.setdefault(one.tick, []).append(one)
    totals, differed = {f"{branch.begun(search.inner, 7):016x}": 0.0}, False
    for tick in sorted(told):
        mine = {one.name: totals[one.parent] + one.score for one in told[tick]}
        kept = {one.name for one in told[tick] if one.verdict == "kept"}
        assert min(mine[name] for name in kept) >= max([mine[n] for n in mine if n not in kept], default=-1e9) - 1e-9
        best = sorted(told[tick], key=lambda one: -one.score)[: len(kept)]
        differed |= {one.name for one in best} != kept
        totals = {name: mine[name] for name in kept}
    assert differed  # the sums decide otherwise than the last score would
    for member in state.members:
        assert member.total == pytest.approx(totals.get(f"{member.name:016x}", member.total))


def test_copies_change_nothing_that_was_decided_before():
    inner = rollouts()["fifo"]
    engine = Engine(oracle(inner), 8)
    state = engine.drive(inner.init(7, Timeline.of("a")))
    for _ in range(20):
        state, _ = engine.drive(inner.step(state))
    start = state.queue.rows[-4].index
    changed = branch.altered(inner, state, 5, renoised(inner.schedule, 0.5), start)
    for row, other in zip(state.queue.rows, changed.queue.rows, strict=True):
        if row.index < start:
            assert other is row
        else:
            assert other.level == row.level and not torch.equal(other.x, row.x)
    assert changed.path != state.path  # and what is still to enter is other noise


@pytest.mark.parametrize("name", ["latsearch fifo", "evolve progressive", "latsearch systematic progressive"])
def test_on_a_queue_all_of_the_winner_comes_out_and_nothing_else(name: str):
    """Whenever one branch is left, what was released is all that it has emitted: latents are neither lost nor mixed."""
    search = every_search()[name]
    engine = Engine(oracle(search), 8)
    state = engine.drive(search.init(7, Timeline.of("a")))
    settled, released = 0, []
    for now, emission in stream(search, engine, state, 20):
        released.extend(emission.latents)
        assert now.emitted == len(released)
        alone = now.base if hasattr(now, "base") else now.members[0] if len(now.members) == 1 else None
        if alone is not None and not getattr(now, "running", ()):
            assert now.emitted == alone.state.emitted
            past = alone.past[-min(len(alone.past), len(released)) :]
            assert equal(list(past), released[len(released) - len(past) :])
            settled += 1
    assert settled >= 2 and len(released) >= 20


def test_best_of_judges_what_its_candidates_became_on_queues_too():
    """`best-of-n` promises finished candidates: each is judged when what it decided is out."""
    seen: list[tuple[int, int]] = []

    class Watched(Drift):
        def __call__(self, views: list[Any]) -> list[float]:
            seen.extend((len(view.before), view.recent) for view in views)
            return super().__call__(views)

    from longtake.search.best_of import best_of

    for name, many in (("fifo", 1), ("rolling", 6), ("progressive chunked", 3)):
        seen.clear()
        run(best_of(rollouts()[name], Watched(), 2), 10)
        assert seen and all(recent >= many for _, recent in seen), name


@pytest.mark.parametrize("name", ["progressive", "progressive chunked", "fifo"])
def test_reflection_compares_looks_also_where_ticks_without_one_lie_between(name: str):
    """Rows that enter every second tick are judged every second tick: each look but the first is held against one."""
    from longtake.core.forecast import forecast
    from longtake.rewards.latent import LatentCosine
    from longtake.search.reflect import fitted, rates

    inner = rollouts()[name]
    search = fitted(inner, LatentCosine(eval=1, ref=2), threshold=-9.0, tries=1)
    engine, told = Engine(oracle(search), 8), []
    state = engine.drive(search.init(7, Timeline.of("a")))
    for now, emission in stream(search, engine, state, 12):
        state = now
        told.append({"candidates": [vars(one) for one in emission.info.candidates]})
    told.append({"candidates": [vars(one) for one in state.book.candidates]})
    found = rates(told)
    assert found["looked"] == state.looked > 4 and found["tried"] == state.tried == state.looked - 1
    plan = forecast(search, 12)
    assert run(inner, 12)[1].meter.nfe < engine.meter.nfe <= plan.nfe
