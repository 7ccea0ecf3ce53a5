"""The laws once more on a tiny random pipeline in real diffusers format: a network couples rows as no oracle does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from longtake.core.engine import Engine
from longtake.core.forecast import forecast
from longtake.core.noise import normal, root
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.models.load import Model, load
from longtake.models.tiny import tiny_wan
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.plain import Plain
from longtake.search.lookahead import Lookahead
from longtake.search.population import Population
from longtake.testing import check_denoiser, check_rollout
from tests import reference
from tests.cases import Smooth, equal
from tests.memory import in_use

SIZE, STEPS, WINDOW, GUIDANCE, PROMPT, NEGATIVE = (32, 64), 8, 4, 3.0, "a dog runs right over the hills", "a cat"


def model_of(scheduler: str = "euler", steps: int = STEPS, guidance: float = GUIDANCE) -> tuple[Any, Model]:
    pipe = tiny_wan(scheduler=scheduler)
    return pipe, load(pipe, size=SIZE, num_steps=steps, guidance=guidance, negative_prompt=NEGATIVE)


@pytest.fixture(scope="module")
def tiny() -> Model:
    return model_of()[1]


def rollouts(model: Model) -> dict[str, Any]:
    shape, schedule = model.denoiser.can.latent_shape, model.denoiser.schedule
    solver = Solver(model.solver)
    return {
        "plain": Plain(shape, schedule, solver, WINDOW),
        "chunk": Chunk(shape, schedule, solver, WINDOW, overlap=1),
        "fifo": Fifo(shape, schedule, solver, WINDOW),
        "fifo replicate": Fifo(shape, schedule, solver, WINDOW, start="replicate"),
    }


CASES = ("plain", "chunk", "fifo", "fifo replicate")


def run(
    rollout: Any, model: Model, until: int, prompts: Any = PROMPT, batch: int = 1
) -> tuple[list[torch.Tensor], Engine]:
    engine = Engine(model.denoiser, batch)
    state = engine.drive(rollout.init(7, Timeline.of(prompts)))
    emissions = [emission for _, emission in stream(rollout, engine, state, until)]
    return [latent for emission in emissions for latent in emission.latents][:until], engine


def test_the_denoiser_keeps_the_law_kit(tiny: Model):
    check_denoiser(tiny.denoiser)


@pytest.mark.parametrize("name", CASES)
def test_rollouts_keep_the_law_kit(name: str, tiny: Model):
    check_rollout(rollouts(tiny)[name], tiny.denoiser, num_latents=WINDOW if name == "plain" else 6)


@pytest.mark.parametrize("scheduler", ["euler", "unipc", "dpmpp_2m"])
def test_plain_is_the_stock_pipeline_on_the_same_noise(scheduler: str):
    pipe, model = model_of(scheduler)
    got, _ = run(rollouts(model)["plain"], model, WINDOW)
    shape = model.denoiser.can.latent_shape
    start = torch.stack([normal(shape, root(7), "init", index) for index in range(WINDOW)])
    want = pipe(
        PROMPT, NEGATIVE, height=SIZE[1], width=SIZE[0], num_frames=4 * (WINDOW - 1) + 1, num_inference_steps=STEPS,
        guidance_scale=GUIDANCE, latents=start.transpose(0, 1)[None], output_type="latent",
    ).frames[0].transpose(0, 1)  # fmt: skip
    assert float((torch.stack(got) - want).abs().max()) <= 1e-4 * float(want.std())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("guidance", "cost"), [(3.0, 2), (1.0, 1)])
def test_a_hook_on_the_network_counts_what_is_stated(name: str, guidance: float, cost: int):
    _, model = model_of(guidance=guidance)
    many = WINDOW if name == "plain" else 9
    counted = []
    hook = model.denoiser.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: counted.append(len(kwargs.get("hidden_states", args[0] if args else None))),
        with_kwargs=True,
    )
    try:
        _, engine = run(rollouts(model)[name], model, many)
    finally:
        hook.remove()
    stated = {
        "plain": STEPS,
        "chunk": reference.chunk_nfe(STEPS, WINDOW, 1, many),
        "fifo": reference.fifo_nfe(STEPS, WINDOW, many, "fanout"),
        "fifo replicate": reference.fifo_nfe(STEPS, WINDOW, many, "replicate"),
    }[name]
    assert sum(counted) == engine.meter.nfe == cost * stated
    assert forecast(rollouts(model)[name], many, cost=cost).nfe == engine.meter.nfe


@pytest.mark.parametrize("name", CASES[1:])
def test_batches_change_nothing_that_can_be_seen(name: str, tiny: Model):
    alone, _ = run(rollouts(tiny)[name], tiny, 6)
    together, engine = run(rollouts(tiny)[name], tiny, 6, batch=8)
    assert engine.meter.forwards < engine.meter.nfe / 2 or name == "chunk"
    assert max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True)) < 1e-3


def test_a_prompt_change_leaves_what_is_out_of_reach_untouched(tiny: Model):
    rollout = rollouts(tiny)["fifo"]
    change = 20
    before, _ = run(rollout, tiny, change + 1)
    after, _ = run(rollout, tiny, change + 1, {0: PROMPT, change: "the sea at night"})
    assert equal(before[: change - rollout.reach], after[: change - rollout.reach])
    assert not torch.equal(before[change], after[change])


@pytest.mark.parametrize("wrap", ["population", "lookahead"])
def test_searches_run_and_repeat(wrap: str, tiny: Model):
    inner = rollouts(tiny)["fifo"]
    search = {
        "population": Population(inner, Smooth(), num=2, width=2, when="tick", max_lag=3),
        "lookahead": Lookahead(inner, Smooth(), num=2, look=2),
    }[wrap]
    first, _ = run(search, tiny, 4)
    assert equal(first, run(search, tiny, 4)[0])
    assert not equal(first, run(inner, tiny, 4)[0])


@pytest.mark.slow
def test_a_thousand_ticks_in_flat_memory():
    _, model = model_of(steps=4, guidance=1.0)
    rollout = rollouts(model)["fifo"]
    engine = Engine(model.denoiser)
    state = engine.drive(rollout.init(7, Timeline.of(PROMPT)))
    cache, sizes = None, []
    for tick, (_, emission) in enumerate(stream(rollout, engine, state)):
        if emission.latents:
            _, cache = model.codec.decode(torch.stack(emission.latents), cache)
        if tick % 100 == 99:
            sizes.append(in_use())
        if tick == 999:
            break
    assert len(sizes) == 10 and sizes[-1] - sizes[0] <= 1 << 20


def test_a_join_through_pixels_is_the_k_step_papers(tiny: Model):
    """By hand: decode a clip alone, encode its last picture as the first image of the next, drop that frame."""
    shape, schedule = tiny.denoiser.can.latent_shape, tiny.denoiser.schedule
    rollout = Chunk(shape, schedule, Solver(tiny.solver), WINDOW, 1, "pixel", tiny.codec)
    engine = Engine(tiny.denoiser)
    state = engine.drive(rollout.init(7, Timeline.of(PROMPT)))
    emissions = [e for _, e in stream(rollout, engine, state, 2 * WINDOW - 1) if e.latents]
    first, second = emissions
    assert (len(first.latents), len(second.latents)) == (WINDOW, WINDOW - 1) and first.guide == ()
    frames, _ = tiny.codec.decode(torch.stack(first.latents))
    picture = tiny.codec.encode(frames[-1:])[0]
    assert torch.equal(second.guide[0], picture)
    plain = Plain(shape, schedule, Solver(tiny.solver), WINDOW)
    clip = engine.drive(plain.init(7, Timeline.of(PROMPT), [picture]))
    # the same noise: rows of the second clip are drawn under their own places in time
    rows = [normal(shape, root(7), "init", WINDOW + place) for place in range(WINDOW - 1)]
    queue = [row if row.level == 0 else _with(row, x) for row, x in zip(clip.queue.rows, [picture, *rows], strict=True)]
    clip = _with_rows(clip, queue)
    latents = [x for _, e in stream(plain, engine, clip) for x in e.latents]
    assert max(float((a - b).abs().max()) for a, b in zip(latents, second.latents, strict=True)) < 1e-5


def _with(row: Any, x: torch.Tensor) -> Any:
    from dataclasses import replace

    return replace(row, x=x)


def _with_rows(state: Any, rows: list[Any]) -> Any:
    from dataclasses import replace

    return replace(state, queue=replace(state.queue, rows=tuple(rows)))
