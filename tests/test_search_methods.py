"""Each search against its formula, a planted optimum or a second implementation; proposals of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.noise import fold, normal, root
from longtake.core.rollout import Timeline, View
from longtake.core.schedule import vp
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.models.analytic import GaussianVideo
from longtake.rewards.eyes import Previews
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.search.beam import beam
from longtake.search.best_of import best_of
from longtake.search.evolve import evolve
from longtake.search.k_step import k_step
from longtake.search.latsearch import LatSearch, effective, renoised, survivors, weights
from longtake.search.local import local
from longtake.search.population import Population
from longtake.search.proposals import Mixture, Source, invert, near
from tests.cases import SHAPE, WINDOW, Smooth, equal, grid, oracle, rollouts, run
from tests.search_cases import EVERY, Drift, Near, every_search
from tests.test_rewards import Net


@dataclass(frozen=True)
class Newest:
    """Prefers a newest estimate near a target: a known function of the noise that entered last."""

    target: Tensor
    needs = frozenset({"x0"})

    def __call__(self, views: list[View]) -> list[float]:
        return [-float((view.x0[-1] - self.target).square().mean()) for view in views]


TARGET = normal(SHAPE, 11, "target")


# -- planted optima --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [2, 7])
def test_beam_finds_the_noise_that_was_planted(num: int):
    """Rows do not see each other, so a latent is a known multiple of its noise, and the best noise is known by hand.

    The schedule leaves signal at its last level: where it leaves none, an exact estimate says nothing of the noise.
    """
    inner = Fifo(SHAPE, vp(16), Solver("ddim"), WINDOW)
    mixture = Mixture((("gaussian", 1.0),))
    got, _ = run(beam(inner, Newest(TARGET), 1, num, proposals=mixture), 12, rho=0.0, prompts="")
    plain, _ = run(inner, 1, rho=0.0, prompts="")
    gain = float((plain[0] / normal(SHAPE, root(7), "init", 0)).mean())
    first = GaussianVideo(inner.schedule, SHAPE, WINDOW, 0.0)
    seen = float(first(torch.ones(1, 1, *SHAPE), torch.tensor([[16]]), [""]).mean())  # the estimate of unit noise
    assert seen > 0.01
    path, want, chosen = root(7), [], set()
    for row in range(12):
        paths = [path, *(fold(path, "fork", fold(row, "candidate", number)) for number in range(1, num))]
        draws = [normal(SHAPE, one, "init", row) for one in paths]
        best = min(range(num), key=lambda place: float((seen * draws[place] - TARGET).square().mean()))
        want.append(gain * draws[best])
        chosen.add(best)
        path = paths[best]
    assert len(chosen) > 1
    assert max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True)) < 1e-4


@pytest.mark.parametrize("name", ["best-of chunk", "k-step", "local random"])
def test_clips_with_a_planted_candidate_are_found(name: str):
    """The target is the clip that one candidate becomes; any search that tries that candidate must take it."""
    search = every_search()[name]
    inner, engine = search.inner, Engine(oracle(search), 8)
    start = engine.drive(inner.init(7, Timeline.of("a")))
    planted = inner.fork(start, fold(0, "candidate", search.num - 1))
    clip = [x for _, emission in stream(inner, engine, planted, WINDOW) for x in emission.latents]

    class Planted:
        needs = frozenset({"x0", "past"})

        def __call__(self, views: list[View]) -> list[float]:
            return [-sum(float((a - b).square().mean()) for a, b in zip(v.clip, clip, strict=True)) for v in views]

    from dataclasses import replace

    got, _ = run(replace(search, reward=Planted()), WINDOW)
    assert equal(got, clip)


class Bright:
    """Reads decoded pictures: how near their grey is to a target."""

    needs = frozenset({"x0", "picture"})

    def __init__(self) -> None:
        self.eyes = Previews(Net())

    def __call__(self, views: list[View]) -> list[float]:
        return [-float((clip.float().mean(dim=(1, 2, 3)) - 150).abs().mean()) for clip in self.eyes.look(views)]


@pytest.mark.slow
def test_previews_beat_random_search_at_equal_cost():
    """200 seeds: 8 candidates seen in 2 steps and one made, against 2 candidates made; 32 window calls each.

    If previews were worth nothing, k-step would be a random draw and lose to the best of two. The mean gain has to be
    above 4 of its standard errors (odds of an accident below 1 in 10,000).
    """
    inner, reward, gains = rollouts()["chunk"], Bright(), []
    for seed in range(200):
        scores = []
        for search in (k_step(inner, reward, 8, 2), best_of(inner, reward, 2)):
            got, engine = run(search, WINDOW, seed=seed)
            assert engine.meter.nfe == 32
            clip = View((), (), (), (), (), tuple(got), len(got))
            scores.append(reward([clip])[0])
        gains.append(scores[0] - scores[1])
    values = torch.tensor(gains)
    assert float(values.mean()) > 4 * float(values.std()) / math.sqrt(len(gains))


def test_lineages_that_look_alike_now_and_differ_later_are_told_apart_by_the_sum():
    """cumulative: scores 5, 0 then 1, 2 keep the first lineage; without it the second."""
    inner = rollouts()["chunk"]

    class Script:
        needs = frozenset({"x0"})

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, views: list[View]) -> list[float]:
            self.calls += 1
            return [5.0, 0.0] if self.calls == 1 else [1.0, 0.0, 2.0, 0.0]

    runs = [Population(inner, Script(), 2, 2, "tick", cumulative=flag) for flag in (False, True)]
    engine = Engine(oracle(inner), 8)
    best = []
    for search in runs:
        state = engine.drive(search.init(7, Timeline.of("a")))
        for tick, (now, _) in enumerate(stream(search, engine, state), 1):
            state = now
            if tick == 17:  # the first tick of the second chunk
                break
        best.append(state.members[0].origin.parent)
        totals = [member.total for member in state.members]
    assert best[0] != best[1] and totals == [6.0, 5.0]


# -- costs -----------------------------------------------------------------------------------------------------


class Counted(GaussianVideo):
    """The oracle, counting the windows that it is really asked for."""

    calls = 0

    def __call__(self, x: Tensor, levels: Tensor, cond: Sequence[Any]) -> Tensor:
        Counted.calls += len(x)
        return super().__call__(x, levels, cond)


def counted(search: Any, until: int, seed: int = 7) -> int:
    leaf = search
    while hasattr(leaf, "inner"):
        leaf = leaf.inner
    engine = Engine(Counted(leaf.schedule, SHAPE, leaf.window), 5)
    Counted.calls = 0
    state = engine.drive(search.init(seed, Timeline.of("a")))
    for _ in stream(search, engine, state, until):
        pass
    return Counted.calls


@pytest.mark.parametrize(("steps", "num", "short", "chunks"), [(16, 3, 4, 2), (9, 2, 9, 3), (12, 5, 1, 1)])
def test_searches_on_chunks_cost_what_their_headers_say(steps: int, num: int, short: int, chunks: int):
    clip = Chunk(SHAPE, grid(steps=steps), Solver(), WINDOW, overlap=2)
    until = WINDOW + 6 * (chunks - 1)
    assert counted(best_of(clip, Smooth(), num), until) == chunks * num * steps
    assert counted(k_step(clip, Smooth(), num, short), until) == chunks * (num * short + steps)
    assert counted(best_of(clip, Smooth(), num, "horizon"), until) == chunks * (num + 1) * steps
    mixture = Mixture((("gaussian", 1.0),))
    assert counted(beam(clip, Smooth(), 1, num, proposals=mixture), until) == chunks * (num + steps - 1)
    if short > 1:
        deep = beam(clip, Smooth(), 1, num, short, proposals=mixture)
        assert counted(deep, until) == chunks * (num * short + steps)
    wide = beam(clip, Smooth(), 2, num, proposals=mixture, max_lag=1)
    assert counted(wide, until) <= (chunks + 1) * 2 * (num + steps - 1)
    assert counted(local(clip, Smooth(), "random", num, 2), until) == chunks * 2 * num * steps
    assert counted(local(clip, Smooth(), "zero-order", num, 3), until) == chunks * (1 + 3 * (num - 1)) * steps
    half = round(steps * 0.25)
    assert counted(local(clip, Smooth(), "paths", num, 2), until) == chunks * (num * (steps - half) + half)
    kept = LatSearch(clip, Smooth(), num, (steps - 1, 2), "systematic", jitter=0.2)
    assert counted(kept, until) == chunks * (num * (steps - 2) + 2)
    assert counted(LatSearch(clip, Smooth(), num, (steps - 1, 2), "unique"), until) <= chunks * (num * (steps - 2) + 2)
    pruned = LatSearch(clip, Smooth(), num, (steps - 2, 3), "prune")
    assert counted(pruned, until) == chunks * (num * 2 + -(-num // 2) * (steps - 5) + 3)
    levels = (steps, steps - 3, 2)
    assert counted(evolve(clip, Smooth(), (num, 2, 1), levels), until) == chunks * (num * steps + 2 * (steps - 3) + 2)


@pytest.mark.parametrize(("steps", "window", "num"), [(16, 8, 3), (18, 6, 2), (12, 12, 4)])
def test_beams_on_a_queue_share_what_they_have_in_common(steps: int, window: int, num: int):
    """ScalingNoise Sec. 3.3: of 2p windows a candidate needs one of its own."""
    queue, parts, until = Fifo(SHAPE, grid(steps=steps), Solver(), window), steps // window, 25
    filling = sum(max(1, -(-2 * r // window) - 1) + num - 1 for r in range(1, steps + 1))
    mixture = Mixture((("gaussian", 1.0),))
    want = filling + (until - 1) * (2 * parts - 1 + num)
    assert counted(beam(queue, Smooth(), 1, num, proposals=mixture), until) == want
    search = beam(queue, Drift(), 3, num, proposals=mixture)
    engine = Engine(oracle(search), 64)
    state = engine.drive(search.init(7, Timeline.of("a")))
    for _, emission in stream(search, engine, state, until):
        assert emission.info.nfe <= 3 * (2 * parts - 1 + num)


def test_inversion_costs_its_steps_where_it_is_drawn():
    clip = rollouts()["chunk"]
    mixture = Mixture((("inversion", 1.0),), inversion_steps=5)
    # the first clip has nothing to invert
    assert counted(beam(clip, Smooth(), 1, 2, proposals=mixture), 20) == 3 * (2 + 15) + 2 * 5


@pytest.mark.parametrize("name", ["beam", "beam chunk", "latsearch", "latsearch systematic", "best-of chunk"])
def test_a_run_is_replayed_from_its_book(name: str):
    """The scores in the book and nothing else of a reward: the same video, the same count."""
    search = every_search()[name]
    engine, scores, want = Engine(oracle(search), 8), {}, []
    state = engine.drive(search.init(7, Timeline.of("a")))
    for tick, (now, emission) in enumerate(stream(search, engine, state)):
        want.extend(emission.latents)
        for candidate in (*emission.info.candidates, *now.book.candidates):
            scores.setdefault(candidate.tick, {})[candidate.name] = candidate.score
        if tick == 40:
            break

    class Recorded:
        needs = frozenset({"x0"})

        def __init__(self) -> None:
            self.left = [list(scores[tick].values()) for tick in sorted(scores)]

        def __call__(self, views: list[View]) -> list[float]:
            return self.left.pop(0)

    from dataclasses import replace

    again, other, got = replace(search, reward=Recorded()), Engine(oracle(search), 8), []
    state = other.drive(again.init(7, Timeline.of("a")))
    for tick, (_, emission) in enumerate(stream(again, other, state)):
        got.extend(emission.latents)
        if tick == 40:
            break
    assert equal(got, want) and other.meter.nfe == engine.meter.nfe


# -- particles and generations ---------------------------------------------------------------------------------


def test_weights_and_effective_size_by_hand():
    first, second = weights([3.0, 1.0], 1.0)  # one standard deviation above and below the mean
    assert first / second == pytest.approx(math.exp(2)) and first + second == pytest.approx(1)
    assert weights([3.0, 1.0], 2.0)[0] / weights([3.0, 1.0], 2.0)[1] == pytest.approx(math.e)
    assert weights([300.0, 100.0], 1.0) == pytest.approx([first, second])  # any scale of rewards
    assert weights([2.0, 2.0, 2.0], 1.0) == pytest.approx([1 / 3] * 3)
    assert weights([1.0, -math.inf], 1.0) == [0.5, 0.5] or weights([1.0, -math.inf], 1.0)[1] == 0.0
    assert effective([0.25] * 4) == pytest.approx(4) and effective([1.0, 0.0]) == pytest.approx(1)


def test_resampling_keeps_its_promises():
    shares = [0.5, 0.3, 0.15, 0.05]
    order = [0, 1, 2, 3]
    counts = torch.zeros(4)
    for key in range(4000):
        drawn = survivors("systematic", shares, order, fold(key, "test"))
        assert len(drawn) == 4
        for place in range(4):  # systematic: every count is its expectation rounded up or down
            assert abs(drawn.count(place) - 4 * shares[place]) < 1
            counts[place] += drawn.count(place)
        unique = survivors("unique", shares, order, fold(key, "other"))
        assert unique == sorted(set(unique)) and 1 <= len(unique) <= 4
    assert torch.allclose(counts / 16000, torch.tensor(shares), atol=0.01)
    assert (
        survivors("prune", shares, [2, 0, 1, 3], 1) == [2, 0]
        and survivors("greedy", shares, [1, 0, 2, 3], 1) == [1] * 4
    )


def test_particles_are_as_correlated_as_asked():
    clip = rollouts()["chunk"]
    search = LatSearch(clip, Smooth(), 400, correlation=0.6)
    engine = Engine(oracle(clip), 8)
    state = engine.drive(search.init(7, Timeline.of("a")))
    members = search._spawn(state.members[0], 0)
    own = torch.stack([row.x for row in members[0].state.queue.rows])
    others = torch.stack([torch.stack([row.x for row in m.state.queue.rows]) for m in members[1:]])
    assert torch.equal(own, torch.stack([row.x for row in state.members[0].state.queue.rows]))
    assert float((others * own).mean() / own.square().mean()) == pytest.approx(math.sqrt(1 - 0.36), abs=0.02)
    assert float(others.square().mean()) == pytest.approx(0.64 * float(own.square().mean()) + 0.36, abs=0.02)


def test_the_last_level_keeps_the_highest_total_and_the_book_tells_the_effective_size():
    search = every_search()["latsearch"]
    engine = Engine(oracle(search), 8)
    state = engine.drive(search.init(7, Timeline.of("a")))
    for now, emission in stream(search, engine, state, 8):
        level = 16 - now.tick
        if level > 5 and level < 16:
            assert len(now.members) >= 1
        if level == 5:
            assert len(now.members) == 1
        if emission.latents:
            assert 1 <= len(emission.info.ess) <= 3 and all(1 <= e <= 4 + 1e-9 for e in emission.info.ess)
            ticks = sorted({c.tick for c in emission.info.candidates})
            assert ticks == [3, 6, 10] or len(ticks) < 3


def test_jitter_keeps_a_state_at_its_level():
    """Part of the noise is replaced: on the oracle the noise level, told by the spread about the mean, stays."""
    clip = Chunk((2, 24, 24), grid(), Solver(), WINDOW, overlap=2)
    engine = Engine(GaussianVideo(clip.schedule, (2, 24, 24), WINDOW), 8)
    state = engine.drive(clip.init(7, Timeline.of("")))
    for _ in range(8):
        state, _ = engine.drive(clip.step(state))
    child = clip.fork(state, 5, renoised(clip.schedule, 0.6), "flight")
    for row, other in zip(state.queue.rows, child.queue.rows, strict=True):
        assert other.level == row.level and not other.seen
        clean = row.memory.x0s[0]
        alpha, sigma = clip.schedule.alphas[row.level], clip.schedule.sigmas[row.level]
        before, after = ((x - alpha * clean) / sigma for x in (row.x, other.x))
        assert float(after.std()) == pytest.approx(math.sqrt(0.64 * float(before.std()) ** 2 + 0.36), rel=0.06)
        assert float((before * after).mean() / before.square().mean()) == pytest.approx(0.8, abs=0.06)


def test_generations_never_get_worse_and_children_start_from_their_parents_snapshots():
    clip, better = rollouts()["chunk"], 0
    reward = Near(TARGET)
    for seed in range(6):
        finals = []
        for sizes in ((4,), (4, 3), (4, 3, 3)):
            levels = (16, 10, 6)[: len(sizes)]
            got, _ = run(evolve(clip, reward, sizes, levels), WINDOW, seed=seed)
            finals.append(reward([View((), (), (), (), (), tuple(got), len(got))])[0])
        assert finals[0] <= finals[1] <= finals[2]
        better += finals[0] < finals[2]
    assert better >= 3


def test_zero_order_search_climbs():
    clip, reward = rollouts()["chunk"], Near(TARGET)
    gained = 0
    for seed in range(6):
        scores = []
        for rounds in (1, 5):
            got, _ = run(local(clip, reward, "zero-order", 4, rounds), WINDOW, seed=seed)
            scores.append(reward([View((), (), (), (), (), tuple(got), len(got))])[0])
        gained += scores[1] > scores[0]
        assert scores[1] >= scores[0]
    assert gained >= 5


# -- proposals -------------------------------------------------------------------------------------------------


SIDE = (8, 32, 32)


def source() -> Source:
    """Past noise, latents that are anything but white, and their inversion."""
    noises = tuple(normal(SIDE, 5, "noise", n) for n in range(6))
    smooth = tuple(3 + normal((8, 1, 1), 5, "latent", n).expand(SIDE) for n in range(6))
    return Source(noises, smooth, tuple(normal(SIDE, 6, "inverted", n) for n in range(6)))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("band", ["gaussian", "butterworth"])
@pytest.mark.parametrize("name", ["gaussian", "fft", "renoise", "neighbour", "inversion"])
def test_every_proposal_is_a_draw_of_unit_variance(name: str, band: Any, dims: Any):
    from longtake.core.rows import noise_row

    mixture = Mixture(EVERY, dims, band)
    for rows in (range(40, 41), range(40, 46)):
        for key in (3, 4):
            told, mix = mixture.mix(name, source(), rows, key, set())
            assert told == name
            for index in rows:
                row, fresh = noise_row(SIDE, 16, index, 9), normal(SIDE, key, "init", index)
                x = fresh if mix is None else mix(row, fresh)
                # 8192 numbers: the mean square has a standard error of .016
                assert float(x.square().mean()) == pytest.approx(1, abs=0.08)
                if name == "fft":
                    power = torch.fft.fft2(x).abs().square().mean(0) / (32 * 32)
                    low, high = power[:4, :4].mean(), power[8:24, 8:24].mean()
                    assert float(low) == pytest.approx(1, abs=0.35) and float(high) == pytest.approx(1, abs=0.1)


def test_fft_takes_the_low_band_from_the_past_and_the_high_band_from_new_noise():
    old, fresh = normal(SIDE, 5, "noise", 5), normal(SIDE, 9, "init", 1)
    _, mix = Mixture((("fft", 1.0),)).mix("fft", source(), range(40, 41), 3, set())
    from longtake.core.rows import noise_row

    mixed = torch.fft.fft2(mix(noise_row(SIDE, 16, 40, 9), fresh))  # type: ignore[misc]
    for given, place in ((old, (0, 0)), (fresh, (16, 16))):
        want = torch.fft.fft2(given)
        assert torch.allclose(mixed[:, place[0], place[1]], want[:, place[0], place[1]], atol=1e-2)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("band", ["gaussian", "butterworth"])
def test_noise_that_follows_an_inversion_is_a_draw_of_unit_variance_too(band: Any, dims: Any):
    """An inverted latent is not white: its power lies in the very band that `fft` takes of the rows before."""
    from longtake.core.rows import noise_row
    from longtake.search.proposals import unit

    wide = [normal((8, 4, 4), 5, "inverted", n).repeat_interleave(8, 1).repeat_interleave(8, 2) for n in range(6)]
    slow = tuple(unit(0.7 * unit(x) + 0.7 * normal(SIDE, 6, "inverted", n)) for n, x in enumerate(wide))
    for rows in (range(40, 41), range(40, 46)):
        _, mix = Mixture(EVERY, dims, band).mix("fft", Source(slow, slow), rows, 3, set())
        for index in rows:
            x = mix(noise_row(SIDE, 16, index, 9), normal(SIDE, 3, "init", index))  # type: ignore[misc]
            assert float(x.square().mean()) == pytest.approx(1, abs=0.08)


def test_a_neighbour_is_as_far_as_delta_says():
    centre, fresh = normal(SIDE, 1, "a"), normal(SIDE, 2, "b")
    for delta in (0.1, 0.5, 1.2):
        assert float((near(centre, fresh, delta) - centre).square().mean().sqrt()) == pytest.approx(delta, rel=0.03)


def test_a_second_inversion_of_one_parent_is_a_neighbour_and_what_has_no_source_is_gaussian():
    mixture, taken = Mixture(EVERY), set[str]()
    names = [mixture.mix("inversion", source(), range(40, 41), key, taken)[0] for key in (1, 2, 3)]
    assert names == ["inversion", "neighbour", "neighbour"]
    for name in ("fft", "renoise", "neighbour", "inversion"):
        assert mixture.mix(name, Source(), range(1), 1, set()) == ("gaussian", None)
    drawn = [Mixture((("gaussian", 1.0), ("fft", 3.0))).pick(fold(n, "x")) for n in range(2000)]
    assert drawn.count("fft") / 2000 == pytest.approx(0.75, abs=0.04)


@pytest.mark.parametrize("bad", [(("fft", 0.0),), (("ftt", 1.0),), (), (("fft", 1.0), ("fft", 2.0))])
def test_mixtures_that_mean_nothing_are_refused(bad: Any):
    with pytest.raises(ValueError, match=r"proposals are|weights of proposals"):
        Mixture(bad)


def test_inversion_leads_back_to_the_latents():
    """The other side is the ordinary sampler, run from the inverted noise on the same fine grid."""
    denoiser = GaussianVideo(grid(steps=96), SHAPE, WINDOW)
    engine = Engine(denoiser, 1)
    clip = Chunk(SHAPE, denoiser.schedule, Solver(), WINDOW, overlap=0)
    state = engine.drive(clip.init(7, Timeline.of("a")))
    latents = [x for _, emission in stream(clip, engine, state, WINDOW) for x in emission.latents]
    noise = engine.drive(invert(latents, denoiser.schedule, "a", 95))
    x, s = torch.stack(noise), denoiser.schedule
    for level in range(96, 0, -1):
        x0 = denoiser(x[None], torch.full((1, WINDOW), level), ["a"])[0]
        x = s.alphas[level - 1] * x0 + s.sigmas[level - 1] * (x - s.alphas[level] * x0) / s.sigmas[level]
    assert float((x - torch.stack(latents)).std()) < 0.1 * float(torch.stack(latents).std())
    first = torch.stack([row.x for row in state.queue.rows])
    assert float(torch.corrcoef(torch.stack([first.flatten(), torch.stack(noise).flatten()]))[0, 1]) > 0.95


def test_what_is_proposed_is_in_the_book():
    search = every_search()["beam proposals"]
    engine = Engine(oracle(search), 8)
    state = engine.drive(search.init(7, Timeline.of("a")))
    told = [c for _, emission in stream(search, engine, state, 20) for c in emission.info.candidates]
    assert {c.proposal for c in told} == {"own", "gaussian", "fft", "renoise", "neighbour", "inversion"}
    assert all((c.proposal == "own") == (c.number == 0) for c in told)


def test_a_search_around_a_search_tries_other_noise_than_the_search_inside():
    clip = rollouts()["chunk"]
    seen: set[bytes] = set()

    class Spy:
        needs = frozenset({"x0"})

        def __call__(self, views: list[View]) -> list[float]:
            for view in views:
                seen.add(view.x0[0].numpy().tobytes())
            return [0.0] * len(views)

    run(Population(k_step(clip, Spy(), 3, 2), Drift(), 3), WINDOW)
    assert len(seen) == 9


def test_what_is_judged_is_what_the_candidate_made():
    """The clip of a view is the latents that the branch finished since it forked; the rest stands before it."""
    clip, sizes = rollouts()["chunk"], []

    class Spy:
        needs = frozenset({"past"})

        def __call__(self, views: list[View]) -> list[float]:
            sizes.extend((len(view.clip), len(view.before)) for view in views)
            return [0.0] * len(views)

    run(best_of(clip, Spy(), 2), 20)
    assert sizes == [(8, 0)] * 2 + [(6, 8)] * 2 + [(6, 14)] * 2  # 16 finished latents are kept before the clip
