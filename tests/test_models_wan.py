"""Wan's other shapes: two experts, pictures by channels and CLIP, longer windows. Each against the stock pipeline."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

from longtake.apps.lookup import look_up
from longtake.apps.settings import Request
from longtake.core.engine import Engine
from longtake.core.forecast import forecast
from longtake.core.noise import normal, root
from longtake.core.rollout import Timeline
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.errors import UsageError
from longtake.models.load import Model, load
from longtake.models.rope import slowed
from longtake.models.tiny import tiny_wan, tiny_wan_image
from longtake.models.wan import forward_rows
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.plain import Plain
from longtake.testing import check_denoiser
from tests.wan_cases import NEGATIVE, PROMPT, SIZE, noise, relative

WINDOW, STEPS = 4, 6


def picture(seed: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8))


def of(pipe: Any, **options: Any) -> Model:
    chosen: dict[str, Any] = {"size": SIZE, "num_steps": STEPS, "guidance": 3.0, "negative_prompt": NEGATIVE, **options}
    return load(pipe, **chosen)


def plain(model: Model) -> torch.Tensor:
    rollout = Plain(model.denoiser.can.latent_shape, model.denoiser.schedule, Solver(model.solver), WINDOW)
    return torch.stack(run(rollout, model, WINDOW)[0])


def run(rollout: Any, model: Model, many: int, context: Any = ()) -> tuple[list[torch.Tensor], Engine]:
    engine = Engine(model.denoiser, 2)
    state = engine.drive(rollout.init(7, Timeline.of(PROMPT), context))
    latents = [x for _, emission in stream(rollout, engine, state, many) for x in emission.latents]
    return latents[:many], engine


def stock(pipe: Any, model: Model, **options: Any) -> torch.Tensor:
    shape = model.denoiser.can.latent_shape
    start = torch.stack([normal(shape, root(7), "init", index) for index in range(WINDOW)])
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        prompt=PROMPT, negative_prompt=NEGATIVE, height=SIZE[1], width=SIZE[0], num_frames=4 * WINDOW - 3,
        num_inference_steps=STEPS, guidance_scale=3.0, latents=start.transpose(0, 1)[None], output_type="latent",
        **options,
    )  # fmt: skip
    return made.frames[0].transpose(0, 1)


# -- two experts -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experts() -> Any:
    return tiny_wan(boundary=0.7)


def test_plain_with_two_experts_is_the_stock_pipeline(experts):
    model = of(experts)
    times = model.denoiser.schedule.times
    assert (
        model.denoiser.wiring.low.top == sum(0 < time < 700 for time in times) and 0 < model.denoiser.wiring.low.top < 6
    )
    assert relative(plain(model), stock(experts, model)) <= 1e-4
    # one network alone makes something else
    assert relative(plain(of(tiny_wan())), plain(model)) > 0.1


def test_each_row_comes_from_its_own_expert_which_reads_the_whole_window(experts):
    model = of(experts, guidance=1.0)
    low, schedule = model.denoiser.wiring.low, model.denoiser.schedule
    x, levels = noise(model, 3, 4), torch.tensor([[0, 1, low.top, low.top + 1], [5, 5, 6, 6], [1, 1, 0, 2]])
    times, sigmas = torch.tensor(schedule.times)[levels], torch.tensor(schedule.sigmas)[levels][:, :, None, None, None]
    text = experts.encode_prompt(PROMPT, None, False, max_sequence_length=512)[0].expand(3, -1, -1)
    high = x - sigmas * forward_rows(experts.transformer, x, times, text)
    below = x - sigmas * forward_rows(experts.transformer_2, x, times, text)
    want = torch.where((levels > low.top)[:, :, None, None, None], high, below)
    counted: list[int] = []
    hooks = [
        network.register_forward_pre_hook(lambda _, a, kw: counted.append(len(kw["hidden_states"])), with_kwargs=True)
        for network in (experts.transformer, experts.transformer_2)
    ]
    got = model.denoiser(x, levels, [PROMPT] * 3)
    for hook in hooks:
        hook.remove()
    assert relative(got, want) < 1e-5
    assert [model.denoiser.cost_of(row) for row in levels.tolist()] == [2, 1, 1] and sum(counted) == 4
    assert of(experts).denoiser.cost_of([1, 6]) == 4 and of(experts).denoiser.cost_of([0, 0]) == 2


@pytest.mark.parametrize("make", [Plain, Chunk, Fifo])
def test_what_a_run_with_two_experts_costs_is_counted_and_foretold(make: Any, experts):
    steps = 8
    model = of(experts, num_steps=steps)
    leaf = model.denoiser.can.latent_shape, model.denoiser.schedule, Solver(model.solver), WINDOW
    rollout = make(*leaf)
    counted: list[int] = []
    hooks = [
        network.register_forward_pre_hook(lambda _, a, kw: counted.append(len(kw["hidden_states"])), with_kwargs=True)
        for network in (experts.transformer, experts.transformer_2)
    ]
    many = WINDOW if make is Plain else 7
    _, engine = run(rollout, model, many)
    for hook in hooks:
        hook.remove()
    assert sum(counted) == engine.meter.nfe == forecast(rollout, many, cost=model.denoiser.cost_of).nfe
    alone = forecast(rollout, many, cost=2).nfe
    assert engine.meter.nfe == alone if make is not Fifo else alone < engine.meter.nfe < 2 * alone


def test_two_experts_from_a_folder(experts, tmp_path):
    experts.save_pretrained(tmp_path / "a14b", safe_serialization=True)
    loaded, live = of(tmp_path / "a14b"), of(experts)
    x, levels = noise(live, 1, 4), torch.tensor([[1, 2, 5, 6]])
    assert torch.equal(loaded.denoiser(x, levels, [PROMPT]), live.denoiser(x, levels, [PROMPT]))
    usual = load(tmp_path / "a14b", size=SIZE)
    assert (usual.steps, usual.guidance, usual.denoiser.wiring.low.guidance) == (40, 4.0, 3.0)
    facts = look_up(Request("a dog", tmp_path / "a14b", size=SIZE))
    assert (facts.experts, facts.steps, facts.guided) == (2, 40, True)
    check_denoiser(live.denoiser)


# -- pictures ----------------------------------------------------------------------------------------------------

SHAPES = {
    "2.1": dict(clip=True), "2.1 first and last": dict(clip=True, two=True), "2.2": dict(clip=False, boundary=0.7),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(SHAPES))
def image(request) -> WanImageToVideoPipeline:
    return tiny_wan_image(**SHAPES[request.param])


@pytest.mark.parametrize("last", [False, True])
def test_plain_from_a_picture_is_the_stock_pipeline(last: bool, image):
    two = image.transformer.config.pos_embed_seq_len is not None
    if two and not last:
        last = True  # the stock pipeline cannot run this network on one picture
    model = of(image)
    if last and not model.denoiser.can.last_image:
        assert image.transformer.config.image_dim is not None and not two
        return
    pictures = model.denoiser.wiring.pictures
    pictures.open_with(picture(1), SIZE)
    if last:
        model.end_with(picture(2))
    want = stock(image, model, image=picture(1), **({"last_image": picture(2)} if last else {}))
    assert relative(plain(model), want) <= 1e-4
    pictures.open_with(picture(3), SIZE)
    assert relative(plain(model), want) > 1e-2


@pytest.mark.parametrize("frames", [6, 9, 40, None])
def test_a_short_clip_ends_with_the_picture_on_its_last_frame(frames):
    """Nine frames in a window: grey, then the picture from the last frame that is shown on; by hand."""
    model = of(tiny_wan_image(clip=False))
    pictures = model.denoiser.wiring.pictures
    model.end_with(picture(2), frames)
    told, _ = pictures(noise(model, 1, 3)[0], [5, 5, 5])
    last = torch.from_numpy(np.array(picture(2).resize(SIZE, Image.Resampling.LANCZOS))).permute(2, 0, 1) / 127.5 - 1
    first = min(frames or 9, 9) - 1
    video = torch.zeros(9, 3, SIZE[1], SIZE[0])
    video[first:] = last
    assert relative(told[:, 4:], model.codec.latents(video)) < 1e-5
    shown = [[0.0] * 4, [0.0] * 4, [0.0] * 4]
    for frame in range(first, 9):
        shown[(frame + 3) // 4][(frame + 3) % 4] = 1.0
    assert told[:, :4, 0, 0].tolist() == shown
    # a known first row never gives way to it
    told, _ = pictures(noise(model, 1, 3)[0], [0, 5, 5])
    assert told[0, :4, 0, 0].tolist() == [1.0] * 4 and told[2, 3, 0, 0] == 1


def test_only_some_can_end_with_a_picture():
    for pipe in (tiny_wan(), tiny_wan_image(clip=True)):
        with pytest.raises(UsageError, match="cannot end with a picture"):
            of(pipe).end_with(picture(1))


def test_a_known_first_row_is_a_picture(image):
    """By hand: decode the row, put the frame before a blank video, encode that, mark the first latent as known."""
    model = of(image, guidance=1.0)
    assert (model.denoiser.can.image_first, model.denoiser.can.image_only) == (True, True)
    latent = model.codec.encode_image(picture(4), SIZE)[0]
    x, levels = noise(model, 1, 3), torch.tensor([[0, 4, 6]])
    x[0, 0] = latent
    got = model.denoiser(x, levels, [PROMPT])
    assert torch.equal(got[0, 0], latent)
    mean, std = (
        torch.tensor(getattr(image.vae.config, f"latents_{name}")).reshape(1, -1, 1, 1, 1) for name in ("mean", "std")
    )
    with torch.no_grad():
        shown = image.vae.decode(latent[None, :, None] * std + mean).sample
        video = torch.cat([shown, torch.zeros(1, 3, 8, *shown.shape[3:])], dim=2)
        condition = (image.vae.encode(video).latent_dist.mode() - mean) / std
    mask = torch.zeros(1, 4, *condition.shape[2:])
    mask[:, :, 0] = 1
    channels, tokens = model.denoiser.wiring.pictures(x[0], [0, 4, 6])
    assert relative(channels.transpose(0, 1), torch.cat([mask, condition], dim=1)[0]) < 1e-4
    if tokens is not None:
        seen = Image.fromarray(
            ((shown[0, :, 0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).to(torch.uint8).numpy()
        )
        with torch.no_grad():
            assert relative(tokens[:1], image.encode_image(seen)) < 1e-5


def test_rows_of_a_window_without_pictures_still_make_a_video(image):
    model = of(image)
    check_denoiser(model.denoiser)
    blank, _ = model.denoiser.wiring.pictures(noise(model, 1, 3)[0], [1, 2, 3])
    assert float(blank[:, :4].abs().max()) == 0
    x, levels = noise(model, 1, 4), torch.tensor([[2, 2, 2, 2]])
    before = model.denoiser(x, levels, [PROMPT])
    levels[0, 3] = 6
    assert relative(model.denoiser(x, levels, [PROMPT])[0, 3], before[0, 3]) > 0.1


def test_chunks_join_through_the_last_picture(image):
    model = of(image)
    leaf = model.denoiser.can.latent_shape, model.denoiser.schedule, Solver(model.solver), WINDOW
    first = model.codec.encode_image(picture(5), SIZE)[0]
    latents, _ = run(Chunk(*leaf, 1, "pixel", model.codec), model, 6, [first])
    other, _ = run(Chunk(*leaf, 1, "pixel", model.codec), model, 6, [model.codec.encode_image(picture(6), SIZE)[0]])
    assert len(latents) == 6 and relative(latents[5], other[5]) > 1e-2


def test_pictures_from_a_folder_and_in_a_plan(image, tmp_path: Path):
    image.save_pretrained(tmp_path / "i2v", safe_serialization=True)
    loaded, live = of(tmp_path / "i2v"), of(image)
    x, levels = noise(live, 1, 3), torch.tensor([[0, 2, 5]])
    assert relative(loaded.denoiser(x, levels, [PROMPT]), live.denoiser(x, levels, [PROMPT])) < 1e-5
    facts, can = look_up(Request("a dog", tmp_path / "i2v", size=SIZE)), live.denoiser.can
    assert (facts.image_first, facts.image_only, facts.last_image) == (True, True, can.last_image)


# -- longer windows ----------------------------------------------------------------------------------------------


def test_the_slowed_component_is_the_published_one():
    # RIFLEx, Table 1: CogVideoX k = 2 (N_k 20), HunyuanVideo k = 4 (N_k 50, base 256); places count from 0
    assert slowed(16, 25) == (1, pytest.approx(0.9 * 2 * math.pi / 25))
    assert slowed(16, 66, base=256.0) == (3, pytest.approx(0.9 * 2 * math.pi / 66))
    assert slowed(16, 6) is None


def test_riflex_lengthens_the_window_and_leaves_the_pipeline_alone():
    pipe = tiny_wan()
    model, ordinary = of(pipe, extras={"riflex": 30}), of(pipe)
    assert model.window == model.denoiser.can.window == 30
    x, levels = noise(model, 1, 30), torch.full((1, 30), 3)
    tables = [table.clone() for table in pipe.transformer.rope(x.transpose(1, 2))]
    long, short = model.denoiser(x, levels, [PROMPT]), ordinary.denoiser(x, levels, [PROMPT])
    assert relative(long, short) > 1e-3
    after = pipe.transformer.rope(x.transpose(1, 2))
    assert all(torch.equal(one, two) for one, two in zip(tables, after, strict=True))
    # by hand: 16 channels a head, 6 of them time's; periods 2 pi 10000^(j/3) are 6.3, 135, ...: the first is slowed
    cos, sin = tables
    angle = torch.arange(30) * (0.9 * 2 * math.pi / 30)
    rows = [table.reshape(30, -1, 16).clone() for table in (cos, sin)]
    for table, values in zip(rows, (angle.cos(), angle.sin()), strict=True):
        table[:, :, :2] = values[:, None, None]
    want = [table.reshape(cos.shape) for table in rows]
    text = pipe.encode_prompt(PROMPT, None, False, max_sequence_length=512)[0]
    stock_rope, times = type(pipe.transformer.rope).forward, torch.full((1, 30), model.denoiser.schedule.times[3])
    try:
        type(pipe.transformer.rope).forward = lambda self, hidden: tuple(want)
        theirs = forward_rows(pipe.transformer, x, times, text)
    finally:
        type(pipe.transformer.rope).forward = stock_rope
    assert relative(forward_rows(pipe.transformer, x, times, text, riflex=30), theirs) < 1e-5
    with pytest.raises(UsageError, match="riflex=9 is no longer than the window; give 22 to 42"):
        of(pipe, extras={"riflex": 9})
    assert of(pipe, extras={"riflex": 42}).window == 42
    with pytest.raises(UsageError, match="riflex=43 is more than twice the window; give 22 to 42"):
        of(pipe, extras={"riflex": 43})
