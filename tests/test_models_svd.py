"""Stable Video Diffusion against the stock pipeline: forward, levels a row, sigmas, picture, sampling, frames."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D, TemporalResnetBlock
from PIL import Image
from torch import Tensor

from longtake.apps.session import generate
from longtake.core.model import Codec, Denoiser
from longtake.core.noise import normal, root
from longtake.core.rows import advance, clean_row, noise_row
from longtake.core.solvers import Solver
from longtake.errors import UsageError
from longtake.models.load import load
from longtake.models.svd import Guide, Micro, SVDDenoiser, shrunk
from longtake.models.svd_codec import SVDCodec
from longtake.models.svd_family import schedule_of
from longtake.models.svd_unet import forward_rows, self_check
from longtake.models.tiny_own import tiny_svd
from longtake.testing import check_denoiser

SIZE = (48, 32)
STEPS = 5


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.std())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pipe():
    made = tiny_svd()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("models") / "svd"
    pipe.save_pretrained(target, safe_serialization=True)
    return target


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, SIZE[0]), np.linspace(0, 255, SIZE[1]))
    return Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8))


def pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def inputs(rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return draw(2, rows, 8, 4, 6), draw(2, 1, 32, seed=1), torch.tensor([[6.0, 127, 0.02], [9.0, 40, 0.1]])


# -- the forward -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_equal_levels_are_the_stock_forward(pipe):
    x, embedding, ids = inputs()
    times = torch.tensor([[1.2] * 3, [-0.5] * 3])
    theirs = pipe.unet(x, times[:, 0], embedding, added_time_ids=ids, return_dict=False)[0]
    for merge in (True, False):
        assert relative(forward_rows(pipe.unet, x, times, embedding, ids, merge), theirs) < 1e-4


@torch.no_grad()
def test_a_level_a_row_reaches_both_halves_of_every_block(pipe, monkeypatch):
    """The embedding written down again, swapped in one floor lower: in the residual blocks over space and over time."""
    x, embedding, ids = inputs()
    times = torch.tensor([[1.2, -1.5, 0.0], [0.3, 0.3, 1.0]])

    def waves(values: Tensor, width: int) -> Tensor:
        angles = values.flatten()[:, None] * torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
        return torch.cat([angles.cos(), angles.sin()], -1)

    emb = pipe.unet.time_embedding(waves(times, 32)).reshape(2, 3, -1)
    emb = emb + pipe.unet.add_embedding(waves(ids, 32).reshape(2, -1))[:, None]
    over_space, over_time = ResnetBlock2D.forward, TemporalResnetBlock.forward
    monkeypatch.setattr(ResnetBlock2D, "forward", lambda self, h, temb, *_: over_space(self, h, emb.flatten(0, 1)))
    monkeypatch.setattr(TemporalResnetBlock, "forward", lambda self, h, temb: over_time(self, h, emb))
    theirs = pipe.unet(x, times[:, 0], embedding, added_time_ids=ids, return_dict=False)[0]
    monkeypatch.undo()
    assert relative(forward_rows(pipe.unet, x, times, embedding, ids), theirs) < 1e-5


@torch.no_grad()
def test_hooks_go_however_a_call_ends(pipe):
    x, embedding, ids = inputs()
    with pytest.raises(RuntimeError):
        forward_rows(pipe.unet, x[:, :, :5], torch.tensor([[1.0, 2.0, 3.0]] * 2), embedding, ids)
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())


def test_the_self_check_refuses_a_network_that_ignores_rows(pipe, monkeypatch):
    self_check(pipe.unet)
    monkeypatch.setattr("longtake.models.svd_unet._told", lambda unet, times: nullcontext())
    with pytest.raises(UsageError, match=r"diffusers \d"):
        self_check(pipe.unet)


# -- sigmas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 5, 25])
def test_levels_are_the_stock_sigmas(pipe, steps):
    before = str(vars(pipe.scheduler))
    schedule = schedule_of(pipe.scheduler, steps)
    assert str(vars(pipe.scheduler)) == before
    low, high = 0.002 ** (1 / 7), 700 ** (1 / 7)  # Karras et al. 2022, Eq. 5
    sigmas = [(high + i / max(steps - 1, 1) * (low - high)) ** 7 for i in range(steps)]
    np.testing.assert_allclose(np.divide(schedule.sigmas, schedule.alphas)[:0:-1], sigmas, rtol=1e-4)
    np.testing.assert_allclose(schedule.times[:0:-1], 0.25 * np.log(sigmas), atol=1e-5)
    np.testing.assert_allclose(np.square(schedule.alphas) + np.square(schedule.sigmas), 1)
    assert schedule.times[0] == pytest.approx(0.25 * math.log(0.002))


# -- picture and sampling ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_picture_is_read_as_the_stock_pipeline_reads_it(pipe, picture):
    guide = load(pipe, size=SIZE).denoiser.guide
    embedding, latent = guide.of_pixels(pixels(picture), noise=draw(3, 32, 48))
    assert relative(embedding, pipe._encode_image(picture, "cpu", 1, False)[0]) < 1e-5
    noisy = pixels(picture)[None] + 0.02 * draw(3, 32, 48)
    assert relative(latent, pipe._encode_vae_image(noisy, "cpu", 1, False)[0]) < 1e-5


@pytest.mark.parametrize("height,width", [(576, 1024), (32, 48), (225, 300), (200, 900)])
def test_pictures_are_shrunk_as_the_stock_pipeline_does(height, width):
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as stock

    picture = draw(1, 3, height, width)
    theirs = stock._resize_with_antialiasing(picture, (224, 224))
    torch.testing.assert_close(shrunk(picture, 224), theirs, rtol=1e-4, atol=1e-5)


def stock_clip(pipe: Any, picture: Image.Image, latents: Tensor, replace: Any = None) -> Tensor:
    """Latents of the stock pipeline, the picture's own noise left out; `replace(latents, step)` after each step."""

    def after(_, step: int, time: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": replace(values["latents"], step)} if replace else values

    return pipe(
        picture,
        height=SIZE[1],
        width=SIZE[0],
        num_frames=4,
        num_inference_steps=STEPS,
        min_guidance_scale=1.0,
        max_guidance_scale=3.0,
        fps=9,
        motion_bucket_id=60,
        noise_aug_strength=0.0,
        output_type="latent",
        latents=latents[None],
        callback_on_step_end=after,
    ).frames[0]


def denoiser_of(pipe: Any, noise: float = 0.0) -> SVDDenoiser:
    made = load(pipe, size=SIZE, num_steps=STEPS).denoiser
    guide = Guide(
        made.guide.codec,
        pipe.image_encoder,
        (pipe.feature_extractor.image_mean, pipe.feature_extractor.image_std),
        noise,
    )
    return SVDDenoiser(pipe.unet, guide, made.schedule, made.can, (1.0, 3.0), Micro(9, 60, noise))


@torch.no_grad()
def test_a_clip_of_noise_beside_a_picture_is_the_stock_pipelines(pipe, picture):
    denoiser = denoiser_of(pipe)
    shown = denoiser.guide.of_pixels(pixels(picture))
    rows = [noise_row(denoiser.can.latent_shape, STEPS, index, 7) for index in range(4)]
    theirs = stock_clip(pipe, picture, torch.stack([row.x for row in rows]))
    for level in range(STEPS, 0, -1):
        x0 = denoiser.predict(torch.stack([row.x for row in rows])[None], torch.full((1, 4), level), [shown])
        rows = advance(rows, list(x0[0]), [level - 1] * 4, Solver("euler"), denoiser.schedule)
    assert relative(torch.stack([row.x for row in rows]), theirs) <= 1e-4


@torch.no_grad()
def test_a_clip_behind_its_picture_is_the_stock_pipeline_with_the_known_frame_put_back(pipe, picture):
    """The picture is row 0 of the window; at every step the stock pipeline gets that frame noised to its sigma."""
    denoiser = denoiser_of(pipe)

    class Ideal(SVDCodec):  # one that loses nothing of this picture, so that both sides are shown the same
        def pixels(self, z: Tensor, cache: Any = None) -> Any:
            return pixels(picture)[None], cache

    denoiser.guide.codec = Ideal(pipe.vae)
    schedule, known = denoiser.schedule, denoiser.guide.codec.encode_image(picture)[0]
    eps = normal(known.shape, root(0), "known row", 0)

    def put_back(latents: Tensor, step: int) -> Tensor:
        level = STEPS - 1 - step
        sigma = schedule.sigmas[level] / schedule.alphas[level]
        latents[0, 0] = known + sigma * eps
        return latents

    rows = [clean_row(known, 0, 7), *(noise_row(known.shape, STEPS, index, 7) for index in (1, 2, 3))]
    start = torch.stack([schedule.alphas[STEPS] * known + schedule.sigmas[STEPS] * eps, *(row.x for row in rows[1:])])
    theirs = stock_clip(pipe, picture, start, put_back)
    for level in range(STEPS, 0, -1):
        levels = torch.tensor([[0, level, level, level]])
        x0 = denoiser(torch.stack([row.x for row in rows])[None], levels, [""])
        assert torch.equal(x0[0, 0], known)
        rows = [rows[0], *advance(rows[1:], list(x0[0, 1:]), [level - 1] * 3, Solver("euler"), schedule)]
    assert relative(torch.stack([row.x for row in rows[1:]]), theirs[1:]) <= 1e-4


def test_it_is_what_the_core_asks_for(pipe):
    model = load(pipe, size=SIZE, num_steps=6)
    assert isinstance(model.denoiser, Denoiser) and isinstance(model.codec, Codec)
    assert (model.solver, model.window, model.fps, model.guidance) == ("euler", 4, 7, 3.0)
    can = model.denoiser.can
    assert (can.image_first, can.image_only, can.per_row_levels, can.temporal_compression) == (True, True, "hook", 1)
    check_denoiser(model.denoiser)
    assert model.notes == ("this model reads no prompt: the picture alone decides",)


@torch.no_grad()
def test_rows_pictures_and_windows(pipe):
    denoiser = load(pipe, size=SIZE, num_steps=6).denoiser
    x, levels = draw(2, 4, *denoiser.can.latent_shape), torch.tensor([[0, 3, 3, 3], [2, 2, 2, 2]])
    before = denoiser(x, levels, ["", ""])
    changed = x.clone()
    changed[0, 0] += 1
    other = denoiser(changed, levels, ["", ""])
    assert relative(other[0, 1:], before[0, 1:]) > 1e-3  # the picture
    assert torch.equal(other[1], before[1])
    levels[0, 3] = 5
    mixed = denoiser(x, levels, ["", ""])
    assert relative(mixed[0, 3], before[0, 3]) > 0.1 and relative(mixed[1], before[1]) < 1e-5
    # a window without a picture is the half that guidance steers away from, whatever the guidance
    alone = denoiser.predict(x[1:], levels[1:], [None])
    assert relative(alone, before[1:]) < 1e-5
    embedding = torch.zeros(1, 1, 32)
    inside = torch.cat([x[1:], torch.zeros_like(x[1:])], 2)
    v = forward_rows(
        pipe.unet,
        inside,
        torch.tensor(denoiser.schedule.times)[levels[1:]],
        embedding,
        torch.tensor([[6.0, 127, 0.02]]),
    )
    a, s = denoiser.schedule.alphas[2], denoiser.schedule.sigmas[2]
    assert relative(alone, a * x[1:] - s * v) < 1e-5


@torch.no_grad()
def test_the_noise_on_the_picture_is_always_the_same(pipe, picture):
    denoiser, quiet = denoiser_of(pipe, noise=0.1), denoiser_of(pipe)
    latent = quiet.guide.codec.encode_image(picture)[0]
    first, again, clean = (
        denoiser.guide(latent)[1],
        denoiser_of(pipe, noise=0.1).guide(latent)[1],
        quiet.guide(latent)[1],
    )
    assert torch.equal(first, again) and relative(first, clean) > 1e-3
    assert torch.equal(clean, latent / 0.18215)


# -- frames ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_decoding_in_pieces_is_decoding_the_whole(pipe):
    codec = load(pipe, size=SIZE).codec
    z = draw(6, 4, 4, 6)
    whole, cache = codec.decode(z)
    parts, between = [], None
    for piece in z.split([1, 3, 2]):
        made, between = codec.decode(piece, between)
        parts.append(made)
    assert torch.equal(whole, torch.cat(parts)) and torch.equal(cache["past"], between["past"])
    assert whole.shape == (6, 32, 48, 3) and cache["past"].shape == (3, 4, 4, 6)
    stock = pipe.vae.decode(z[1:5] / 0.18215, num_frames=4).sample[-1]  # a frame is the last of the stock's four
    assert relative(codec.pixels(z)[0][4], stock.clamp(-1, 1)) < 1e-5
    assert codec.decode(z[:0], cache)[0].shape == (0, 32, 48, 3)


@pytest.mark.parametrize("method,frames", [("plain", 4), ("chunk", 7)])
def test_a_film_from_the_folder(folder, picture, tmp_path, method, frames):
    picture.save(tmp_path / "first.png")
    made = generate(
        "the picture",
        tmp_path / "run",
        model=str(folder),
        method=method,
        frames=frames,
        steps=3,
        size=SIZE,
        seed=3,
        image=str(tmp_path / "first.png"),
    )
    assert (made.frames, made.fps, made.width) == (frames, 7.0, 48)


def test_a_live_pipeline_and_its_folder_are_one_model(pipe, folder):
    live, stored = load(pipe, size=SIZE, num_steps=6), load(folder, size=SIZE, num_steps=6)
    x, levels = draw(1, 4, *live.denoiser.can.latent_shape), torch.tensor([[0, 2, 4, 6]])
    assert torch.equal(live.denoiser(x, levels, [""]), stored.denoiser(x, levels, [""]))
    with pytest.raises(UsageError, match="multiples of 8; the nearest that works is 48x32"):
        load(folder, size=(50, 32))


def test_other_schedulers_are_refused(pipe):
    from diffusers import DDIMScheduler, StableVideoDiffusionPipeline

    changed = StableVideoDiffusionPipeline(**{**pipe.components, "scheduler": DDIMScheduler()})
    with pytest.raises(UsageError, match="prediction_type is 'epsilon'; Stable Video Diffusion needs 'v_prediction'"):
        load(changed, size=SIZE)


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloading_changes_no_number(folder, offload):
    parked, plain = (load(folder, size=SIZE, num_steps=6, device="cpu", offload=kind) for kind in (offload, "none"))
    x = draw(1, 4, *plain.denoiser.can.latent_shape)
    for levels in ([[0, 3, 3, 3]], [[0, 2, 4, 6]]):
        ours, theirs = (model.denoiser(x, torch.tensor(levels), [""]) for model in (parked, plain))
        assert torch.equal(ours, theirs)
    with pytest.raises(UsageError, match="svd is not compiled"):
        load(folder, size=SIZE, compile=True)
