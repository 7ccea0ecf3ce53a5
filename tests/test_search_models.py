"""Searches on networks: a tiny random Wan pipeline, and pocket by what is seen in its pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from longtake.apps.rewarding import Supplies, make_reward, parse_reward
from longtake.core.engine import Engine
from longtake.core.forecast import forecast
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.models.load import load
from longtake.models.tiny import tiny_wan
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.search.beam import beam
from longtake.search.best_of import best_of
from longtake.search.evolve import evolve
from longtake.search.k_step import k_step
from longtake.search.latsearch import LatSearch
from longtake.testing.laws import resumed
from tests.cases import equal

PROMPT = "a dog walks right across green hills at noon"
WINDOW = 4


@pytest.fixture(scope="module", params=["tiny", "pocket"])
def model(request: Any) -> Any:
    if request.param == "tiny":
        return load(tiny_wan(scheduler="euler"), size=(32, 64), num_steps=8, guidance=1.0)
    return load("pocket", num_steps=4, guidance=1.0, device="cpu")


def made(name: str, model: Any, one: bool = False) -> Any:
    shape, schedule, solver = model.denoiser.can.latent_shape, model.denoiser.schedule, Solver(model.solver)
    clip = Chunk(shape, schedule, solver, WINDOW, overlap=1)
    terms = "consistency+0.5*motion" if model.name == "pocket" else "latent-cosine+0.5*motion"
    values = {"motion": {"floor": 0.01}, "consistency": {"encoder": "pocket-judge/reward/subject"}}
    if model.name != "pocket":
        values = {"motion": {"floor": 0.1, "of": "latents"}}
    folder = model.source if model.name == "pocket" else None
    reward = make_reward(parse_reward(terms), Supplies(model.codec, folder, WINDOW), values)
    two, steps = 1 if one else 2, schedule.num_steps
    return {
        "beam fifo": lambda: beam(Fifo(shape, schedule, solver, WINDOW), reward, two, two),
        "k-step": lambda: k_step(clip, reward, two, 2),
        "best-of-n": lambda: best_of(clip, reward, two),
        "latsearch": lambda: LatSearch(clip, reward, two, (3 * steps // 4, steps // 2), correlation=0.5),
        "evolve": lambda: evolve(clip, reward, (1,) if one else (2, 1), () if one else (steps, steps // 2)),
    }[name]()


NAMES = ("beam fifo", "k-step", "best-of-n", "latsearch", "evolve")


def run(rollout: Any, model: Any, until: int, batch: int = 1) -> tuple[list[torch.Tensor], Engine]:
    engine = Engine(model.denoiser, batch)
    state = engine.drive(rollout.init(7, Timeline.of(PROMPT)))
    return [x for _, emission in stream(rollout, engine, state, until) for x in emission.latents][:until], engine


@pytest.mark.parametrize("name", NAMES)
def test_one_candidate_is_no_search(name: str, model: Any):
    search = made(name, model, one=True)
    assert equal(run(search, model, 4)[0], run(search.inner, model, 4)[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_search_resumes_bit_for_bit_and_keeps_to_its_bound(name: str, model: Any, tmp_path):
    search = made(name, model)
    want, engine = run(search, model, 5)
    got = resumed(made(name, model), Engine(model.denoiser, 1), 5, tmp_path, seed=7, prompt=PROMPT)
    assert equal(got[:5], want)
    plan = forecast(search, 5)
    assert engine.meter.nfe == plan.nfe if plan.exact else engine.meter.nfe <= plan.nfe


def test_batches_give_the_same_winner(model: Any):
    """Batches change last bits of a real network, so winners are compared, and videos closely."""
    one, many = (run(made("k-step", model), model, 5, batch)[0] for batch in (1, 4))
    assert max(float((a - b).abs().max()) for a, b in zip(one, many, strict=True)) < 1e-3


@pytest.mark.parametrize("model", ["pocket"], indirect=True)
def test_best_of_two_agrees_more_than_the_run_without_it(model: Any):
    """What a search is for, measured by its own reward, which is what its candidates were compared by."""
    from longtake.core.rollout import View

    search = made("best-of-n", model)
    scores = []
    for rollout in (search, search.inner):
        latents, _ = run(rollout, model, WINDOW)
        scores.append(search.reward([View((), (), (), (), (), tuple(latents), len(latents), prompt=PROMPT)])[0])
    assert scores[0] >= scores[1]
