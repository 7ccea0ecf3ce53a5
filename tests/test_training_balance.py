"""Balanced latents: pixels are untouched, and what varies is what pixels notice."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from longtake.training import balance, cache, fold, pocket, shapes
from longtake.training.loop import Ema, Run
from longtake.training.optim import Optimizer

SMALL = shapes.VAE | {
    "base_dim": 4, "decoder_base_dim": 4, "z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4
}  # fmt: skip


@pytest.fixture
def vae():
    """A small autoencoder whose third channel the decoder hardly reads and whose first varies most."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**SMALL).eval().requires_grad_(False)
    vae.post_quant_conv.weight[:, 2] *= 0.1
    vae.quant_conv.weight[0] *= 5
    return vae


@pytest.fixture
def latents(vae):
    torch.manual_seed(1)
    return fold.encode(vae, torch.rand(6, 5, 3, 16, 16) * 2 - 1)[0]


def along(vae, clip, noise):
    """What the stock decoder's Jacobian makes of the same noise [1,L,1,h,w] in each channel: [z, pixels]."""
    decode = AutoencoderKLWan.decode.__wrapped__  # with gradients
    found = []
    for channel in range(clip.shape[2]):
        tangent = torch.zeros_like(clip)
        tangent[:, :, channel] = noise[:, :, 0]
        with sdpa_kernel(SDPBackend.MATH):
            pixels = torch.func.jvp(lambda x: decode(vae, x.movedim(1, 2)).sample.flatten(), (clip,), (tangent,))[1]
        found.append(pixels)
    return torch.stack(found).double()


def test_the_metric_is_the_jacobians(vae, monkeypatch):
    """Against exact derivatives along the same noise; two clips of two latents of 1 x 2 cells."""
    monkeypatch.setattr(balance, "STEP", 0.01)
    torch.manual_seed(2)
    clips, noises = 0.5 * torch.randn(2, 2, 4, 1, 2), torch.Generator().manual_seed(0)
    want = torch.zeros(4, 4, dtype=torch.float64)
    for clip in clips[:, None]:
        noise = torch.randn(1, 2, 1, 2, generator=noises)[:, :, None]
        moved = along(vae, clip, noise)
        want += moved @ moved.mT / noise.square().sum() / len(clips)
    got = balance.metric(vae, clips, torch.Generator().manual_seed(0))
    scale = want.diagonal().sqrt()
    assert want[2, 2] < 0.05 * want.diagonal().max()
    assert torch.allclose(got / scale / scale[:, None], want / scale / scale[:, None], atol=0.05)


def test_metric_and_covariance_become_one(vae, latents):
    found = balance.metric(vae, latents, torch.Generator().manual_seed(0))
    matrix = balance.balance(found, latents)
    back = torch.linalg.inv(matrix)
    metric = back.mT @ found @ back
    covariance = torch.cov(torch.einsum("ij,nljhw->nlihw", matrix.float(), latents).movedim(2, -1).reshape(-1, 4).mT)
    assert torch.allclose(metric.float(), covariance, rtol=1e-2, atol=1e-3 * float(covariance.max()))
    std = latents.movedim(2, -1).reshape(-1, 4).std(0).double()
    assert torch.allclose(matrix * std, (matrix * std).mT)  # symmetric on normalised latents


def test_pixels_to_pixels_stays(vae, latents):
    video = torch.rand(2, 5, 3, 16, 16) * 2 - 1
    before = vae.encode(video.movedim(2, 1)).latent_dist.mode()
    shown = vae.decode(before).sample
    matrix = balance.balance(balance.metric(vae, latents, torch.Generator().manual_seed(0)), latents)
    balance.turn(vae, matrix)
    said = vae.encode(video.movedim(2, 1)).latent_dist
    assert torch.allclose(said.mode(), torch.einsum("ij,bjthw->bithw", matrix.float(), before), atol=1e-4)
    assert (said.mode() - before).abs().max() > 0.1 and said.std.max() < 1e-6
    assert torch.allclose(vae.decode(said.mode()).sample, shown, atol=1e-4)


def test_the_run_and_its_caches_are_turned_together(tmp_path, monkeypatch):
    """What the new autoencoder makes of cached latents is what the old one made of the old; once only."""
    monkeypatch.setattr(shapes, "VAE", SMALL)
    torch.manual_seed(0)
    old = AutoencoderKLWan(**SMALL).eval()
    Run(tmp_path / "vae-joint", old, Optimizer([], list(old.parameters()), 0.0), Ema(old, 0.9)).save()
    drawn = torch.randn(8, 2, 4, 4, 4) * torch.tensor([3.0, 1, 0.1, 1])[:, None, None]
    for name, kept in (("clips", drawn), ("stills", drawn[:, :1])):
        save_file({"latents": kept.half().contiguous(), "labels": torch.arange(8)}, tmp_path / f"{name}.safetensors")
    matrix = balance.make(tmp_path, clips=8)
    new = pocket.load_vae(tmp_path)
    for name, kept in (("clips", drawn), ("stills", drawn[:, :1])):
        now = load_file(tmp_path / f"{name}.safetensors")
        assert torch.equal(now["labels"], torch.arange(8))
        with torch.no_grad():
            seen, truth = fold.decode(new, now["latents"].float())[0], fold.decode(old, kept)[0]
        assert torch.allclose(seen, truth, atol=0.02)
    mean, std = cache.statistics({"latents": torch.einsum("ij,nljhw->nlihw", matrix.float(), drawn)})
    assert len(set(std.tolist())) == 1 and mean.shape == (4,)
    with pytest.raises(FileExistsError, match="move it away"):
        balance.make(tmp_path)


def test_killed_between_the_autoencoder_and_its_caches(tmp_path, monkeypatch):
    """The next look puts the caches in place; without caches clips are rendered for the measurement."""
    monkeypatch.setattr(shapes, "VAE", SMALL)
    torch.manual_seed(0)
    old = AutoencoderKLWan(**SMALL).eval()
    for folder in ("killed", "bare"):
        Run(tmp_path / folder / "vae-joint", old, Optimizer([], list(old.parameters()), 0.0), Ema(old, 0.9)).save()
    kept, file = torch.randn(8, 2, 4, 4, 4).half(), tmp_path / "killed/clips.safetensors"
    save_file({"latents": kept}, file)
    settle = cache.settle
    monkeypatch.setattr(cache, "settle", lambda out: None)
    matrix = balance.make(tmp_path / "killed", clips=2)
    assert torch.equal(load_file(file)["latents"], kept)
    settle(tmp_path / "killed")
    assert torch.equal(load_file(file)["latents"], balance.turned(kept, matrix))
    monkeypatch.setattr(cache, "encode_clips", lambda vae, seeds, *_: {"latents": kept[: len(seeds)]})
    assert balance.make(tmp_path / "bare", clips=2).shape == (4, 4)
    assert not (tmp_path / "bare/clips.safetensors").exists()
