"""The Wan adapter against the stock pipeline: forward, prompts, schedules, sampling."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel

from longtake.core.engine import Engine
from longtake.core.model import Capabilities, Codec, Denoiser
from longtake.core.rows import Queue, advance, noise_row
from longtake.core.schedule import flow, flow_dpm, flow_unipc
from longtake.core.solvers import Solver
from longtake.core.step import denoise
from longtake.core.window import Grid, sweep
from longtake.errors import UsageError
from longtake.models.load import load
from longtake.models.schedules import schedule_of
from longtake.models.wan import forward_rows, self_check
from longtake.models.wan_text import PromptEncoder, clean
from longtake.testing.tiny import tiny_scheduler, tiny_wan
from tests.wan_cases import NEGATIVE, PROMPT, SIZE, model_of, noise, relative

pytest_plugins = ("tests.wan_fixtures",)

# -- the forward -------------------------------------------------------------------------------------------------


def test_it_is_what_the_core_asks_for(pipe, ti2v):
    model = model_of(pipe)
    assert isinstance(model.denoiser, Denoiser) and isinstance(model.codec, Codec)
    assert model.denoiser.can == Capabilities(21, (6, 8, 4), "native", image_first=False)
    assert model_of(ti2v).denoiser.can == Capabilities(31, (6, 6, 4), "native", image_first=True)


@torch.no_grad()
def test_equal_levels_are_the_stock_forward(pipe):
    model = model_of(pipe, guidance=1.0)
    x, schedule = noise(model, 2, 5), model.denoiser.schedule
    text = torch.cat([pipe.encode_prompt(p, None, False, max_sequence_length=512)[0] for p in (PROMPT, NEGATIVE)])
    for level in (1, 4, 6):
        ours = model.denoiser(x, torch.full((2, 5), level), [PROMPT, NEGATIVE])
        stock = pipe.transformer(x.transpose(1, 2), torch.tensor([schedule.times[level]] * 2), text, return_dict=False)
        theirs = x - schedule.sigmas[level] * stock[0].transpose(1, 2)
        assert relative(ours, theirs) < 1e-5
        # the same through one embedding a row, handed to every token
        times = torch.full((2, 5), schedule.times[level])
        assert relative(forward_rows(pipe.transformer, x, times, text, "each"), stock[0].transpose(1, 2)) < 1e-5


@torch.no_grad()
def test_a_level_a_row_is_the_stock_timestep_a_token(pipe):
    model = model_of(pipe, guidance=1.0)
    x, schedule, levels = noise(model, 2, 4), model.denoiser.schedule, torch.tensor([[0, 1, 3, 6], [5, 5, 5, 5]])
    ours = model.denoiser(x, levels, [PROMPT, PROMPT])
    text = pipe.encode_prompt(PROMPT, None, False, max_sequence_length=512)[0].expand(2, -1, -1)
    tokens = x.shape[3] // 2 * (x.shape[4] // 2)
    times = torch.tensor(schedule.times)[levels].repeat_interleave(tokens, dim=1)
    velocity = pipe.transformer(x.transpose(1, 2), times, text, return_dict=False)[0].transpose(1, 2)
    theirs = x - torch.tensor(schedule.sigmas)[levels][:, :, None, None, None] * velocity
    assert relative(ours, theirs) < 1e-5
    assert torch.equal(ours[0, 0], x[0, 0])  # a clean row comes back as it is


@torch.no_grad()
@pytest.mark.parametrize("layout", ["pipe", "ti2v"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_large_calls_broadcast_modulations_to_the_same_bits(layout: str, kind: torch.dtype, request):
    """Six modulations a token in float32 are 8 GB for a guidance pair of Wan 14B at 832x480, made in every block."""
    network = copy.deepcopy(request.getfixturevalue(layout).transformer).to(kind)
    x = torch.randn(2, 3, network.config.in_channels, 8, 6).to(kind)
    text = torch.randn(2, 7, network.config.text_dim).to(kind)
    times, told = torch.tensor([[0.0, 40.0, 800.0], [1.0, 500.0, 999.0]]), []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda module, args: told.append(args[2].shape[1]))
    every, broadcast = (forward_rows(network, x, times, text, way) for way in ("each", "rows"))
    assert told == [36, 36, 3, 3] and torch.equal(every, broadcast)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.blocks[0].children())
    with torch.enable_grad():
        forward_rows(network, x, times, text, "rows")
    assert told[4:] == [36, 36], "what is trained may run blocks again"


@torch.no_grad()
def test_only_the_rows_of_the_window_whose_levels_change_can_change(pipe):
    model = model_of(pipe)
    x, levels = noise(model, 2, 4), torch.tensor([[2, 2, 2, 2], [3, 3, 3, 3]])
    before = model.denoiser(x, levels, [PROMPT] * 2)
    levels[0, 3] = 6
    after = model.denoiser(x, levels, [PROMPT] * 2)
    assert relative(after[0, 3], before[0, 3]) > 0.1  # its own level
    assert relative(after[0, 0], before[0, 0]) > 1e-3  # a neighbour, by attention
    assert relative(after[1], before[1]) < 1e-5  # the other window


@torch.no_grad()
def test_the_guidance_pair_in_one_batch_is_two_forwards(pipe):
    guided = model_of(pipe, guidance=3.0, negative_prompt=NEGATIVE)
    x, levels = noise(guided, 2, 3), torch.tensor([[1, 2, 5], [4, 4, 4]])
    ours = guided.denoiser(x, levels, [PROMPT, "the sea"])
    alone = model_of(pipe, guidance=1.0).denoiser
    wanted, unwanted = alone(x, levels, [PROMPT, "the sea"]), alone(x, levels, [NEGATIVE] * 2)
    assert relative(ours, unwanted + 3.0 * (wanted - unwanted)) < 1e-5
    assert (guided.denoiser.cost, alone.cost) == (2, 1)


def test_a_window_needs_a_prompt_each(pipe):
    model = model_of(pipe)
    with pytest.raises(ValueError, match="one prompt a window"):
        model.denoiser(noise(model, 2, 3), torch.ones(2, 3, dtype=torch.int64), [PROMPT])


def test_the_self_check_refuses_a_transformer_that_ignores_rows(pipe, monkeypatch):
    self_check(pipe.transformer)
    original = WanTransformer3DModel.forward

    def first_time_for_all(self, hidden_states, timestep, *args, **kwargs):
        timestep = timestep if timestep.ndim == 1 else timestep.roll(1, dims=1)
        return original(self, hidden_states, timestep, *args, **kwargs)

    monkeypatch.setattr(WanTransformer3DModel, "forward", first_time_for_all)
    with pytest.raises(UsageError, match=r"diffusers \d"):
        self_check(pipe.transformer)


# -- prompts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt", ["", PROMPT, "  a \n dog\t&amp;amp; the   cat ", "an “owl” flies", "a dog runs and " * 12]
)
@pytest.mark.parametrize("length", [16, 226])
def test_prompts_are_encoded_as_the_stock_pipeline_does(pipe, prompt: str, length: int):
    ours = PromptEncoder(pipe.tokenizer, pipe.text_encoder, max_length=length)(prompt)
    with torch.no_grad():
        theirs = pipe.encode_prompt(prompt, None, False, max_sequence_length=length)[0][0]
    assert torch.equal(ours, theirs)


def test_cleaning_is_by_hand():
    assert clean(" a &lt;dog&gt;\n\n runs&amp;amp;flies ") == "a <dog> runs&flies"


def test_a_released_encoder_serves_what_it_knows(pipe, folder):
    model = model_of(pipe)
    model.prepare([PROMPT], release=True)
    x, levels = noise(model, 1, 2), torch.tensor([[3, 3]])
    known = model.denoiser(x, levels, [PROMPT])
    with pytest.raises(UsageError, match="released and prompt 'a cat' is new"):
        model.denoiser(x, levels, ["a cat"])
    assert pipe.text_encoder is not None
    loaded = load(folder, size=SIZE, num_steps=6)
    loaded.prepare([PROMPT], release=True)
    assert loaded.denoiser.text._encoder is None
    assert torch.equal(loaded.denoiser(x, levels, [PROMPT]), known)
    loaded.denoiser(x, levels, ["a cat"])  # a folder brings its encoder back


# -- schedules and sampling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps,shift", [(1, 3.0), (6, 3.0), (24, 3.0), (50, 5.0), (33, 1.0)])
@pytest.mark.parametrize("name", ["euler", "unipc", "dpmpp_2m"])
def test_schedules_are_the_formulas_and_the_stock_numbers(name: str, steps: int, shift: float):
    scheduler = tiny_scheduler(name, shift)
    before = str(vars(scheduler))
    ours = schedule_of(scheduler, steps)
    assert str(vars(scheduler)) == before  # the pipeline's own object is not touched
    formula = {"euler": flow, "unipc": flow_unipc, "dpmpp_2m": flow_dpm}[name](steps, shift).sigmas
    np.testing.assert_allclose(ours.sigmas, formula, atol=2e-7)
    scheduler.set_timesteps(steps)
    assert ours.sigmas == (0.0, *scheduler.sigmas.tolist()[-2::-1])
    assert ours.times == (0.0, *map(float, scheduler.timesteps.tolist()[::-1]))
    np.testing.assert_allclose(np.add(ours.alphas, ours.sigmas), 1)


def test_another_solver_runs_on_its_own_grid_with_the_pipelines_shift():
    for name in ("euler", "unipc", "dpmpp_2m"):
        for other in ("euler", "unipc", "dpmpp_2m"):
            assert schedule_of(tiny_scheduler(name, 5.0), 7, other) == schedule_of(tiny_scheduler(other, 5.0), 7)
    assert schedule_of(tiny_scheduler("unipc"), 7, "ddim") == schedule_of(tiny_scheduler("euler"), 7)


@pytest.mark.parametrize("name", ["euler", "unipc", "dpmpp_2m"])
def test_a_shift_can_be_asked_for(name: str):
    scheduler = tiny_scheduler(name)
    before = str(vars(scheduler))
    wanted = schedule_of(tiny_scheduler(name, 5.0), 7)
    assert schedule_of(scheduler, 7, shift=5.0) == wanted != schedule_of(scheduler, 7)
    assert schedule_of(scheduler, 7, "unipc", 5.0) == schedule_of(tiny_scheduler("unipc", 5.0), 7)
    assert str(vars(scheduler)) == before
    with pytest.raises(UsageError, match="shift must be above 0"):
        schedule_of(scheduler, 7, shift=0)


def test_a_model_takes_a_shift_from_set_or_its_folder(folder, tmp_path):
    wanted = schedule_of(tiny_scheduler("unipc", 5.0), 6)
    assert load(folder, size=SIZE, num_steps=6, extras={"shift": 5.0}).denoiser.schedule == wanted
    shutil.copytree(folder, tmp_path / "mine")
    (tmp_path / "mine" / "longtake.json").write_text('{"shift": 5.0}')
    assert load(tmp_path / "mine", size=SIZE, num_steps=6).denoiser.schedule == wanted


@torch.no_grad()
@pytest.mark.parametrize("layout", ["pipe", "ti2v"])
@pytest.mark.parametrize("name", ["euler", "unipc", "dpmpp_2m"])
def test_a_clip_is_the_stock_pipelines(name: str, layout: str, request):
    pipe = request.getfixturevalue(layout)
    stock = WanPipeline(**{**pipe.components, "scheduler": tiny_scheduler(name)},
                        expand_timesteps=pipe.config.expand_timesteps)  # fmt: skip
    stock.set_progress_bar_config(disable=True)
    model = model_of(stock, guidance=3.0, negative_prompt=NEGATIVE)
    assert model.solver == name
    can, schedule, solver = model.denoiser.can, model.denoiser.schedule, Solver(name)
    rows = [noise_row(can.latent_shape, schedule.num_steps, index, 7) for index in range(5)]
    theirs = stock(
        PROMPT, NEGATIVE, height=model.size[1], width=model.size[0], num_frames=17, num_inference_steps=6,
        guidance_scale=3.0, output_type="latent", latents=torch.stack([row.x for row in rows], 1)[None],
    ).frames[0]  # fmt: skip
    for level in range(schedule.num_steps, 0, -1):
        x0 = model.denoiser(torch.stack([row.x for row in rows])[None], torch.full((1, 5), level), [PROMPT])
        rows = advance(rows, list(x0[0]), [level - 1] * 5, solver, schedule)
    assert relative(torch.stack([row.x for row in rows], 1), theirs) <= 1e-4


# -- a live pipeline stays as it is ------------------------------------------------------------------------------


def fingerprint(pipe: WanPipeline) -> list[Any]:
    """All that could have been changed: weights, attributes, hooks and methods of every module, the scheduler."""
    found: list[Any] = [str(vars(pipe.scheduler)), sorted(vars(pipe))]
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder):
        found += [value.double().sum().item() for value in part.state_dict().values()]
        for module in part.modules():
            found.append([(key, id(value)) for key, value in vars(module).items()])
            found.append([len(value) for key, value in vars(module).items() if "hooks" in key and value is not None])
            found.append((module.training, type(module), type(module).forward))
    return found


@pytest.mark.parametrize("fail", [False, True])
def test_a_live_pipeline_is_left_as_it_was(fail: bool, monkeypatch):
    pipe = tiny_wan(seed=5)
    before = fingerprint(pipe)
    model = model_of(pipe)
    x, levels = noise(model, 1, 3), torch.tensor([[1, 2, 3]])
    cond = PROMPT
    if fail:
        block = type(pipe.transformer.blocks[1])
        with monkeypatch.context() as patch:
            patch.setattr(block, "forward", lambda *a, **k: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model.denoiser(x, levels, [cond])
        with monkeypatch.context() as patch:
            patch.setattr(type(pipe.vae.decoder.mid_block), "forward", lambda *a, **k: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model.codec.decode(x[0])
    else:
        model.denoiser(x, levels, [cond])
        frames, _ = model.codec.decode(x[0])
        model.codec.encode(frames)
    assert fingerprint(pipe) == before


def test_the_engine_counts_what_the_network_runs(pipe):
    model = model_of(pipe, guidance=3.0)
    can, schedule = model.denoiser.can, model.denoiser.schedule
    queue = Queue(tuple(noise_row(can.latent_shape, 2 + index // 2, index, 3) for index in range(8)))
    windows = sweep(range(8), Grid(4, 2))
    seen: list[int] = []
    handle = pipe.transformer.register_forward_hook(
        lambda m, args, kwargs, out: seen.append(len(out[0])), with_kwargs=True
    )
    results = []
    try:
        for batch in (1, 3):
            engine = Engine(model.denoiser, batch)
            results.append(engine.drive(denoise(queue, windows, Solver("unipc"), schedule, lambda write: PROMPT)))
            assert sum(seen) == engine.meter.nfe == 2 * len(windows) and engine.meter.forwards == len(seen)
            seen.clear()
    finally:
        handle.remove()
    assert len(windows) == 3  # the two that would read the same rows are one
    for one, three in zip(results[0].rows, results[1].rows, strict=True):
        assert relative(one.x, three.x) < 1e-5
