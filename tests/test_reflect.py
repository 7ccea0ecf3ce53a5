"""Self-reflection, FreeInit and the latent cosine: identities, costs, and what they are for."""

from __future__ import annotations

import math
from dataclasses import replace
from math import ceil
from typing import Any

import pytest
import torch

from longtake.core.check import check
from longtake.core.engine import Engine
from longtake.core.forecast import forecast
from longtake.core.noise import normal
from longtake.core.rollout import Timeline, View
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.rewards.latent import LatentCosine, latent_cosine
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.miga import Miga
from longtake.rollouts.plain import Plain
from longtake.rollouts.progressive import Progressive
from longtake.rollouts.windows import Windows
from longtake.search.freeinit import FreeInit, low_pass_mix
from longtake.search.reflect import Reflect, fitted, looks, rates
from longtake.testing.laws import check_reward, resumed
from tests.cases import SHAPE, WINDOW, equal, grid, oracle, run

S16 = grid()
JUDGE = LatentCosine(eval=2, ref=3)


def queues() -> dict[str, Any]:
    return {
        "fifo": Fifo(SHAPE, S16, Solver("unipc"), WINDOW),
        "miga": Miga(SHAPE, S16, Solver("unipc"), WINDOW, 2, 3, 2),
        "progressive": Progressive(SHAPE, S16, Solver("unipc"), 16, 1, 1),
    }


def reflect(inner: Any, threshold: float = -math.inf, **options: Any) -> Reflect:
    """With -inf every look is a trigger."""
    return Reflect(inner, JUDGE, threshold, **{"tries": 2, "eval": 2, "ref": 3, "guide": 3, "judge": 0.25, **options})


# -- the latent cosine -----------------------------------------------------------------------------------------


def test_the_latent_cosine_is_equation_7():
    """By hand: loops over pairs and places, no tensor algebra."""
    judged = [normal((3, 2, 2), 1, "a", i) for i in range(2)]
    before = [normal((3, 2, 2), 2, "b", i) for i in range(3)]

    def cosine(p: torch.Tensor, q: torch.Tensor) -> float:
        a = [sum(float(p[c, y, x]) for c in range(3)) / 3 for y in range(2) for x in range(2)]
        b = [sum(float(q[c, y, x]) for c in range(3)) / 3 for y in range(2) for x in range(2)]
        return sum(u * v for u, v in zip(a, b, strict=True)) / math.sqrt(sum(u * u for u in a) * sum(v * v for v in b))

    want = sum(cosine(p, q) for p in judged for q in before) / 6
    assert latent_cosine(judged, before) == pytest.approx(want, abs=1e-6)
    scaled = [5 * judged[0], 0.1 * judged[1]]
    assert latent_cosine(scaled, before) == pytest.approx(want, abs=1e-6)  # blind to the scale of each latent


def test_the_latent_cosine_reads_the_newest_against_those_before():
    rows = tuple(normal(SHAPE, 3, "row", i) for i in range(6))
    past = tuple(normal(SHAPE, 4, "past", i) for i in range(4))
    noisy = tuple(row + 1 for row in rows)
    view = View(tuple(range(6)), noisy, rows, (5,) * 6, ("",) * 6, past=past, recent=1)
    assert LatentCosine(2, 3)([view]) == [latent_cosine(rows[4:], rows[1:4])]
    assert LatentCosine(0, 8)([view]) == [latent_cosine([past[3], *rows], past[:3])]
    assert LatentCosine(2, 3, "x")([view]) == [latent_cosine(noisy[4:], noisy[1:4])]
    check_reward(LatentCosine(), [view, replace(view, x0=noisy), View((), (), (), (), ())])


# -- reflection ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", queues())
def test_nothing_triggered_is_no_reflection(name: str):
    inner = queues()[name]
    got, spent = run(reflect(inner, threshold=math.inf), 14)
    want, paid = run(inner, 14)
    assert equal(got, want) and spent.meter.nfe >= paid.meter.nfe


