"""SkyReels-V2 by diffusion forcing: against the stock forward and the stock pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from longtake.apps.lookup import look_up
from longtake.apps.session import begin, build, generate, reopen, running, start
from longtake.apps.settings import Request
from longtake.core.engine import Engine
from longtake.core.noise import normal, root
from longtake.core.rollout import Timeline
from longtake.core.rows import advance, noise_row
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.errors import UsageError
from longtake.models.load import Model, load
from longtake.models.schedules import schedule_of
from longtake.models.skyreels import Told, causal_mask, forward_forcing
from longtake.models.tiny import tiny_scheduler
from longtake.models.tiny_skyreels import tiny_skyreels, tiny_skyreels_image
from longtake.output.video import read_frames
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.plain import Plain
from longtake.rollouts.rolling import Rolling
from longtake.testing import check_denoiser, check_rollout
from tests.wan_cases import NEGATIVE, PROMPT, SIZE, noise, relative

STEPS = 6


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "told the frame rate"])
def pipe(request) -> Any:
    return tiny_skyreels(fps=request.param)


def of(pipe: Any, **options: Any) -> Model:
    return load(pipe, **{"size": SIZE, "num_steps": STEPS, **options})


@pytest.mark.parametrize("make,usual", [(tiny_skyreels, 8.0), (tiny_skyreels_image, 5.0)], ids=["text", "picture"])
def test_where_a_folder_sets_no_shift_the_authors_holds(make: Any, usual: float, tmp_path):
    """Published schedulers may have none: diffusers' examples set 8 by hand, and 5 from a picture."""
    pipe = make()
    pipe.scheduler = tiny_scheduler("unipc", 1.0)
    pipe.save_pretrained(tmp_path / "df", safe_serialization=True)
    assert of(tmp_path / "df").denoiser.schedule == schedule_of(tiny_scheduler("unipc", usual), STEPS)
    asked = of(tmp_path / "df", extras={"shift": 3.0}).denoiser.schedule
    assert asked == schedule_of(tiny_scheduler("unipc", 3.0), STEPS)
    assert of(pipe).denoiser.schedule == schedule_of(tiny_scheduler("unipc", 1.0), STEPS), "a live one knows its own"


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
    flows = [forward_forcing(pipe.transformer, x, times, text, told=Told(fps)) for fps in (16, 24, 30)]
    assert relative(flows[0], flows[1]) > 1e-3 and torch.equal(flows[1], flows[2])


class Careful(UniPCMultistepScheduler):
    """The stock pipeline hands a view of the latents that it then overwrites, and UniPC keeps it: here a copy."""

    def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        return super().step(model_output, timestep, sample.clone(), return_dict)


@torch.no_grad()
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_sampling_is_the_stock_pipelines_also_with_a_level_a_row(name: str, asynchronous: bool, pipe):
    """The stock asynchronous mode: causal blocks of 2 latents, each 3 steps behind the one before."""
    scheduler = tiny_scheduler(name)
    pipe = type(pipe)(**{**pipe.components, "scheduler": scheduler})
    extras = {"causal_block": 2} if asynchronous else {}
    model = of(pipe, guidance=3.0, negative_prompt=NEGATIVE, extras=extras)
    if name == "unipc":
        pipe.scheduler = Careful.from_config(scheduler.config)
    schedule, solver = model.denoiser.schedule, Solver(model.solver)
    pipe.set_progress_bar_config(disable=True)
    more = dict(ar_step=3, causal_block_size=2) if asynchronous else {}
    try:
        theirs = pipe(
            PROMPT, NEGATIVE, height=SIZE[1], width=SIZE[0], num_frames=13, num_inference_steps=STEPS,
            guidance_scale=3.0, generator=torch.Generator().manual_seed(5), output_type="latent", fps=24, **more,
        ).frames[0].transpose(0, 1)  # fmt: skip
    finally:
        pipe.transformer.register_to_config(num_frame_per_block=1)  # the stock pipeline leaves its own behind
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


