"""What holds for every search: one candidate is none, resuming, streaming, counting, and the book of candidates."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from longtake.core.check import BLIND, check
from longtake.core.engine import Engine
from longtake.core.forecast import forecast
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.search.beam import beam
from longtake.search.best_of import best_of
from longtake.search.branch import begun
from longtake.search.population import Population
from longtake.testing.laws import resumed
from tests.cases import equal, oracle, rollouts, run
from tests.search_cases import Drift, every_search

NAMES = list(every_search())


def leaf_of(rollout: Any) -> Any:
    while hasattr(rollout, "inner"):
        rollout = rollout.inner
    return rollout


def emissions(rollout: Any, until: int, batch: int = 4) -> list[Any]:
    engine = Engine(oracle(rollout), batch)
    state = engine.drive(rollout.init(7, Timeline.of("a")))
    return [emission for _, emission in stream(rollout, engine, state, until)]


@pytest.mark.parametrize("name", NAMES)
def test_one_candidate_is_no_search(name: str):
    for solver in (Solver("ddim", 0.5), Solver("unipc")):
        search = every_search(solver, one=True)[name]
        (got, spent), (want, paid) = run(search, 14), run(leaf_of(search), 14)
        assert equal(got, want)
        assert spent.meter.nfe >= paid.meter.nfe  # a search gives up exact ending


@pytest.mark.parametrize("name", NAMES)
def test_a_search_changes_something_repeats_itself_and_passes_the_check(name: str):
    search = every_search()[name]
    assert set(check(search, oracle(search))) <= {BLIND}
    first, _ = run(search, 20)
    assert equal(first, run(search, 20)[0])
    assert not equal(first, run(leaf_of(search), 20)[0])


@pytest.mark.parametrize("name", NAMES)
def test_batches_do_not_change_the_winner(name: str):
    """The oracle gives a window the same bits in any batch, so what is left is how candidates are put together."""
    search = every_search()[name]
    alone, wide = emissions(search, 12, 1), emissions(search, 12, 64)
    for one, other in zip(alone, wide, strict=True):
        assert equal(list(one.latents), list(other.latents))
        assert one.info.candidates == other.info.candidates


@pytest.mark.parametrize("name", NAMES)
def test_stopping_at_every_tick_changes_nothing(name: str, tmp_path):
    search = every_search(Solver("ddim", 0.5))[name]
    many = 9 if "fifo" in name or "beam" in name else 8 if "evolve" in name or "zero-order" in name else 14
    want, _ = run(search, many)
    got = resumed(search, Engine(oracle(search), 4), many, tmp_path, seed=7, prompt="a")
    assert equal(got[:many], want)


@pytest.mark.parametrize("name", [name for name in NAMES if "video" not in name])
def test_more_frames_never_change_earlier_ones(name: str):
    search = every_search()[name]
    assert equal(run(search, 7)[0], run(search, 15)[0][:7])


@pytest.mark.parametrize("name", NAMES)
def test_a_forecast_bounds_what_a_run_costs(name: str):
    for many in (5, 13):
        search = every_search()[name]
        _, engine = run(search, many, cost=2)
        plan = forecast(search, many, cost=2)
        assert engine.meter.nfe <= plan.nfe
        if plan.exact:
            assert (plan.nfe, plan.frame_nfe) == (engine.meter.nfe, engine.meter.frame_nfe)


@pytest.mark.parametrize("name", NAMES)
def test_the_book_holds_every_candidate_once(name: str):
    search = every_search()[name]
    if hasattr(search.inner, "inner"):
        return  # the outer search's book is this one; the inner's is in its children
    told = [candidate for emission in emissions(search, 16) for candidate in emission.info.candidates]
    assert told
    names = {candidate.name for candidate in told} | {f"{begun(search.inner, 7):016x}"}
    assert {candidate.parent for candidate in told} <= names
    assert len({(candidate.tick, candidate.name) for candidate in told}) == len(told)
    for tick in {candidate.tick for candidate in told}:
        kept = [c.score for c in told if c.tick == tick and c.verdict == "kept"]
        rest = [c.score for c in told if c.tick == tick and c.verdict == "dropped"]
        if name in ("best-of chunk", "k-step", "best-of video", "local random", "beam", "beam odd", "beam preview"):
            assert kept and (not rest or min(kept) >= max(rest))
    assert all(candidate.rows[0] < candidate.rows[1] for candidate in told)
    assert all(candidate.proposal == "own" for candidate in told if candidate.number == 0) or name in (
        "evolve", "local zero-order", "latsearch systematic", "local paths", "latsearch systematic progressive",
        "evolve progressive", "local zero-order rolling",
    )  # fmt: skip


class Fickle:
    """Decides otherwise wherever a judged latent differs at all."""

    needs = frozenset({"x0", "past"})

    def __call__(self, views: list[Any]) -> list[float]:
        return [1e4 * sum(float(x.double().sum()) for x in view.clip) % 1 for view in views]


@pytest.mark.parametrize(("name", "horizon"), [("fifo", None), ("progressive", None), ("chunk", 48)])
def test_what_came_out_before_a_row_entered_ignores_its_prompt_under_looks_ahead(name: str, horizon: int | None):
    search: Any = best_of(rollouts()[name], Fickle(), 2, "horizon", horizon)
    change = 26
    engine, released = Engine(oracle(search), 4), 0
    state = engine.drive(search.init(7, Timeline.of("a")))
    for state, _ in stream(search, engine, state):
        if search.fresh(state) and change < search.fresh(state).stop:
            break
        released = state.emitted
    before, _ = run(search, change)
    after, _ = run(search, change, prompts={0: "a", change: "b"})
    assert released > 0 and equal(before[:released], after[:released])
    assert equal(before[: change - search.reach], after[: change - search.reach])


def test_decodes_and_scores_are_counted():
    search = every_search()["k-step"]
    infos = [emission.info for emission in emissions(search, 20)]
    # four candidates at the start of each chunk; the reward's `follow` sees a chunk when the next is decided
    assert [info.reward_calls for info in infos if info.candidates] == [4, 4, 4]
    assert [info.decodes for info in infos if info.candidates] == [0, 8, 6]


@pytest.mark.parametrize("name", ["beam", "beam chunk", "beam cumulative", "best-of chunk", "k-step", "latsearch"])
def test_what_comes_out_is_one_lineage_from_its_root(name: str):
    """Parents and tails never mixed: the winner's ancestors, read from the book, replayed on the bare method."""
    from longtake.core.noise import fold
    from longtake.search.proposals import Mixture, correlated

    search = every_search()[name]
    if getattr(search, "proposals", None):
        from dataclasses import replace

        search = replace(search, proposals=Mixture((("gaussian", 1.0),)))
    inner, engine = search.inner, Engine(oracle(search), 8)
    state, told, out, ticks = engine.drive(search.init(7, Timeline.of("a"))), {}, [], 0
    for ticks, (now, emission) in enumerate(stream(search, engine, state), 1):
        state = now
        out.extend(emission.latents)
        told.update({c.name: c for c in emission.info.candidates if c.proposal in ("own", "gaussian", "correlated")})
        if ticks == 48:  # the end of a chunk
            break
    told.update({c.name: c for c in state.book.candidates})
    best = state.member if hasattr(state, "member") else state.members[0]
    forks: dict[int, int] = {}
    name_now = f"{best.name:016x}"
    decided = {c.rows: c.tick for c in sorted(told.values(), key=lambda c: -c.tick)}  # when a range was first judged
    while name_now in told:
        candidate = told[name_now]
        offset = search.marks[0] if name == "latsearch" else None
        tick = decided[candidate.rows]
        if name == "best-of chunk":
            tick -= inner.schedule.num_steps - 1
        if offset is not None:
            tick -= inner.schedule.num_steps - offset - 1
        forks[tick] = candidate.number
        name_now = candidate.parent
    replayed, bare = [], engine.drive(inner.init(7, Timeline.of("a")))
    for tick in range(ticks):
        if forks.get(tick):
            key = fold(tick, "candidate", forks[tick])
            mix = (lambda row, new: correlated(row.x, new, search.correlation)) if name == "latsearch" else None
            bare = inner.fork(bare, key, mix)
        bare, emission = engine.drive(inner.step(bare))
        replayed.extend(emission.latents)
    waiting = [x for pending in getattr(best, "pending", ()) for x in pending.emission.latents]
    assert any(forks.values())
    assert equal([*out, *waiting], replayed)