@pytest.mark.parametrize("name", queues())
def test_reflection_corrects_repeats_itself_and_resumes(name: str, tmp_path):
    inner = queues()[name]
    rollout = reflect(inner, guide=12)
    got, _ = run(rollout, 12, prompts="")
    assert equal(got, run(rollout, 12, prompts="")[0])
    seeds = range(7, 13)
    assert any(not equal(*(run(r, 12, seed, "")[0] for r in (rollout, inner))) for seed in seeds)
    again = resumed(rollout, Engine(oracle(rollout), 4), 12, tmp_path, seed=7, prompt="")
    assert equal(again[:12], got)


def test_a_correction_is_kept_only_if_it_is_better():
    rollout = reflect(queues()["fifo"], tries=3)
    engine = Engine(oracle(rollout), 4)
    state = engine.drive(rollout.init(7, Timeline.of("a")))
    kept = lost = 0
    for state, emission in stream(rollout, engine, state):  # noqa: B007
        for candidate in emission.info.candidates:
            assert candidate.verdict in ("kept", "dropped") and candidate.proposal in ("own", "regrown")
        scores, chosen = emission.info.scores, emission.info.chosen
        if scores:
            assert chosen == max(range(len(scores)), key=lambda place: (scores[place], -place))
            kept, lost = kept + (chosen > 0), lost + (chosen == 0)
        if emission.stop > 40:
            break
    assert kept and lost
    assert state.tried == 64 or state.tried < state.looked  # type: ignore[attr-defined]
    assert 0 < state.correction_rate <= state.success_rate < 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("threshold", [-math.inf, 0.02, math.inf])
def test_the_trace_tells_how_often_a_run_was_corrected(threshold: float):
    """R_corr and R_succ from the lines, which know no state, and from the state, which knows no lines."""
    from dataclasses import asdict

    rollout = reflect(queues()["miga"], threshold, tries=2, guide=12)
    engine = Engine(oracle(rollout), 4)
    state, lines = engine.drive(rollout.init(7, Timeline.of(""))), []
    for state, emission in stream(rollout, engine, state):  # noqa: B007
        lines.append({"candidates": [asdict(candidate) for candidate in emission.info.candidates]})
        if emission.stop > 24 and emission.latents:
            break
    assert rates(lines) == {
        "looked": state.looked, "tried": state.tried, "corrected": state.corrected,
        "R_corr": state.correction_rate, "R_succ": state.success_rate,
    }  # fmt: skip
    assert state.looked > 10 and (state.corrected > 0) == (threshold < 1)
    assert rates([]) == {"looked": 0, "tried": 0, "corrected": 0, "R_corr": 0, "R_succ": 0}


@pytest.mark.parametrize("name", queues())
def test_reflection_costs_what_its_triggers_say_and_never_more_than_the_plan(name: str):
    """Two sides: the engine's count, and inner cost + regrowths counted by the sum over groups of their windows."""
    inner = queues()[name]
    rollout = reflect(inner, tries=2, max_corrections=5)
    engine = Engine(oracle(rollout), 4)
    state = engine.drive(rollout.init(7, Timeline.of("a")))
    regrown = 0
    while state.emitted < 8:
        before = state.tried
        first = rollout._judged_row(state.state)
        if first is not None:
            levels = [row.level for row in state.state.queue.rows if row.index >= first]
        state, _ = engine.drive(rollout.step(state))
        if state.tried > before:
            stride = 4 if name != "progressive" else 17
            passes = range(1, 16 - levels[0] + 1)
            moving = [sum(16 - level >= 16 - levels[0] - done + 1 for level in levels) for done in passes]
            regrown += 2 * sum(ceil(rows / stride) for rows in moving)
    bare = Engine(oracle(inner), 4)
    # the inner rollout without exact ending
    other = bare.drive(inner.init(7, Timeline.of("a")))
    while other.emitted < 8:
        other, _ = bare.drive(inner.step(other))
    assert state.tried == 5
    assert engine.meter.nfe <= bare.meter.nfe + regrown  # windows that copies share are made once
    assert run(rollout, 8)[1].meter.nfe <= forecast(rollout, 8).nfe
    assert engine.meter.nfe > bare.meter.nfe