@torch.no_grad()
def test_rolling_with_causal_blocks_is_the_stock_asynchronous_pipeline(pipe):
    """The method itself: its noise handed to the stock pipeline."""
    pipe = type(pipe)(**{**pipe.components, "scheduler": tiny_scheduler("dpmpp_2m")})
    model = of(pipe, guidance=3.0, negative_prompt=NEGATIVE, extras={"causal_block": 2})
    shape, schedule = model.denoiser.can.latent_shape, model.denoiser.schedule
    rollout = Rolling(shape, schedule, Solver(model.solver), window=6, block=2, delay=3, overlap=0)
    engine = Engine(model.denoiser)
    state = engine.drive(rollout.init(7, Timeline.of(PROMPT), ()))
    ours = [x for _, emission in stream(rollout, engine, state, 6) for x in emission.latents]
    start = torch.stack([normal(shape, root(7), "init", index) for index in range(6)], dim=1)[None]
    pipe.prepare_latents = lambda *args, **more: (start.clone(), 6, None, 0)
    pipe.set_progress_bar_config(disable=True)
    try:
        theirs = pipe(
            PROMPT, NEGATIVE, height=SIZE[1], width=SIZE[0], num_frames=21, num_inference_steps=STEPS,
            guidance_scale=3.0, output_type="latent", fps=24, ar_step=3, causal_block_size=2,
        ).frames[0].transpose(0, 1)  # fmt: skip
    finally:
        pipe.transformer.register_to_config(num_frame_per_block=1)
    assert relative(torch.stack(ours), theirs) <= 1e-4


# -- causal blocks -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_causal_blocks_are_the_stock_mask_and_may_be_cut_short():
    pipe = tiny_skyreels(block=2)
    model = of(pipe, guidance=1.0)
    x, schedule, levels = noise(model, 2, 4), model.denoiser.schedule, torch.tensor([[0, 1, 3, 6], [5, 2, 5, 5]])
    text = torch.cat([pipe.encode_prompt(PROMPT, None, False, max_sequence_length=512)[0]] * 2)
    flow = pipe.transformer(
        x.transpose(1, 2), torch.tensor(schedule.times)[levels], text, enable_diffusion_forcing=True, return_dict=False
    )[0].transpose(1, 2)
    sigmas = torch.tensor(schedule.sigmas)[levels][:, :, None, None, None]
    whole = model.denoiser(x, levels, [PROMPT] * 2)
    assert relative(whole, x - sigmas * flow) < 1e-5
    # three rows: the stock forward fails, ours is the whole window's as far as the first block goes
    with pytest.raises(RuntimeError):
        pipe.transformer(x[:, :3].transpose(1, 2), torch.tensor(schedule.times)[levels[:, :3]], text,
                         enable_diffusion_forcing=True)  # fmt: skip
    short = model.denoiser(x[:, :3], levels[:, :3], [PROMPT] * 2)
    assert relative(short[:, :2], whole[:, :2]) < 1e-5
    other = x.clone()
    other[:, 2:] += 1
    assert relative(model.denoiser(other, levels, [PROMPT] * 2)[:, :2], whole[:, :2]) < 1e-5
    assert relative(of(pipe, guidance=1.0, extras={"causal_block": 1}).denoiser(x, levels, [PROMPT] * 2), whole) > 1e-3
    assert causal_mask(3, 2, 1, torch.device("cpu"))[0, 0].int().tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]


def test_nothing_is_left_of_causal_blocks(monkeypatch):
    pipe = tiny_skyreels(block=2)
    model = of(pipe)
    x, levels = noise(model, 1, 3), torch.tensor([[1, 2, 3]])

    def clean() -> bool:
        hooks = any(module._forward_hooks or module._forward_pre_hooks for module in pipe.transformer.modules())
        return not hooks and pipe.transformer.config.num_frame_per_block == 2

    model.denoiser(x, levels, [PROMPT])
    assert clean()
    with monkeypatch.context() as patch:
        patch.setattr(type(pipe.transformer.blocks[0]), "forward", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.denoiser(x, levels, [PROMPT])
    assert clean()


def test_law_kits_with_causal_blocks():
    model = of(tiny_skyreels(block=3), num_steps=8)
    check_denoiser(model.denoiser)
    leaf = model.denoiser.can.latent_shape, model.denoiser.schedule, Solver("unipc"), 4
    check_rollout(Fifo(*leaf), model.denoiser, num_latents=4)


def test_a_run_with_causal_blocks_is_gone_on_with(tmp_path):
    tiny_skyreels(block=5).save_pretrained(tmp_path / "blocks", safe_serialization=True)
    sets = ["rolling.block=2", "rolling.delay=1", "causal_block=2"]
    made = dict(model=str(tmp_path / "blocks"), size=(32, 32), method="rolling", steps=2, seed=3)
    options = dict(prompt="a dog runs", set=sets, **made)
    whole = generate(out=tmp_path / "whole", frames=17, **options)
    session = start(Request(frames=17, **options))
    folder = begin(session, tmp_path / "stopped")
    with running(session, folder) as (_, progress):
        next(progress), next(progress)
    settings, _ = reopen(folder)
    assert settings.options == {"causal_block": 2}
    with running(build(settings), folder) as (_, progress):
        assert [step.frames for step in progress][-1] == 17
    assert folder.video.read_bytes() == Path(whole.video).read_bytes()


def test_what_cannot_work_is_refused_in_one_line(tmp_path):
    pipe = tiny_skyreels()
    with pytest.raises(UsageError, match=r"causal_block=26 is not possible: give 1 \(all rows see each other\) to 25"):
        of(pipe, extras={"causal_block": 26})
    pipe.save_pretrained(tmp_path / "df", safe_serialization=True)
    with pytest.raises(UsageError, match="--compile and causal blocks do not go together"):
        look_up(Request("a dog", tmp_path / "df", size=SIZE, set=["causal_block=5"], compile=True))
    pipe.transformer.register_to_config(in_channels=9)
    with pytest.raises(UsageError, match="takes 9 channels"):
        of(pipe)


# -- image to video by channels ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["first", "first and last"])
def image_pipe(request) -> Any:
    return tiny_skyreels_image(two=request.param)


def picture(seed: int) -> Image.Image:
    draw = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (SIZE[1], SIZE[0], 3), generator=draw, dtype=torch.uint8).numpy())


