"""The streaming autoencoder against the stock one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.core.model import Capabilities
from longtake.models.fold import Folded
from longtake.models.place import Place, Stage
from longtake.models.wan_codec import WanCodec
from tests.wan_cases import SIZE

pytest_plugins = ("tests.wan_fixtures",)


def stock_decode(vae: AutoencoderKLWan, z: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(value).view(1, -1, 1, 1, 1) for value in (vae.config.latents_mean, vae.config.latents_std)
    )
    return vae.decode(z.transpose(0, 1)[None] * std + mean, return_dict=False)[0][0].transpose(0, 1)


def through_files(cache: Any, place: Path) -> Any:
    """The cache after a round trip through safetensors and JSON."""
    tensors = {str(i): value for i, value in enumerate(cache["feat"]) if isinstance(value, Tensor)}
    save_file(tensors, place / "cache.safetensors")
    text = json.dumps([None if isinstance(value, Tensor) else value for value in cache["feat"]])
    back = load_file(place / "cache.safetensors")
    return {"feat": tuple(back.get(str(i), value) for i, value in enumerate(json.loads(text)))}


@torch.no_grad()
@pytest.mark.parametrize("layout", ["pipe", "ti2v"])
@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("cuts", [(6,), (1,) * 6, (1, 2, 3), (2, 0, 4), (5, 1)])
def test_streamed_decoding_is_decoding_the_whole(layout: str, fold: bool, cuts: tuple[int, ...], request, tmp_path):
    vae = request.getfixturevalue(layout).vae
    codec = WanCodec(vae, fold=fold)
    z = torch.randn(6, 6, 4, 6, generator=torch.Generator().manual_seed(1))
    theirs = stock_decode(vae, z)
    cache, parts, frames, other = None, [], [], None
    for part in z.split(list(cuts)):
        video, after = codec.pixels(part, cache)
        picture, other = codec.decode(part, other)
        parts.append(video)
        frames.append(picture)
        cache = after if after is None else through_files(after, tmp_path)
    ours = torch.cat(parts)
    assert ours.shape == theirs.shape == (21, 3, 4 * codec.factor, 6 * codec.factor)
    assert torch.equal(ours, theirs) if not fold else (ours - theirs).abs().max() <= 1e-5
    expected = (theirs.permute(0, 2, 3, 1) / 2 + 0.5).mul(255)
    assert (torch.cat(frames) - expected).abs().max() <= 0.5 + 2e-3 and frames[0].dtype == torch.uint8


@torch.no_grad()
@pytest.mark.parametrize(
    "kernel,stride,padding", [((3, 3, 3), (1, 1, 1), 1), ((3, 1, 1), (2, 1, 1), 0), ((1, 3, 3), (1, 2, 2), 0)]
)
def test_folding_is_the_convolution_in_3d(kernel: tuple[int, ...], stride: tuple[int, ...], padding: int):
    torch.manual_seed(0)
    layer = torch.nn.Conv3d(4, 5, kernel, stride, (0, padding, padding))
    x, folded = torch.randn(2, 4, 7, 6, 8), Folded()
    with folded:
        before = layer(x)
    torch.testing.assert_close(before, layer(x), rtol=1e-5, atol=1e-5)
    layer.weight.mul_(2)  # weights changed in place, as a LoRA does, must not be answered from memory
    with folded:
        after = layer(x)
    torch.testing.assert_close(after, layer(x), rtol=1e-5, atol=1e-5)
    in_time = torch.nn.Conv3d(4, 5, 3, padding=1)  # not causal by itself: passed on as it is
    with folded:
        assert torch.equal(in_time(x), torch.nn.functional.conv3d(x, in_time.weight, in_time.bias, padding=1))


def test_folding_is_for_where_it_works_not_for_where_weights_wait(pipe):
    """Offloaded weights are on the host when the codec is made; 2-D convolutions of stacked frames are for CPUs."""
    codec = WanCodec(pipe.vae)
    assert isinstance(codec._convolutions(), Folded)
    codec.place = Place(torch.device("cuda"), Stage(torch.device("cuda")))
    assert not isinstance(codec._convolutions(), Folded)
    assert isinstance(WanCodec(pipe.vae, fold=True)._convolutions(), Folded)


@torch.no_grad()
def test_a_cache_is_a_value(pipe):
    codec, z = WanCodec(pipe.vae), torch.randn(4, 6, 4, 4, generator=torch.Generator().manual_seed(2))
    _, cache = codec.decode(z[:2])
    before = [value.clone() if isinstance(value, Tensor) else value for value in cache["feat"]]
    one, _ = codec.decode(z[2:3], cache)
    codec.decode(z[3:], cache)
    again, _ = codec.decode(z[2:3], cache)
    assert torch.equal(one, again)
    for was, now in zip(before, cache["feat"], strict=True):
        assert torch.equal(was, now) if isinstance(was, Tensor) else was is now
    fresh, _ = codec.decode(z[2:3])
    assert len(fresh) == 1  # without a cache a latent is the first of a video


def test_ranges_are_what_decoding_yields(pipe):
    codec, cache, count = WanCodec(pipe.vae), None, 0
    for index in range(4):
        frames, cache = codec.decode(torch.zeros(1, 6, 4, 4), cache)
        assert codec.range_of(index) == range(count, count + len(frames))
        count += len(frames)
    assert count == Capabilities(21, (6, 4, 4)).num_frames(4) == 13


@torch.no_grad()
@pytest.mark.parametrize("layout", ["pipe", "ti2v"])
@pytest.mark.parametrize("fold", [False, True])
def test_encoding_is_the_mode_of_the_stock_posterior(layout: str, fold: bool, request):
    vae = request.getfixturevalue(layout).vae
    draw = torch.Generator().manual_seed(3)
    frames = torch.randint(0, 256, (9, 64, 32), dtype=torch.uint8, generator=draw)[..., None].expand(-1, -1, -1, 3)
    frames = frames + torch.arange(3, dtype=torch.uint8)  # three different colour planes
    ours = WanCodec(vae, fold=fold).encode(frames)
    video = frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    theirs = ((vae.encode(video).latent_dist.mode() - mean) / std)[0].transpose(0, 1)
    factor = vae.config.scale_factor_spatial
    assert ours.shape == (3, 6, 64 // factor, 32 // factor)
    assert torch.equal(ours, theirs) if not fold else (ours - theirs).abs().max() <= 2e-5


def test_a_picture_is_a_clip_of_one_frame(pipe):
    codec = WanCodec(pipe.vae)
    pixels = torch.randint(0, 256, (64, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    picture = Image.fromarray(pixels.numpy())
    assert torch.equal(codec.encode_image(picture), codec.encode(pixels[None]))
    assert torch.equal(codec.encode_image(pixels), codec.encode(pixels[None]))
    wide = Image.new("RGBA", (300, 64), "red")
    assert codec.encode_image(wide, SIZE).shape == (1, 6, 8, 4)
    assert torch.equal(codec.encode_image(picture, SIZE), codec.encode(pixels[None]))