def test_equation_a4_is_a_lower_bound():
    """MIGA Eq. A4 counts one window a pass; with more rows than a stride there are more."""
    inner = Fifo(SHAPE, S16, Solver(), WINDOW)
    engine = Engine(oracle(inner), 4)
    state = engine.drive(inner.init(7, Timeline.of("a")))
    for _ in range(15):
        state, _ = engine.drive(inner.step(state))
    counts = {}
    for rows in (4, 8, 12):
        before = engine.meter.nfe
        engine.drive(inner.regrow(state, state.queue.stop - rows, 5, 4))
        counts[rows] = engine.meter.nfe - before
    # the row at the judged place has had rows - 1 passes
    assert counts == {rows: sum(ceil(i / 4) for i in range(1, rows)) for rows in counts}
    assert all(count >= rows - 1 for rows, count in counts.items()) and counts[12] > 11


def test_reflection_repairs_a_broken_tail():
    """The planted fault: half of the tail is noise of another kind; growing it again brings the score back."""
    inner = Fifo(SHAPE, S16, Solver(), WINDOW)
    engine = Engine(oracle(inner, mean_scale=3.0), 4)
    state = engine.drive(inner.init(7, Timeline.of("a")))
    for _ in range(14):
        state, _ = engine.drive(inner.step(state))
    rollout = Reflect(inner, JUDGE, 0.01, 3, eval=2, ref=3, guide=3, judge=0.3)
    first = rollout._judged_row(state)
    assert first is not None
    broken = [
        replace(row, memory=row.memory._replace(x0s=(-row.memory.x0s[0],)), x=-row.x)
        for row in state.queue.rows
        if row.index >= first and row.memory.x0s
    ]
    hurt = replace(state, queue=state.queue.replaced(broken))
    sound, bad = (rollout.reward([rollout._segment(s, first)])[0] for s in (state, hurt))
    assert bad < sound - 0.5
    begun = engine.drive(rollout.init(7, Timeline.of("a")))
    mended, _ = engine.drive(rollout.step(replace(begun, state=hurt, last=sound)))
    assert mended.corrected == 1 and mended.last > bad + 0.5


def test_only_what_can_regrow_is_reflected_on():
    with pytest.raises(ValueError, match="cannot regrow"):
        Reflect(Chunk(SHAPE, S16), JUDGE)
    inner = queues()["miga"]
    assert check(reflect(inner), oracle(inner)) == []


def test_reflection_fits_its_segments_into_the_queue_or_says_that_it_never_looks():
    """Two sides: what the plan says, and whether a run on the oracle ever looked."""
    short = Progressive(SHAPE, grid(steps=33), Solver("unipc"), 11)  # as pocket's: 11 rows
    for inner in (*queues().values(), short):
        made = fitted(inner, JUDGE)
        engine = Engine(oracle(inner), 4)
        state = engine.drive(made.init(7, Timeline.of("a")))
        while not state.looked and state.emitted < 20:
            state, _ = engine.drive(made.step(state))
        assert state.looked
    assert (fitted(short, JUDGE).eval, fitted(short, JUDGE).ref) == (2, 4)
    assert not looks(Reflect(short, JUDGE)) and looks(Reflect(short, JUDGE, eval=2, ref=4))
    with pytest.raises(ValueError, match="would never look"):
        fitted(short, JUDGE, eval=4, ref=8)
    with pytest.raises(ValueError, match=r"miga\.handover=12 or less"):
        Reflect(Miga(SHAPE, S16, Solver(), WINDOW, 2, 13), JUDGE)


# -- FreeInit --------------------------------------------------------------------------------------------------


def clips() -> dict[str, Any]:
    return {
        "plain": Plain(SHAPE, S16, Solver("unipc"), WINDOW),
        "chunk": Chunk(SHAPE, S16, Solver("unipc"), WINDOW, 2),
        "windows": Windows(SHAPE, S16, Solver("unipc"), WINDOW, 20, 3),
    }


