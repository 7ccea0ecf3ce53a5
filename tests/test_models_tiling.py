"""Decoding in tiles where diffusers has no class for it: against diffusers' own way of cutting and blending."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from longtake.core.model import Codec
from longtake.models.load import load
from longtake.models.opensora_tiny import save_tiny_open_sora
from longtake.models.opensoraplan_tiny import save_tiny_open_sora_plan
from longtake.models.tiny_own import tiny_svd
from tests.wan_cases import relative

TILE = 4


def stock_tiled(z: Tensor, decoder: Any) -> Tensor:
    """What diffusers' `tiled_decode` makes of (N, C, H, W) with any decoder of eight times the size."""
    teller: Any = SimpleNamespace(
        tile_latent_min_size=TILE, tile_sample_min_size=8 * TILE, tile_overlap_factor=0.25, decoder=decoder,
        config=SimpleNamespace(use_post_quant_conv=False),
    )  # fmt: skip
    for name in ("blend_v", "blend_h"):
        setattr(teller, name, getattr(AutoencoderKL, name).__get__(teller))
    return AutoencoderKL.tiled_decode(teller, z, return_dict=False)[0]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def streamed(codec: Any, z: Tensor) -> Tensor:
    parts, cache = [], None
    for piece in z.split([1, 2, len(z) - 3]):
        made, cache = codec.decode(piece, cache)
        parts.append(made)
    return torch.cat(parts)


def check(codec: Any, plain: Any, z: Tensor, want: Tensor) -> None:
    """Frames are those of diffusers' tiles, however latents arrive; small pictures are as without tiles."""
    codec.tile = TILE
    whole, _ = codec.decode(z)
    assert isinstance(codec, Codec) and relative(whole / 127.5 - 1, want.clamp(-1, 1)) < 2e-2  # bytes
    assert int((whole.int() - ((want.clamp(-1, 1) + 1) * 127.5).round().int()).abs().max()) <= 1
    assert torch.equal(streamed(codec, z), whole)
    assert not torch.equal(plain.decode(z)[0], whole), "tiles end what a norm or an attention sees"
    small = z[:, :, :TILE, :TILE]
    assert torch.equal(plain.decode(small)[0], codec.decode(small)[0])


def test_stable_video_diffusion_in_tiles():
    pipe = tiny_svd()
    plain, codec = (load(pipe, size=(56, 48), num_steps=2, extras=more).codec for more in ({}, {"tiling": True}))
    assert (plain.tile, codec.tile) == (None, pipe.vae.config.sample_size // 8)
    z, parts = draw(5, 4, 6, 7), []
    for last in range(5):
        piece = z[max(0, last - 3) : last + 1] / plain.scale
        with torch.no_grad():
            made = stock_tiled(piece, lambda tile: pipe.vae.decode(tile, num_frames=len(tile)).sample)
        parts.append(made[-1:])
    check(codec, plain, z, torch.cat(parts).permute(0, 2, 3, 1))


def test_open_sora_in_tiles(tmp_path):
    home = save_tiny_open_sora(tmp_path / "model")
    plain, codec = (load(home, num_steps=2, extras=more).codec for more in ({}, {"tiling": True}))
    assert (plain.tile, codec.tile) == (None, 256 // 8)
    z = draw(5, 4, 6, 7)
    image = plain.vae.spatial_vae.module
    with torch.no_grad():
        latents = plain.vae.temporal_vae.decode(z.transpose(0, 1)[None] * plain.vae.scale + plain.vae.shift, 17)
        pictures = latents[0].transpose(0, 1) / 0.18215
        want = stock_tiled(pictures, lambda tile: image.decode(tile).sample)
    check(codec, plain, z, want.permute(0, 2, 3, 1))


def test_open_sora_plan_in_tiles(tmp_path):
    home = save_tiny_open_sora_plan(tmp_path / "model", inpaint=True)
    plain, codec = (load(home, num_steps=2, extras=more).codec for more in ({}, {"tiling": True}))
    assert (plain.tile, codec.tile) == (None, 256 // 8)
    z = draw(4, 4, 6, 7)
    with torch.no_grad():
        want = stock_tiled(z, lambda tile: plain.vae.decode(tile.transpose(0, 1)[None])[0].transpose(0, 1))
    check(codec, plain, z, want[:-2].permute(0, 2, 3, 1))  # a stream is two frames behind
    assert relative(codec.pixels(z), want.clamp(-1, 1)) < 1e-4
