"""What a search shows its reward: what a candidate became, in full, with its own prompt, and nothing else.

Each law holds what the reward was shown against what the run let out.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from longtake.apps.budget import Blank
from longtake.apps.searches import SEARCHES, make_search
from longtake.core.engine import Engine
from longtake.core.rollout import Timeline, View
from longtake.core.schedule import flow, flow_unipc
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.errors import UsageError
from longtake.rewards.latent import LatentCosine
from longtake.rewards.motion import Motion
from longtake.rewards.sums import Floored, Weighted
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.plain import Plain
from longtake.search import branch, proposals
from longtake.search.beam import beam
from longtake.search.best_of import best_of
from longtake.search.evolve import evolve
from longtake.search.freeinit import FreeInit
from longtake.search.k_step import k_step
from longtake.search.latsearch import LatSearch, weights
from longtake.search.proposals import Mixture
from longtake.search.reflect import Reflect
from tests.cases import SHAPE, WINDOW, Smooth, equal, grid, oracle, rollouts, run

LONG = Chunk(SHAPE, grid(), Solver(), 21, overlap=1)
"""Clips longer than what searches keep of the past, as those of Wan are."""


class Spy:
    """Keeps the views it is shown; prefers large last latents."""

    needs = frozenset({"x0", "past"})

    def __init__(self) -> None:
        self.shown: list[list[View]] = []

    def __call__(self, views: list[View]) -> list[float]:
        self.shown.append(list(views))
        return [float(view.judged(WINDOW)[-1].sum()) for view in views]


def spied(make: Any, until: int, line: Timeline | None = None) -> tuple[list[torch.Tensor], list[list[View]]]:
    """(latents, the views of each decision) of a search around a spy."""
    spy = Spy()
    search = make(spy)
    engine = Engine(oracle(search), 8)
    state, out = engine.drive(search.init(7, line or Timeline.of("a"))), []
    for _, emission in stream(search, engine, state, until):
        out += emission.latents
    return out, spy.shown


def looked(spy: Spy) -> Any:
    """A search that looks at every row that enters a queue."""
    return beam(Fifo(SHAPE, grid(), window=WINDOW), spy, 1, 2, proposals=Mixture((("gaussian", 1.0),)))


@pytest.mark.parametrize("name", ["fifo", "progressive", "miga", "chunk"])
def test_whole_videos_are_judged_by_all_that_came_out_and_nothing_else(name: str):
    inner = rollouts()[name]
    out, decisions = spied(lambda spy: best_of(inner, spy, 3, "video", length=30), 30)
    views = decisions[0]
    scores = [float(view.judged(WINDOW)[-1].sum()) for view in views]
    best = views[max(range(3), key=lambda place: scores[place])]
    assert len(views) == 3 and equal(list(best.judged(WINDOW)), out[: len(best.judged(WINDOW))])
    assert len(best.judged(WINDOW)) >= 30 and not best.x0
    assert len({view.judged(WINDOW)[-1].sum().item() for view in views}) == 3


@pytest.mark.parametrize("scope", ["chunk", "horizon"])
def test_on_queues_the_decided_row_and_those_behind_it_are_judged(scope: Any):
    inner = rollouts()["fifo"]
    spy = Spy()
    search = best_of(inner, spy, 2, scope)
    engine, starts = Engine(oracle(search), 64), []
    state = engine.drive(search.init(7, Timeline.of("a")))
    ranked = branch.records

    def noted(tick: int, members: Any, scores: Any, kept: Any) -> Any:
        starts.append([member.origin.start for member in members])
        return ranked(tick, members, scores, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branch, "records", noted)
        for _ in stream(search, engine, state, 40):
            pass
    later = 0
    for views, (start, _) in zip(spy.shown, starts, strict=True):
        for view in views:
            done = view.index[0] if view.index else start + 1  # the first row that is not finished
            assert len(view.judged(WINDOW)) == max(WINDOW, done - start)
            if start > 0:
                first = done - (len(view.clip) - len(view.index))  # of the clip
                assert first + len(view.clip) - len(view.judged(WINDOW)) == start < done
                later += 1
            assert all(index < max(start + WINDOW, done) for index in view.index)
    assert later >= 4


@pytest.mark.parametrize("name", ["best-of-n", "evolve", "latsearch", "horizon"])
def test_no_latent_of_a_long_clip_escapes_its_judge(name: str):
    spy = Spy()
    search = {
        "best-of-n": lambda: best_of(LONG, spy, 2),
        "evolve": lambda: evolve(LONG, spy, (2, 2)),
        "latsearch": lambda: LatSearch(LONG, spy, 2, (8,), correlation=1.0),
        "horizon": lambda: best_of(LONG, spy, 2, "horizon"),
    }[name]()
    engine = Engine(oracle(search), 8)
    state = engine.drive(search.init(7, Timeline.of("a")))
    out: list[torch.Tensor] = []
    for _, emission in stream(search, engine, state, 60):
        out += emission.latents
    clips = {(len(view.clip), len(view.judged(5)), len(view.before)) for views in spy.shown for view in views}
    assert {clip[:2] for clip in clips} == {(21, 21), (20, 20)}
    later = [view for views in spy.shown for view in views if len(view.clip) == 20]
    assert min(len(view.before) for view in later) >= 16  # and one clip more at most
    assert max(len(view.before) for view in later) <= 16 + 21
    befores = {end for view in later for end in (21, 41) if equal(list(view.before[-16:]), out[end - 16 : end])}
    assert befores == {21, 41}  # what was before is what came out before, bit for bit


@pytest.mark.parametrize(("name", "rows"), [("windows", 21), ("freenoise", 21), ("plain", 8), ("fifo", 8)])
def test_previews_are_judged_whole(name: str, rows: int):
    _, shown = spied(lambda spy: k_step(rollouts()[name], spy, 3, 2), 8)
    assert all(len(view.judged(5)) == len(view.x0) for views in shown for view in views)
    assert max(len(view.x0) for views in shown for view in views) == rows  # a queue that fills has fewer


def test_branches_wait_for_a_whole_clip_and_width_is_worth_its_cost():
    class Restless(Smooth):
        def _one(self, latents: list[torch.Tensor]) -> float:
            return float((1000 * latents[-1].sum()).sin())

    mixture = Mixture((("gaussian", 1.0),))
    found = [run(beam(LONG, Restless(), width, 3, proposals=mixture), 100)[0] for width in (1, 2)]
    assert not equal(found[0], found[1])
    search = beam(LONG, Restless(), 2, 3, proposals=mixture)
    engine, most, out = Engine(oracle(search), 8), 0, 0
    state = engine.drive(search.init(7, Timeline.of("a")))
    for now, emission in stream(search, engine, state, 100):
        most = max(most, sum(len(one.emission.latents) for member in now.members[:1] for one in member.pending))
        out += len(emission.latents)
        assert out + search.in_flight >= now.members[0].state.emitted
    assert most == 21 == search.lag  # the first clip, and each after it by itself


def test_draws_of_a_search_depend_on_the_seed():
    def dealt(seed: int) -> list[str]:
        search = beam(rollouts()["fifo"], Smooth(), 2, 5)
        engine = Engine(oracle(search), 8)
        state, told = engine.drive(search.init(seed, Timeline.of("a"))), []
        for _, emission in stream(search, engine, state, 12):
            told += [one.proposal for one in emission.info.candidates]
        return told

    assert dealt(1) == dealt(1) != dealt(2)

    eps: dict[int, Any] = {}
    for seed in (1, 2):
        keys: list[int] = []
        original = Mixture.mix

        def kept(self: Any, *args: Any, keys: list[int] = keys, original: Any = original) -> Any:
            keys.append(args[3])
            return original(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Mixture, "mix", kept)
            run(beam(rollouts()["fifo"], Smooth(), 2, 3, proposals=Mixture((("renoise", 1.0),))), 6, seed=seed)
        eps[seed] = set(keys)
        assert len(keys) == len(set(keys))  # nor do siblings or relatives share one
    assert not eps[1] & eps[2]

    survived: list[Any] = []

    def drawn(mode: Any, shares: Any, order: Any, key: int) -> list[int]:
        survived.append(key)
        return list(range(len(shares)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longtake.search.latsearch.survivors", drawn)
        for seed in (1, 2, 3):
            run(LatSearch(rollouts()["chunk"], Smooth(), 4), WINDOW, seed=seed)
    assert len(survived) == len(set(survived)) > 3


def test_the_prompt_that_is_told_is_that_of_what_is_judged():
    """A change of prompt at row 40 of a queue of 16 rows whose newest 8 are judged."""
    _, shown = spied(looked, 45, Timeline.of({0: "old", 40: "new"}))
    both = 0
    for view in (one for views in shown for one in views):
        rows = view.index[-WINDOW:]
        new = sum(index >= 40 for index in rows)
        if 2 * new != len(rows):
            assert view.prompt == ("new" if 2 * new > len(rows) else "old")
            both |= 1 if view.prompt == "new" else 2
    assert both == 3


def test_a_queue_that_switches_at_once_is_told_the_prompt_of_its_head():
    _, shown = spied(looked, 40, Timeline(((0, "old"), (30, "new")), rule="queue_switch"))
    told = [(view.index[0], view.prompt) for views in shown for view in views]
    assert {prompt for _, prompt in told} == {"old", "new"}
    assert all(prompt == ("new" if head >= 30 else "old") for head, prompt in told)


def test_inversion_is_told_the_prompt_of_what_it_inverts():
    told: list[tuple[int, str]] = []
    original = proposals.invert

    def noted(latents: Any, schedule: Any, cond: Any, steps: int) -> Any:
        told.append((len(latents), str(cond)))
        return (yield from original(latents, schedule, cond, steps))

    line = Timeline.of({0: "old", 24: "new"})
    search = beam(Fifo(SHAPE, grid(), window=WINDOW), Smooth(), 1, 2, proposals=Mixture((("inversion", 1.0),)))
    engine, emitted = Engine(oracle(search), 8), []
    state = engine.drive(search.init(7, line))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proposals, "invert", noted)
        for now, _ in stream(search, engine, state, 40):
            emitted += [now.emitted - 1] * (len(told) - len(emitted))  # what was out when it was drawn
    assert len(told) > 30
    assert all(prompt == ("old" if out <= 24 else "new") for out, (_, prompt) in zip(emitted, told, strict=True))
    assert {prompt for _, prompt in told} == {"old", "new"}


def test_reflection_tells_its_reward_the_prompt_and_all_that_is_to_compare():
    inner = rollouts()["fifo"]
    _, shown = spied(lambda spy: Reflect(inner, spy, -math.inf, 2, 64, 2, 4), 8, Timeline.of("a dog walks"))
    views = [view for views in shown for view in views]
    assert len(views) > 4 and {view.prompt for view in views} == {"a dog walks"}
    assert all(len(view.judged(3)) == len(view.x0) == 6 for view in views)


def test_a_latent_cosine_in_a_sum_judges_what_reflection_judges():
    inner, plain = rollouts()["fifo"], LatentCosine()
    for reward in (plain, Weighted([(1.0, plain)]), Floored(Weighted([(0.5, plain)]), Motion(), 0.2)):
        made = make_search(SEARCHES["reflect"], inner, reward, {"eval": 3, "ref": 5}).reward
        while not isinstance(made, LatentCosine):
            made = made.reward if isinstance(made, Floored) else made.terms[0][1]
        assert (made.eval, made.ref) == (3, 5)


def test_scores_that_are_no_number_weigh_nothing():
    bad, inf = -math.inf, math.inf
    assert weights([bad, 0.5], 1.0) == [0, 1] and weights([0.5, bad], 1.0) == [1, 0]
    assert weights([inf, 0.1, 0.2], 1.0) == [1, 0, 0] and weights([inf, inf, 0.2], 1.0) == [0.5, 0.5, 0]
    assert weights([bad, bad], 1.0) == [0.5, 0.5] and weights([2.0, 2.0, bad], 1.0) == [0.5, 0.5, 0]
    one, two, three = weights([0.0, 1.0, bad], 2.0)
    assert three == 0 and two / one == pytest.approx(math.exp(1 / (0.5 * 2)))


def test_sums_recover_from_a_decision_without_numbers():
    class Once:
        needs = frozenset({"x0"})
        asked = 0

        def __call__(self, views: list[View]) -> list[float]:
            self.asked += 1
            return [math.nan if self.asked == 2 else float(place) for place in range(len(views))]

    search = beam(rollouts()["fifo"], Once(), 1, 3, cumulative=True)
    engine = Engine(oracle(search), 8)
    state, kept = engine.drive(search.init(7, Timeline.of("a"))), []
    for _, emission in stream(search, engine, state, 5):
        kept += [one.number for one in emission.info.candidates if one.verdict == "kept"]
    assert kept[1] == 0 and set(kept[:1] + kept[2:]) == {2}


@pytest.mark.parametrize("schedule", [flow(24, 3.0), flow_unipc(24, 3.0), flow_unipc(50, 5.0)])
def test_freeinit_knows_the_clip_before_on_every_grid(schedule: Any):
    """Turning the clip's sign turns its share of the next round's noise: twice .068 of it, below the cutoff."""
    inner = Plain(SHAPE, schedule, Solver("unipc"), WINDOW)
    search = FreeInit(inner, 2, 1.0)
    engine = Engine(oracle(inner), 8)
    state = engine.drive(search.init(7, Timeline.of("a")))
    clip = [torch.ones(SHAPE)] * WINDOW

    def noise(sign: float) -> torch.Tensor:
        from longtake.core.rollout import Emission

        again = search._again(state, Emission(0, tuple(sign * x for x in clip)))
        return torch.stack([row.x for row in again.queue.rows])

    assert float((noise(1) - noise(-1)).abs().mean()) == pytest.approx(2 * 0.068, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("beam", {"width": 1, "max_lag": 3}, r"beam\.max_lag has no effect on one branch"),
        ("beam", {"width": 1, "cumulative": True}, r"beam\.cumulative has no effect on one branch"),
        ("evolve", {"population": (6,), "mutation": 0.5}, r"evolve\.mutation has no effect on one generation"),
        ("evolve", {"population": (6,), "elite": 3}, r"evolve\.elite has no effect on one generation"),
        ("local", {"mode": "paths", "rounds": 200}, r"three quarters of 16 steps there are 9; give that or less"),
    ],
)
def test_settings_that_nothing_looks_at_are_refused(name: str, values: dict[str, Any], words: str):
    with pytest.raises(UsageError, match=words):
        make_search(SEARCHES[name], rollouts()["chunk"], Blank(), values)


def test_parameters_of_rewards_that_nothing_looks_at_are_refused():
    from longtake.apps.rewarding import heeded

    for name, values, words in (
        ("consistency", {"parts": "local", "anchor": "first"}, "no effect with parts=local"),
        ("consistency", {"parts": "local", "anchor": "lag", "lag": 5}, "no effect with parts=local"),
        ("motion", {"of": "latents", "see": "decode"}, "no effect with of=latents"),
    ):
        with pytest.raises(UsageError, match=words):
            heeded([(name, 1.0)], {name: values})


def test_a_budget_with_sums_buys_branches_to_sum_over():
    from longtake.apps.budget import afford

    for extra in ({"cumulative": True}, {"max_lag": 3}):
        values, _ = afford(SEARCHES["beam"], rollouts()["fifo"], extra, 6.0, 20)
        assert values["width"] > 1