@pytest.mark.parametrize("name", clips())
def test_freeinit_once_is_the_rollout_and_more_cost_as_stated(name: str, tmp_path):
    inner = clips()[name]
    many = {"plain": WINDOW, "chunk": 20, "windows": 20}[name]
    want, paid = run(inner, many)
    assert equal(run(FreeInit(inner, 1), many)[0], want)
    for rounds in (2, 3):
        rollout = FreeInit(inner, rounds)
        got, spent = run(rollout, many)
        assert spent.meter.nfe == rounds * paid.meter.nfe == forecast(rollout, many).nfe
        assert not equal(got, want) and equal(got, run(rollout, many)[0])
    again = resumed(FreeInit(inner, 2), Engine(oracle(inner), 4), many, tmp_path, seed=7, prompt="a")
    assert equal(again[:many], run(FreeInit(inner, 2), many)[0])


def test_freeinit_makes_its_noise_as_the_paper_says():
    """The second round by hand: the clip noised by its own noise, high frequencies exchanged by explicit transforms."""
    inner = clips()["plain"]
    rollout = FreeInit(inner, 2, 0.5)
    engine = Engine(oracle(inner), 4)
    start = engine.drive(inner.init(7, Timeline.of("a")))
    state = start
    while not state.finished:
        state, emission = engine.drive(inner.step(state))
        clip = emission.latents
    mixed = rollout._again(engine.drive(rollout.init(7, Timeline.of("a"))), emission)
    rows = [row.x for row in start.queue.rows]
    from longtake.core.noise import fold

    drawn = [row.x for row in inner.fork(start, fold(0, "freeinit", 0)).queue.rows]
    assert S16.alphas[16] == 0  # the last level holds nothing of the clip: it counts as in the paper's model
    alpha, sigma = 0.068, math.sqrt(1 - 0.068**2)
    noised = torch.stack([alpha * c + sigma * r for c, r in zip(clip, rows, strict=True)])
    want = _by_hand(noised, torch.stack(drawn), 0.5)
    assert float((torch.stack([row.x for row in mixed.queue.rows]) - want).abs().max()) < 1e-4


def _by_hand(slow: torch.Tensor, fast: torch.Tensor, cutoff: float) -> torch.Tensor:
    # matrices of the transform along each axis, in complex128, and the filter written out
    def dft(n: int) -> torch.Tensor:
        i = torch.arange(n, dtype=torch.float64)
        return torch.polar(torch.ones(n, n, dtype=torch.float64), -2 * math.pi * i[:, None] * i[None] / n)

    f, _, h, w = slow.shape
    total = torch.zeros_like(slow, dtype=torch.complex128)
    for part, low in ((slow, True), (fast, False)):
        spectrum = torch.einsum("af,bh,dw,fchw->acbd", dft(f), dft(h), dft(w), part.to(torch.complex128))
        for a in range(f):
            for b in range(h):
                for d in range(w):
                    parts = [min(i, n - i) / n * 2 for i, n in ((a, f), (b, h), (d, w))]
                    keep = 1 / (1 + (math.sqrt(sum(p * p for p in parts)) / cutoff) ** 8)
                    spectrum[a, :, b, d] *= keep if low else 1 - keep
        total += torch.einsum("af,bh,dw,acbd->fchw", dft(f).conj(), dft(h).conj(), dft(w).conj(), spectrum)
    return (total / (f * h * w)).real.float()


def test_freeinit_keeps_unit_variance_nearly():
    slow, fast = (torch.stack([normal((4, 8, 8), seed, "n", i) for i in range(12)]) for seed in (1, 2))
    assert float(low_pass_mix(slow, fast, 0.25).std()) == pytest.approx(1, abs=0.1)
    assert torch.allclose(low_pass_mix(slow, slow, 0.25), slow, atol=1e-5)


def test_freeinit_refuses_queues():
    inner = queues()["fifo"]
    with pytest.raises(ValueError, match="whole clips"):
        check(FreeInit(inner, 2), oracle(inner))