@pytest.mark.parametrize("name", ["chunk", "fifo"])
def test_each_branch_is_judged_by_its_own_memory(name: str):
    """Anchors belong to branches: recompute each kept branch's memory from the latents that it emitted itself."""

    class Diverse(Drift):
        def __call__(self, views: list[Any]) -> list[float]:
            return [float(place % 2 == 0) for place in range(len(views))]  # a child of each parent stays

    search = beam(rollouts()[name], Diverse(), 2, 2)
    engine = Engine(oracle(search), 8)
    state = engine.drive(search.init(7, Timeline.of("a")))
    released: list[torch.Tensor] = []
    differed = 0
    for tick, (state, emission) in enumerate(stream(search, engine, state)):
        released.extend(emission.latents)
        firsts = []
        for member in state.members:
            own = [*released, *(x for pending in member.pending for x in pending.emission.latents)]
            recent = sum(len(e.latents) for e in member.recent)
            if member.memory is None:
                continue
            anchor, seen = member.memory
            assert torch.equal(anchor, own[len(own) - recent - 1]) and seen == len(own) - recent
            firsts.append(anchor)
        differed += len(firsts) > 1 and not torch.equal(firsts[0], firsts[-1])
        if tick == 70:
            break
    assert len(released) > 10 and differed


def test_relatives_share_what_their_rows_agree_on():
    """Beams that come from one candidate hold the same objects, so that the engine sees equal windows."""
    search = every_search()["beam"]
    engine = Engine(oracle(search), 64)
    state = engine.drive(search.init(7, Timeline.of("a")))
    costs = []
    for _, emission in stream(search, engine, state, 30):
        costs.append(emission.info.nfe)
    parts, width, num = rollouts()["fifo"].partitions, search.width, search.num
    bound = width * (2 * parts - 1 + num)
    assert max(costs) <= bound and min(costs[20:]) < bound


@pytest.mark.parametrize("name", ["miga", "miga batch", "progressive", "rolling", "windows", "freenoise", "replace"])
def test_forecasts_bound_searches_on_every_kind_of_method(name: str):
    inner = rollouts()[name]
    for search in (beam(inner, Drift(), 2, 2, max_lag=4), Population(inner, Drift(), 2)):
        assert set(check(search, oracle(inner))) <= {BLIND}
        _, engine = run(search, 8)
        plan = forecast(search, 8)
        assert engine.meter.nfe == plan.nfe if plan.exact else engine.meter.nfe <= plan.nfe
