"""SkyReels-V2 by diffusion forcing: against the stock forward and the stock pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor

from longtake.apps.lookup import look_up
from longtake.apps.settings import Request
from longtake.core.engine import Engine
from longtake.core.rollout import Timeline
from longtake.core.rows import advance, noise_row
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.errors import UsageError
from longtake.models.load import Model, load
from longtake.models.skyreels import forward_forcing
from longtake.models.tiny import tiny_scheduler
from longtake.models.tiny_skyreels import tiny_skyreels
from longtake.rollouts.fifo import Fifo
from longtake.testing import check_denoiser, check_rollout
from tests.wan_cases import NEGATIVE, PROMPT, SIZE, noise, relative

STEPS = 6


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "told the frame rate"])
def pipe(request) -> Any:
    return tiny_skyreels(fps=request.param)


def of(pipe: Any, **options: Any) -> Model:
    return load(pipe, **{"size": SIZE, "num_steps": STEPS, **options})


def test_it_says_what_it_is(pipe, tmp_path):
    model = of(pipe)
    can = model.denoiser.can
    assert (model.family, model.window, model.fps, model.guidance, model.solver) == ("skyreels", 25, 24, 6.0, "unipc")
    assert (can.per_row_levels, can.image_first, can.latent_shape) == ("native", True, (6, 8, 4))
    pipe.save_pretrained(tmp_path / "df", safe_serialization=True)
    facts = look_up(Request("a dog", tmp_path / "df", size=SIZE))
    assert (facts.family, facts.window, facts.channels, facts.factor, facts.fps) == ("skyreels", 25, 6, 8, 24)
    x, levels = noise(model, 2, 3), torch.tensor([[0, 2, 5], [3, 3, 3]])
    loaded = of(tmp_path / "df")
    assert torch.equal(loaded.denoiser(x, levels, [PROMPT] * 2), model.denoiser(x, levels, [PROMPT] * 2))
    assert torch.equal(loaded.codec.decode(x[0])[0], model.codec.decode(x[0])[0])


@torch.no_grad()
def test_equal_levels_are_the_stock_forward_with_one_time(pipe):
    model = of(pipe, guidance=1.0)
    x, schedule = noise(model, 2, 5), model.denoiser.schedule
    text = torch.cat([pipe.encode_prompt(p, None, False, max_sequence_length=512)[0] for p in (PROMPT, NEGATIVE)])
    for level in (1, 6):
        ours = model.denoiser(x, torch.full((2, 5), level), [PROMPT, NEGATIVE])
        times = torch.tensor([schedule.times[level]] * 2)
        flow = pipe.transformer(x.transpose(1, 2), times, text, fps=[1, 1], return_dict=False)[0].transpose(1, 2)
        assert relative(ours, x - schedule.sigmas[level] * flow) < 1e-5


@torch.no_grad()
def test_a_level_a_row_is_the_stock_forcing_forward(pipe):
    model = of(pipe, guidance=1.0)
    x, schedule, levels = noise(model, 2, 4), model.denoiser.schedule, torch.tensor([[0, 1, 3, 6], [5, 2, 5, 5]])
    ours = model.denoiser(x, levels, [PROMPT, PROMPT])
    text = pipe.encode_prompt(PROMPT, None, False, max_sequence_length=512)[0]
    for window in range(2):
        flow = pipe.transformer(
            x[window : window + 1].transpose(1, 2), torch.tensor(schedule.times)[levels[window]][None], text,
            enable_diffusion_forcing=True, fps=[1], return_dict=False,
        )[0][0].transpose(0, 1)  # fmt: skip
        sigmas = torch.tensor(schedule.sigmas)[levels[window]][:, None, None, None]
        assert relative(ours[window], x[window] - sigmas * flow) < 1e-5
    before = ours.clone()
    levels[0, 3] = 2
    after = model.denoiser(x, levels, [PROMPT, PROMPT])
    assert relative(after[0, 3], before[0, 3]) > 0.1 and relative(after[1], before[1]) < 1e-5
    assert torch.equal(after[0, 0], x[0, 0])


def test_the_frame_rate_is_told():
    pipe = tiny_skyreels(fps=True)
    model = of(pipe)
    x, times = noise(model, 1, 3), torch.tensor([[100.0, 500.0, 900.0]])
    text = pipe.encode_prompt(PROMPT, None, False, max_sequence_length=512)[0]
    flows = [forward_forcing(pipe.transformer, x, times, text, fps) for fps in (16, 24, 30)]
    assert relative(flows[0], flows[1]) > 1e-3 and torch.equal(flows[1], flows[2])


class Careful(UniPCMultistepScheduler):
    """The stock pipeline hands a view of the latents that it then overwrites, and UniPC keeps it: here a copy."""

    def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        return super().step(model_output, timestep, sample.clone(), return_dict)


@torch.no_grad()
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_sampling_is_the_stock_pipelines_also_with_a_level_a_row(name: str, asynchronous: bool, pipe):
    """The stock asynchronous mode: blocks of 2 latents, each 3 steps behind the one before."""
    scheduler = tiny_scheduler(name)
    pipe = type(pipe)(**{**pipe.components, "scheduler": scheduler})
    model = of(pipe, guidance=3.0, negative_prompt=NEGATIVE)
    if name == "unipc":
        pipe.scheduler = Careful.from_config(scheduler.config)
    schedule, solver = model.denoiser.schedule, Solver(model.solver)
    pipe.set_progress_bar_config(disable=True)
    more = dict(ar_step=3, causal_block_size=2) if asynchronous else {}
    pipe.transformer._set_ar_attention = lambda size: None  # its causal mask is not part of the schedule
    try:
        theirs = pipe(
            PROMPT, NEGATIVE, height=SIZE[1], width=SIZE[0], num_frames=13, num_inference_steps=STEPS,
            guidance_scale=3.0, generator=torch.Generator().manual_seed(5), output_type="latent", fps=24, **more,
        ).frames[0].transpose(0, 1)  # fmt: skip
    finally:
        del pipe.transformer._set_ar_attention
    start = randn_tensor((1, 6, 4, 8, 4), generator=torch.Generator().manual_seed(5), dtype=torch.float32)[0]
    rows = [noise_row((6, 8, 4), STEPS, index, 7) for index in range(4)]
    rows = [_with(row, start[:, index]) for index, row in enumerate(rows)]
    for tick in range(STEPS + (3 if asynchronous else 0)):
        moving = [0 <= tick - (3 * (index // 2) if asynchronous else 0) < STEPS for index in range(4)]
        levels = torch.tensor([[row.level for row in rows]])
        x0 = model.denoiser(torch.stack([row.x for row in rows])[None], levels, [PROMPT])[0]
        picked = [index for index in range(4) if moving[index]]
        moved = advance([rows[i] for i in picked], [x0[i] for i in picked], [rows[i].level - 1 for i in picked],
                        solver, schedule)  # fmt: skip
        for index, row in zip(picked, moved, strict=True):
            rows[index] = row
    assert relative(torch.stack([row.x for row in rows]), theirs) <= 1e-4


def _with(row: Any, x: torch.Tensor) -> Any:
    from dataclasses import replace

    return replace(row, x=x)


def test_law_kits_and_a_queue(pipe):
    model = of(pipe, num_steps=8)
    check_denoiser(model.denoiser)
    leaf = model.denoiser.can.latent_shape, model.denoiser.schedule, Solver("unipc"), 4
    check_rollout(Fifo(*leaf), model.denoiser, num_latents=4)


def test_a_queue_begins_with_a_picture(pipe):
    model = of(pipe, num_steps=8)
    rollout = Fifo(model.denoiser.can.latent_shape, model.denoiser.schedule, Solver("unipc"), 4)
    made = []
    for shade in (0, 200):
        picture = model.codec.encode_image(torch.full((64, 32, 3), shade, dtype=torch.uint8))[0]
        engine = Engine(model.denoiser)
        state = engine.drive(rollout.init(7, Timeline.of(PROMPT), [picture]))
        made.append(next(x for _, e in stream(rollout, engine, state, 2) for x in e.latents))
    assert relative(made[0], made[1]) > 1e-2


def test_what_cannot_work_is_refused_in_one_line(tmp_path):
    pipe = tiny_skyreels()
    pipe.transformer.register_to_config(num_frame_per_block=5)
    with pytest.raises(UsageError, match="reads blocks of 5 latents causally"):
        of(pipe)
    pipe.save_pretrained(tmp_path / "blocks", safe_serialization=True)
    with pytest.raises(UsageError, match="reads blocks of 5 latents causally"):
        look_up(Request("a dog", tmp_path / "blocks"))