@torch.no_grad()
def test_from_a_picture_plain_is_the_stock_pipeline(image_pipe):
    two = image_pipe.transformer.config.pos_embed_seq_len is not None
    pipe = type(image_pipe)(**{**image_pipe.components, "scheduler": tiny_scheduler("dpmpp_2m")})
    model = of(pipe, negative_prompt=NEGATIVE)
    assert (model.guidance, model.window, model.fps) == (5.0, 25, 24)
    first, last = picture(1), picture(2) if two else None
    model.denoiser.wiring.pictures.open_with(first, SIZE)
    if two:
        model.end_with(last)
    rollout = Plain(model.denoiser.can.latent_shape, model.denoiser.schedule, Solver(model.solver), 4)
    engine = Engine(model.denoiser)
    state = engine.drive(rollout.init(7, Timeline.of(PROMPT), ()))
    ours = [x for _, emission in stream(rollout, engine, state, 4) for x in emission.latents]
    start = torch.stack([normal(rollout.shape, root(7), "init", index) for index in range(4)], dim=1)[None]
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        first, PROMPT, NEGATIVE, height=SIZE[1], width=SIZE[0], num_frames=13, num_inference_steps=STEPS,
        latents=start, output_type="latent", last_image=last,
    ).frames[0].transpose(0, 1)  # fmt: skip
    assert relative(torch.stack(ours), theirs) <= 1e-4


def test_from_a_picture_the_folder_says_what_the_model_says(image_pipe, tmp_path):
    image_pipe.save_pretrained(tmp_path / "i2v", safe_serialization=True)
    loaded, live = of(tmp_path / "i2v"), of(image_pipe)
    check_denoiser(live.denoiser)
    x, levels = noise(live, 2, 3), torch.tensor([[0, 2, 5], [3, 3, 3]])
    assert torch.equal(loaded.denoiser(x, levels, [PROMPT] * 2), live.denoiser(x, levels, [PROMPT] * 2))
    facts, can = look_up(Request("a dog", tmp_path / "i2v", size=SIZE)), live.denoiser.can
    assert all(
        getattr(facts, key) == getattr(can, key) for key in ("window", "image_first", "image_only", "last_image")
    )
    assert can.image_only and can.last_image == (image_pipe.transformer.config.pos_embed_seq_len is not None)
    # each row depends on its own level, and all on the picture that the first is
    other = levels.clone()
    other[0, 2] = 1
    base, moved = (live.denoiser(x, at, [PROMPT] * 2) for at in (levels, other))
    assert relative(moved[0, 2], base[0, 2]) > 0.05 and relative(moved[1], base[1]) < 1e-5
    x[0, 0] = x[0, 0].flip(-1)
    assert relative(live.denoiser(x, levels, [PROMPT] * 2)[0, 2], base[0, 2]) > 1e-3


@pytest.mark.parametrize("method", ["plain", "chunk", "fifo", "rolling"])
def test_from_a_picture_the_methods_run(method: str, tmp_path):
    tiny_skyreels_image().save_pretrained(tmp_path / "i2v", safe_serialization=True)
    (tmp_path / "i2v" / "longtake.json").write_text('{"window": 4}')
    picture(1).save(tmp_path / "first.png")
    made = generate(
        "a dog runs", out=tmp_path / "run", model=str(tmp_path / "i2v"), size=SIZE, method=method, steps=4, seed=5,
        frames=13, image=str(tmp_path / "first.png"),
    )  # fmt: skip
    assert made.frames == 13 == len(list(read_frames(made.video)))
