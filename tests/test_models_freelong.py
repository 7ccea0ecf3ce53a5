"""FreeLong and FreePCA on layers over time of VideoCrafter2, UNet3D, AnimateDiff and SVD, against short references."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models import freelong, freepca, svd_family
from longtake.models.load import load
from longtake.models.temporal import attend, layers, near, replaced
from longtake.models.tiny import tiny_wan
from longtake.models.tiny_own import VIDEOCRAFTER, louder, save_tiny_videocrafter, seeded, tiny_svd
from longtake.models.videocrafter_blocks import Attention, TemporalTransformer
from longtake.models.videocrafter_unet import VideoCrafterUNet
from longtake.testing import check_denoiser

WINDOW = 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OVER_TIME: dict[str, Any] = {
    "videocrafter2": lambda: TemporalTransformer(32, 2, 8),
    "unet3d": lambda: TransformerTemporalModel(2, 8, 32, norm_num_groups=8),
    "animatediff": lambda: AnimateDiffTransformer3D(
        2, 8, 32, norm_num_groups=8, activation_fn="geglu", positional_embeddings="sinusoidal",
        num_positional_embeddings=16,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(OVER_TIME))
def network(request) -> nn.Module:
    """A network that is one transformer over time, two heads of 8: of each kind whose tokens are frames at a pixel."""
    return seeded(1, OVER_TIME[request.param])


@pytest.fixture(scope="module", params=["attn1", "attn2"])
def layer(network, request) -> Attention:
    return getattr(network.transformer_blocks[0], request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_videocrafter(tmp_path_factory.mktemp("models") / "vc2")


def reading(layer: Attention, x: np.ndarray, rows: list[list[int]], sharpen: float = 1.0) -> np.ndarray:
    """Attention by hand in float64: row i of each sequence reads the rows listed for it. (N, F, C) -> (N, F, C)."""
    q, k, v = (x @ part.weight.detach().numpy().astype(np.float64).T for part in (layer.to_q, layer.to_k, layer.to_v))
    out = np.zeros_like(q)
    width = q.shape[-1] // layer.heads
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        for row, others in enumerate(rows):
            score = np.einsum("nc,nmc->nm", sharpen * q[:, row, part], k[:, others, part]) / math.sqrt(width)
            weight = np.exp(score - score.max(1, keepdims=True))
            weight /= weight.sum(1, keepdims=True)
            out[:, row, part] = np.einsum("nm,nmc->nc", weight, v[:, others, part])
    return out


def projected(layer: Attention, read: np.ndarray) -> Tensor:
    return layer.to_out[0](torch.from_numpy(read).float())


# -- FreeLong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames,height,width", [(10, 4, 6), (9, 3, 5)])
def test_freelong_is_its_formula(network, layer, frames, height, width):
    x = draw(2 * height * width, frames, 16)
    with freelong.applied(network, 2, (height, width), WINDOW):
        ours = layer(x)
    exact = x.numpy().astype(np.float64)
    rows = [list(range(s := min(max(i - 2, 0), frames - WINDOW), s + WINDOW)) for i in range(frames)]
    low, high = reading(layer, exact, [list(range(frames))] * frames), reading(layer, exact, rows)
    t, y, z = (np.fft.fftfreq(many) * 2 / 0.25 for many in (frames, height, width))
    keep = np.exp(-(t[:, None, None] ** 2 + y[None, :, None] ** 2 + z**2) / 2)[..., None]
    low, high = (
        np.fft.fftn(part.reshape(2, height, width, frames, 16).transpose(0, 3, 1, 2, 4), axes=(1, 2, 3))
        for part in (low, high)
    )
    mixed = np.fft.ifftn(keep * low + (1 - keep) * high, axes=(1, 2, 3)).real
    theirs = mixed.transpose(0, 2, 3, 1, 4).reshape(-1, frames, 16)
    torch.testing.assert_close(ours, projected(layer, theirs), rtol=1e-4, atol=1e-5)


def test_rows_read_the_trained_number_of_neighbours_also_at_the_ends():
    assert near(7, 4).int().tolist() == [
        [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1],
    ]  # fmt: skip
    assert near(3, 4).all()


def test_the_filter_has_its_published_values():
    keep = freelong.low_pass(16, 32, 32)
    assert keep[0, 0, 0] == 1
    np.testing.assert_allclose(float(keep[1, 0, 0]), 0.8824968934059143, rtol=1e-6)  # one step off in time
    np.testing.assert_allclose(float(keep[0, 1, 0]), 0.9692332148551941, rtol=1e-6)  # in space
    np.testing.assert_allclose(float(keep[1, 1, 2]), 0.7548395991325378, rtol=1e-6)
    np.testing.assert_allclose(float(keep.sum()), 503.87554931640625, rtol=1e-6)


# -- FreePCA -----------------------------------------------------------------------------------------------------


def test_freepca_is_its_algorithm(network, layer):
    frames, pixels = 14, 6
    x, times = draw(2 * pixels, frames, 16), torch.full((2, frames), 600.0)
    times[1, :8] = 200.0  # the second clip's first windows are below the threshold
    with freepca.applied(network, times, WINDOW):
        ours = layer(x)
    exact = x.numpy().astype(np.float64)
    for clip in range(2):
        tokens = exact[clip * pixels : (clip + 1) * pixels]
        everything = reading(layer, tokens, [list(range(frames))] * frames, math.sqrt(math.log(frames, WINDOW)))
        total, count = np.zeros_like(everything), np.zeros(frames)
        for number, first in enumerate([0, 4, 8, 10]):
            window = slice(first, first + WINDOW)
            local = reading(layer, tokens[:, window], [list(range(WINDOW))] * WINDOW)
            if number > 0 and times[clip, window].mean() > 250:
                whole, part = (f.transpose(0, 2, 1).reshape(-1, WINDOW) for f in (everything[:, window], local))
                mean = whole.mean(1, keepdims=True)
                whole, part = whole - mean, part - part.mean(1, keepdims=True)
                spread, basis = np.linalg.eig(whole.T @ whole / len(whole))
                a, b = part @ basis, whole @ basis
                cosine = (a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)
                cosine[spread < 1e-9 * spread.max()] = -2  # the mean's own direction is empty
                best = np.argsort(-cosine)[: min(number, 3)]
                a[:, best] = b[:, best]
                local = (a @ basis.T + mean).reshape(pixels, 16, WINDOW).transpose(0, 2, 1)
            total[:, window] += local
            count[window] += 1
        theirs = projected(layer, total / count[:, None])
        torch.testing.assert_close(ours[clip * pixels : (clip + 1) * pixels], theirs, rtol=1e-3, atol=1e-4)


def test_taking_every_component_is_the_global_side():
    whole, part = draw(6, 4, 8), draw(6, 4, 8, seed=1)
    torch.testing.assert_close(freepca.join(whole, part, 4), whole, rtol=1e-4, atol=1e-5)
    few = freepca.join(whole, part, 1)
    torch.testing.assert_close(few.mean(1), whole.mean(1), rtol=1e-4, atol=1e-5)
    assert (few - whole).std() > 0.1 and (few - part).std() > 0.1


# -- on networks -------------------------------------------------------------------------------------------------


def forward(network: VideoCrafterUNet, frames: int) -> Tensor:
    x, text = draw(2, frames, 4, 6, 4), draw(2, 5, 16, seed=1)
    return network(x, torch.full((2, frames), 600.0), text, torch.tensor([10.0, 10.0]))


@torch.no_grad()
@pytest.mark.parametrize("name", ["freelong", "freepca"])
def test_a_window_as_trained_is_left_alone_and_a_longer_one_changes(name):
    network = seeded(0, lambda: VideoCrafterUNet(VIDEOCRAFTER))

    def inside(frames: int) -> Tensor:
        times = torch.full((2, frames), 600.0)
        change = {
            "freelong": lambda: freelong.applied(network, 2, (6, 4), WINDOW),
            "freepca": lambda: freepca.applied(network, times, WINDOW),
        }[name]()
        with change:
            return forward(network, frames)

    plain, long = forward(network, 4), forward(network, 10)
    torch.testing.assert_close(inside(4), plain, rtol=1e-4, atol=1e-4)
    assert float((inside(10) - long).std() / long.std()) > 0.02
    assert torch.equal(forward(network, 10), long)  # nothing is left behind


def test_layers_are_put_back_however_the_block_ends():
    network = seeded(0, lambda: VideoCrafterUNet(VIDEOCRAFTER))
    changed = layers(network)
    assert len(changed) == 2 * (1 + 1 + 1 + 2)  # two a transformer: first, down, middle, two up
    with pytest.raises(RuntimeError, match="broken"), replaced(network, attend):
        assert all("forward" in vars(part) for part in changed)
        raise RuntimeError("broken")
    assert not any("forward" in vars(part) for part in changed)


@torch.no_grad()
def test_diffusers_3d_unet_is_changed_too():
    stock = seeded(0, lambda: UNet3DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    ))  # fmt: skip
    louder(stock)
    x, text = draw(1, 4, 9, 6, 4), draw(1, 5, 16, seed=1)
    plain = stock(x, 600, text).sample
    with replaced(stock, attend):  # the same attention through our own code
        torch.testing.assert_close(stock(x, 600, text).sample, plain, rtol=1e-4, atol=1e-4)
    with freelong.applied(stock, 1, (6, 4), WINDOW):
        assert float((stock(x, 600, text).sample - plain).std() / plain.std()) > 0.02
    assert torch.equal(stock(x, 600, text).sample, plain)


@torch.no_grad()
@pytest.mark.parametrize("name", ["freelong", "freepca"])
def test_animatediffs_motion_modules_are_changed_too(name):
    """A 2-D network with a motion adapter: its layers through our own code, changed, and left as they were."""
    flat = seeded(0, lambda: UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ))  # fmt: skip
    adapter = seeded(1, lambda: MotionAdapter(
        block_out_channels=(32, 64), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=8,
        motion_max_seq_length=16,
    ))  # fmt: skip
    stock = UNetMotionModel.from_unet2d(flat, adapter).eval()
    louder(stock)
    assert len(layers(stock)) == 2 * (2 + 1 + 4), "two a module: down, middle, up"
    x, text = draw(1, 4, 9, 6, 4), draw(1, 5, 16, seed=1).repeat_interleave(9, 0)
    plain = stock(x, 600, text).sample
    with replaced(stock, attend):
        torch.testing.assert_close(stock(x, 600, text).sample, plain, rtol=1e-4, atol=1e-4)
    times = torch.full((1, 9), 600.0)
    with {"freelong": lambda: freelong.applied(stock, 1, (6, 4), WINDOW),
          "freepca": lambda: freepca.applied(stock, times, WINDOW)}[name]():  # fmt: skip
        assert float((stock(x, 600, text).sample - plain).std() / plain.std()) > 0.005
    assert torch.equal(stock(x, 600, text).sample, plain)


@torch.no_grad()
@pytest.mark.parametrize("name", ["freelong", "freepca"])
def test_stable_video_diffusion_is_changed_too(name):
    pipe = tiny_svd()
    model, plain = load(pipe, size=(48, 32), num_steps=4, extras={name: 9}), load(pipe, size=(48, 32), num_steps=4)
    assert (model.window, plain.window) == (9, 4) and len(layers(pipe.unet)) == 1 + 1 + 2
    check_denoiser(model.denoiser, num_rows=6)
    x, levels = draw(1, 9, *plain.denoiser.can.latent_shape), torch.full((1, 9), 3)
    levels[0, 0] = 0
    long, short = (one.denoiser(x, levels, [""])[0, 1:] for one in (model, plain))
    assert float((long - short).std() / short.std()) > 0.01
    with replaced(pipe.unet, attend):  # the same attention through our own code
        torch.testing.assert_close(plain.denoiser(x, levels, [""])[0, 1:], short, rtol=1e-3, atol=1e-3)
    # below FreePCA's bound, and in a window as trained, nothing changes
    assert torch.equal(plain.denoiser(x, levels, [""])[0, 1:], short)
    few = [one.denoiser(x[:, :4], levels[:, :4], [""]) for one in (model, plain)]
    torch.testing.assert_close(*few, rtol=1e-3, atol=1e-3)


def test_freepcas_bound_is_that_of_videocrafter2_in_noise():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)[int(freepca.LATE)]
    assert pytest.approx(0.25 * math.log(math.sqrt((1 - kept) / kept)), abs=1e-3) == svd_family.LATE


def test_attention_in_three_dimensions_is_refused():
    with pytest.raises(UsageError, match="its attention is 3-D"):
        layers(tiny_wan().transformer)


@pytest.mark.parametrize("extras,window", [({"freelong": "true"}, 32), ({"freepca": True}, 16), ({"freelong": 10}, 10)])
def test_the_options_make_the_window_longer(folder, extras, window):
    model = load(folder, extras=extras)
    assert model.window == model.denoiser.can.window == window
    check_denoiser(model.denoiser, num_rows=6)
    assert load(folder, extras={"freelong": "false"}).window == 4


def test_the_options_refuse_what_cannot_work(folder):
    with pytest.raises(UsageError, match="frames of a window from 4 up, got 3"):
        load(folder, extras={"freelong": 3})
    with pytest.raises(UsageError, match="set one of them"):
        load(folder, extras={"freelong": True, "freepca": True})
