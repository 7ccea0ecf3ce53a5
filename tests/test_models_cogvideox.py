"""CogVideoX: forward, schedule, solver, pictures, streamed decoding, each against diffusers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler

from longtake.apps.lookup import look_up
from longtake.apps.settings import Request
from longtake.core.check import check
from longtake.core.engine import Engine
from longtake.core.model import Capabilities
from longtake.core.noise import normal, root
from longtake.core.rollout import Timeline
from longtake.core.rows import Row, advance
from longtake.core.solvers import Solver
from longtake.core.stream import stream
from longtake.errors import UsageError
from longtake.models.cogvideox_codec import CogVideoXCodec, TiledCogVideoXCodec
from longtake.models.cogvideox_family import schedule_of
from longtake.models.cogvideox_rows import disagreement
from longtake.models.load import Model, load
from longtake.models.tiny_cogvideox import tiny_cogvideox
from longtake.output import checkpoint
from longtake.rollouts.chunk import Chunk
from longtake.rollouts.fifo import Fifo
from longtake.rollouts.plain import Plain
from longtake.testing import check_denoiser, check_rollout
from tests.wan_cases import NEGATIVE, PROMPT, noise, relative

SIZE, WINDOW, STEPS = (48, 32), 5, 5
KINDS = {"2b": {}, "5b": dict(rotary=True), "i2v": dict(image=True, rotary=True, learned=True)}


@pytest.fixture(scope="module", params=list(KINDS))
def pipe(request) -> Any:
    return tiny_cogvideox(**KINDS[request.param])


@pytest.fixture(scope="module")
def text() -> Any:
    return tiny_cogvideox(rotary=True)


def of(pipe: Any, **options: Any) -> Model:
    return load(pipe, **{"size": SIZE, "num_steps": STEPS, "guidance": 3.0, "negative_prompt": NEGATIVE, **options})


def leaf(model: Model, solver: str | None = None) -> Any:
    return model.denoiser.can.latent_shape, model.denoiser.schedule, Solver(solver or model.solver), WINDOW


def run(rollout: Any, model: Model, many: int, context: Any = ()) -> list[torch.Tensor]:
    engine = Engine(model.denoiser, 2)
    state = engine.drive(rollout.init(7, Timeline.of(PROMPT), context))
    return [x for _, emission in stream(rollout, engine, state, many) for x in emission.latents][:many]


# -- the forward -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_window_is_the_stock_forward(pipe):
    model = of(pipe, guidance=1.0)
    x, schedule = noise(model, 2, WINDOW), model.denoiser.schedule
    words = torch.cat([pipe.encode_prompt(p, None, False, max_sequence_length=226)[0] for p in (PROMPT, NEGATIVE)])
    rope = None
    if pipe.transformer.config.use_rotary_positional_embeddings:
        rope = pipe._prepare_rotary_positional_embeddings(SIZE[1], SIZE[0], WINDOW, torch.device("cpu"))
    image = torch.zeros_like(x) if pipe.transformer.config.in_channels == 8 else x[:, :, :0]
    for level in (1, 3, 5):
        ours = model.denoiser(x, torch.full((2, WINDOW), level), [PROMPT, NEGATIVE])
        v = pipe.transformer(
            torch.cat([x, image], dim=2), words, torch.tensor([schedule.times[level]] * 2),
            image_rotary_emb=rope, return_dict=False,
        )[0]  # fmt: skip
        assert relative(ours, schedule.alphas[level] * x - schedule.sigmas[level] * v) < 1e-5


def test_clean_leading_rows_are_shown_noised_to_the_others_level_and_returned(pipe):
    model = of(pipe)
    x, levels = noise(model, 1, WINDOW), torch.tensor([[0, 0, 4, 4, 4]])
    got = model.denoiser(x, levels, [PROMPT])
    assert torch.equal(got[:, :2], x[:, :2])
    schedule, shown = model.denoiser.schedule, x.clone()
    for row in range(2):
        eps = normal(x.shape[2:], root(0), "known row", row)
        shown[0, row] = schedule.alphas[4] * x[0, row] + schedule.sigmas[4] * eps
    if pipe.transformer.config.in_channels == 8:
        model.denoiser.open_with(x[0, 0])  # the known row is the picture as well
    assert relative(got[:, 2:], model.denoiser(shown, torch.full((1, WINDOW), 4), [PROMPT])[:, 2:]) < 1e-5
    with pytest.raises(ValueError, match="must share one level"):
        model.denoiser(x, torch.tensor([[0, 1, 2, 3, 4]]), [PROMPT])


def test_law_kits(pipe):
    check_denoiser(of(pipe).denoiser)
    model = of(pipe, solver="ddim")
    assert check(Chunk(*leaf(model), overlap=2), model.denoiser) == []
    check_rollout(Chunk(*leaf(model), overlap=2), model.denoiser, num_latents=7)
    with pytest.raises(ValueError, match="one noise level per latent frame"):
        check(Fifo(*leaf(of(pipe, num_steps=10))), of(pipe, num_steps=10).denoiser)


# -- levels of their own, against advice -------------------------------------------------------------------------


def test_a_level_a_row_has_to_be_asked_for_and_comes_with_the_evidence(pipe, tmp_path):
    plain, asked = of(pipe), of(pipe, extras={"allow_unsound": True}, num_steps=10)
    assert (plain.denoiser.can.per_row_levels, asked.denoiser.can.per_row_levels) == ("no", "hook")
    assert plain.notes == () and "MIGA, App. A.4" in asked.notes[0] and "\n" not in asked.notes[0]
    x, levels = noise(asked, 1, WINDOW), torch.tensor([[1, 2, 3, 5, 6]])
    before = asked.denoiser(x, levels, [PROMPT])
    hooks = sum(len(module._forward_hooks) for module in pipe.transformer.modules())
    assert hooks == 0
    levels[0, 4] = 9
    after = asked.denoiser(x, levels, [PROMPT])
    assert relative(after[0, 4], before[0, 4]) > 0.05 and relative(after[0, 0], before[0, 0]) > 1e-4
    # equal rows through the hooks are the stock forward
    assert disagreement(pipe.transformer, 226) < 1e-5
    check_denoiser(asked.denoiser)
    if not asked.denoiser.can.image_first and pipe.transformer.config.use_rotary_positional_embeddings:
        check_rollout(Fifo(*leaf(asked, "ddim")), asked.denoiser, num_latents=3)  # one of the three is enough


def test_hooks_go_also_when_a_block_fails(text, monkeypatch):
    model = of(text, extras={"allow_unsound": True})
    with monkeypatch.context() as patch:
        patch.setattr(type(text.transformer.transformer_blocks[0]), "forward", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.denoiser(noise(model, 1, 3), torch.tensor([[1, 2, 3]]), [PROMPT])
    assert not any(module._forward_hooks for module in text.transformer.modules())


# -- schedule and solvers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 8, 50])
def test_the_schedule_is_the_schedulers(steps: int, text):
    schedule = schedule_of(text.scheduler, steps)
    text.scheduler.set_timesteps(steps)
    times = text.scheduler.timesteps.tolist()[::-1]
    assert schedule.times[1:] == tuple(map(float, times))
    for level, time in enumerate(times, 1):
        assert schedule.alphas[level] ** 2 == pytest.approx(float(text.scheduler.alphas_cumprod[time]), abs=1e-7)
        assert schedule.alphas[level] ** 2 + schedule.sigmas[level] ** 2 == pytest.approx(1)
    assert schedule.alphas[-1] == 0 and schedule.alphas[0] == 1  # zero terminal signal, clean end


@pytest.mark.parametrize("steps", [5, 8, 50])
@pytest.mark.parametrize("name", ["cogvideox_dpm", "ddim"])
def test_solvers_take_the_schedulers_steps(name: str, steps: int):
    scheduler = tiny_cogvideox(scheduler=name).scheduler
    assert isinstance(scheduler, {"cogvideox_dpm": CogVideoXDPMScheduler, "ddim": CogVideoXDDIMScheduler}[name])
    schedule, solver = schedule_of(scheduler, steps), Solver(name)
    scheduler.set_timesteps(steps)
    draw = torch.Generator().manual_seed(0)
    shape = (4, 3, 3)
    theirs = torch.randn(shape, generator=draw)
    row, old = Row(theirs, steps, 0, 7), None
    for step, time in enumerate(scheduler.timesteps):
        v, level = torch.randn(shape, generator=draw), steps - step
        plan = solver.plan(schedule, level, level - 1, row.memory)
        x0 = schedule.alphas[level] * row.x - schedule.sigmas[level] * v
        # the same noise on both sides: the last that the stock step draws
        last = step == steps - 1
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(step)) for _ in range(1)]
        if name == "ddim":
            theirs = scheduler.step(v, time, theirs, return_dict=False)[0]
        else:
            source = torch.Generator().manual_seed(step)
            back = scheduler.timesteps[step - 1] if step else None
            theirs, old = scheduler.step(v, old, time, back, theirs, generator=source, return_dict=False)
            if step and not last:
                again = torch.Generator().manual_seed(step)
                drawn = [torch.randn(shape, generator=again) for _ in range(2)]
        noiseless = advance([row], [x0], [level - 1], solver, schedule)[0]
        keyed = normal(shape, row.path, "step", row.index, row.level)
        x = noiseless.x + plan.std * (drawn[-1] - keyed)
        row = Row(x, level - 1, 0, 7, noiseless.memory)
        assert float((row.x - theirs).abs().max()) <= 2e-5 * max(float(theirs.std()), 1)


def test_schedulers_that_cannot_be_read_are_refused(text):
    for key, value, match in (
        ("prediction_type", "epsilon", "needs 'v_prediction'"), ("set_alpha_to_one", False, "does not end clean"),
    ):  # fmt: skip
        known = {name: own for name, own in text.scheduler.config.items() if not name.startswith("_")}
        odd = type(text.scheduler)(**{**known, key: value})
        with pytest.raises(UsageError, match=match):
            schedule_of(odd, 5)


# -- against the stock pipeline ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_plain_is_the_stock_pipeline(kind: str):
    pipe = tiny_cogvideox(**KINDS[kind], scheduler="ddim")
    model = of(pipe)
    assert model.solver == "ddim"
    more: dict[str, Any] = {}
    if kind == "i2v":
        from PIL import Image

        picture = Image.effect_noise((SIZE[0], SIZE[1]), 90).convert("RGB")
        more = {"image": picture, "generator": torch.Generator().manual_seed(3)}
        # the stock pipeline draws from the posterior of the picture's latent
        pixels = pipe.video_processor.preprocess(picture, height=SIZE[1], width=SIZE[0])
        drawn = pipe.vae.encode(pixels[:, :, None]).latent_dist.sample(torch.Generator().manual_seed(3))
        model.denoiser.open_with(0.7 * drawn[0, :, 0])
        mode = pipe.vae.encode(pixels[:, :, None]).latent_dist.mode()
        assert relative(model.codec.encode_image(picture, SIZE)[0], 0.7 * mode[0, :, 0]) < 1e-4
    start = torch.stack([normal(model.denoiser.can.latent_shape, root(7), "init", index) for index in range(WINDOW)])
    pipe.set_progress_bar_config(disable=True)
    want = pipe(
        prompt=PROMPT, negative_prompt=NEGATIVE, height=SIZE[1], width=SIZE[0], num_frames=4 * WINDOW - 3,
        num_inference_steps=STEPS, guidance_scale=3.0, latents=start[None], output_type="latent", **more,
    ).frames[0]  # fmt: skip
    assert relative(torch.stack(run(Plain(*leaf(model)), model, WINDOW)), want) <= 1e-4


def test_chunks_continue_a_picture():
    model = of(tiny_cogvideox(**KINDS["i2v"]))
    first = model.codec.encode_image(torch.full((32, 48, 3), 30, dtype=torch.uint8), SIZE)[0]
    other = model.codec.encode_image(torch.full((32, 48, 3), 220, dtype=torch.uint8), SIZE)[0]
    rollout = Chunk(*leaf(model), 1, "pixel", model.codec)
    made = [run(rollout, model, 6, [latent]) for latent in (first, other)]
    assert len(made[0]) == 6 and relative(made[0][1], made[1][1]) > 1e-2  # in the clip of the picture
    assert relative(made[0][5], made[1][5]) > 1e-3  # and in the next, which continues from its last frame


# -- decoding ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_streamed_is_whole_and_is_the_stock_decoder_by_these_pieces(text, tmp_path):
    model = of(text)
    z = torch.randn(7, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    whole, _ = model.codec.decode(z)
    assert whole.shape == (25, 32, 48, 3)
    memory, parts = None, []
    for piece in z.split([1, 2, 2, 2]):
        video, memory = text.vae.decoder(piece.transpose(0, 1)[None] / 0.7, conv_cache=memory)
        parts.append(text.video_processor.postprocess_video(video, output_type="pt")[0])
    stock = (torch.cat(parts).permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    assert int((whole.int() - stock.int()).abs().max()) <= 1
    # one by one, through a file after each
    cache, frames = None, []
    for latent in z:
        made, cache = model.codec.decode(latent[None], cache)
        frames.append(made)
        checkpoint.save(cache, tmp_path)
        cache = checkpoint.load(tmp_path)
    assert [len(part) for part in frames] == [1, 0, 8, 0, 8, 0, 8] and torch.equal(torch.cat(frames), whole)
    # the stock pipeline's first piece is of three: its group norms see other frames, and that fades
    theirs = text.vae.decode(z.transpose(0, 1)[None] / 0.7).sample
    theirs = (text.video_processor.postprocess_video(theirs, output_type="pt")[0].permute(0, 2, 3, 1) * 255).round()
    off = (whole.float() - theirs).abs().mean(dim=(1, 2, 3))
    assert off[17:].mean() < off[:9].mean() and off[17:].mean() < 0.05 * 255
    assert not model.denoiser.can.exact_streaming


@torch.no_grad()
def test_tiles_are_the_stock_tiles_and_streamed_is_whole(text, tmp_path):
    codec = TiledCogVideoXCodec(text.vae, tile=(48, 80))
    z = torch.randn(5, 4, 9, 14, generator=torch.Generator().manual_seed(0))
    text.vae.enable_tiling(48, 80)
    stock = text.vae.decode(z[:1].transpose(0, 1)[None] / 0.7).sample[0]  # one latent: both decode it alone
    text.vae.disable_tiling()
    want = ((stock.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 3, 0)
    whole, _ = codec.decode(z)
    assert whole.shape == (17, 72, 112, 3) and want.shape == (1, 72, 112, 3)
    assert float((whole[:1].float() - want).abs().max()) <= 1
    cache, frames = None, []
    for latent in z:
        made, cache = codec.decode(latent[None], cache)
        frames.append(made)
        checkpoint.save(cache, tmp_path)
        cache = checkpoint.load(tmp_path)
    assert torch.equal(torch.cat(frames), whole)
    assert not torch.equal(whole, CogVideoXCodec(text.vae).decode(z)[0])
    small = z[:, :, :6, :10]
    assert torch.equal(codec.decode(small)[0], CogVideoXCodec(text.vae).decode(small)[0])
    assert isinstance(of(text, extras={"tiling": True}).codec, TiledCogVideoXCodec)
    assert not isinstance(of(text).codec, TiledCogVideoXCodec)


@torch.no_grad()
def test_encoding_is_the_stock_encoders(text):
    codec = of(text).codec
    frames = torch.randint(0, 256, (13, 32, 48, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    video = frames.permute(3, 0, 1, 2)[None] / 127.5 - 1
    assert relative(codec.encode(frames), 0.7 * text.vae.encode(video).latent_dist.mode()[0].transpose(0, 1)) < 1e-5
    with pytest.raises(UsageError, match="4k \\+ 1 frames, got 4; use the last 1"):
        codec.encode(frames[:4])


def test_lengths_are_whole_pairs_after_the_first_latent():
    can = Capabilities(13, (4, 4, 6), latents_at_once=2)
    assert [can.num_latents(frames) for frames in (1, 2, 5, 9, 10, 49)] == [1, 3, 3, 3, 5, 13]
    assert [can.num_latents(frames, after=True) for frames in (1, 8, 9)] == [2, 2, 4]
    assert [can.num_frames(latents) for latents in (1, 2, 3, 13)] == [1, 1, 9, 49]


# -- folders -----------------------------------------------------------------------------------------------------


def test_a_folder_says_what_the_model_says(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "cog", safe_serialization=True)
    loaded, live = of(tmp_path / "cog"), of(pipe)
    x, levels = noise(live, 1, 3), torch.tensor([[0, 4, 4]])
    assert torch.equal(loaded.denoiser(x, levels, [PROMPT]), live.denoiser(x, levels, [PROMPT]))
    facts, can = look_up(Request("a dog", tmp_path / "cog", size=SIZE)), live.denoiser.can
    said = ("window", "per_row_levels", "image_first", "image_only", "clean_rows", "latents_at_once")
    assert all(getattr(facts, name) == getattr(can, name) for name in said)
    assert (facts.channels, facts.factor, facts.fps, facts.steps) == (4, 8, 8, 50)
    assert (live.family, live.solver, live.window) == ("cogvideox", "cogvideox_dpm", 13)


def test_what_cannot_work_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(UsageError, match="knows one size, 48x32, not 64x64"):
        of(tiny_cogvideox(**KINDS["i2v"]), size="64x64")
    assert of(tiny_cogvideox(**KINDS["i2v"]), size=None).size == SIZE
    with pytest.raises(UsageError, match="riflex slows rotary positions"):
        of(tiny_cogvideox(), extras={"riflex": 26})
    assert of(text, extras={"riflex": 26}).window == 26
    with pytest.raises(UsageError, match="unknown solver 'heun'"):
        of(text, solver="heun")
