"""Latents in which a direction has as much variance as pixels notice of it: the autoencoder's last turn, untrained.

    longtake train balance

A lightly regularised autoencoder leaves its latents in an arbitrary basis, and a direction may have much variance and
no influence on any pixel (of pocket's 32, ten carry the picture). Normalised channel by channel, the others weigh in a
flow-matching loss like any, and a small transformer spends itself on them. Here the metric that the decoder puts on a
latent is measured,

    G_ij = mean over clips and positions of (J e_i) . (J e_j),      J the decoder's Jacobian, e_i a latent channel,

beside the latents' covariance S, and latents become P z with P^2 the geometric mean of G and inv(S). Then metric and
covariance are one and the same matrix (a balanced realisation, as control theory calls it): the variance of a direction
is the square root of its share in the pixels. All of that share (isometry) would leave details below the noise for
most of the schedule, none of it (whitening) is where we came from. P is symmetric on normalised latents, so a
transformer that was trained on those need not begin anew.

P is folded into the two 1 x 1 convolutions between encoder, latent and decoder (`quant_conv`, `post_quant_conv`):
pixels to pixels stays as it was, and stock pipelines need to know nothing. One scale normalises all channels afterwards
(training/cache.statistics).

J is measured by differences: every latent of a clip is moved at once by the same noise n along e_i; as the noises of
different positions are independent, what they contribute to the product of two channels cancels in the mean.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from longtake.output import checkpoint
from longtake.training import cache, fold, shapes
from longtake.training.loop import CACHE, STATE, Ema, Run
from longtake.training.optim import Optimizer
from longtake.training.pocket import VAES, load_vae

STEP = 0.1  # of a channel's standard deviation: how far latents are moved
LEAST = 1e-4  # of the largest eigenvalue: directions that pixels notice less count as this much


@torch.no_grad()
def metric(vae: nn.Module, latents: Tensor, generator: torch.Generator) -> Tensor:
    """G [z,z] of latents [B,L,z,h,w] as the autoencoder makes them; a clip at a time."""
    size = latents.shape[2]
    std = latents.std(dim=(0, 1, 3, 4)).clamp_min(1e-6)
    found = torch.zeros(size, size, dtype=torch.float64)
    for clip in latents[:, None]:
        noise = STEP * torch.randn(1, clip.shape[1], *clip.shape[3:], generator=generator)
        base, moved = fold.decode(vae, clip)[0], []
        for channel in range(size):
            other = clip.clone()
            other[:, :, channel] += noise * std[channel]
            moved.append((fold.decode(vae, other)[0] - base).flatten())
        shift = torch.stack(moved) / (STEP * std[:, None])
        found += (shift @ shift.mT).double() / float((noise / STEP).square().sum())
    return found / len(latents)


def power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a symmetric positive matrix; eigenvalues below `LEAST` of the largest count as that."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(LEAST * float(values[-1])) ** exponent) @ vectors.mT


def balance(found: Tensor, latents: Tensor) -> Tensor:
    """The matrix [z,z] that balances latents [N,L,z,h,w] of this metric: P after their normalisation."""
    flat = latents.movedim(2, -1).flatten(0, -2).double()
    std = flat.std(dim=0).clamp_min(1e-6)
    spread = torch.cov((flat / std).mT)
    half = power(std[:, None] * found.double() * std, 0.5)
    mean = half @ power(half @ spread @ half, -0.5) @ half
    return power(mean, 0.5) / std


@torch.no_grad()
def turn(vae: nn.Module, matrix: Tensor) -> None:
    """Latents become `matrix` [z,z] times themselves; pixels to pixels stays as it was.

    The encoder's log variances lose their meaning when channels are mixed: they become -30, no spread at all.
    """
    size = len(matrix)
    into, out = vae.quant_conv, vae.post_quant_conv
    weight, bias = into.weight[:size].flatten(1).double(), into.bias[:size].double()
    into.weight.zero_()
    into.weight[:size] = (matrix @ weight).view_as(into.weight[:size])
    into.bias.fill_(-30.0)
    into.bias[:size] = matrix @ bias
    back = out.weight.flatten(1).double() @ torch.linalg.inv(matrix)
    out.weight.copy_(back.view_as(out.weight))


def turned(latents: Tensor, matrix: Tensor) -> Tensor:
    """Cached latents [N,L,z,h,w] in the new basis."""
    return torch.cat([torch.einsum("ij,nljhw->nlihw", matrix.float(), p.float()).half() for p in latents.split(256)])


def make(out: Path = CACHE, clips: int = 16) -> Tensor:
    """Balance the newest autoencoder, and with it the caches it made; returns the matrix [z,z].

    The result is the run `vae-balanced`. Killed at any moment, it is there with its caches turned, or is not there and
    nothing is, or the next call ends what is left.
    """
    cache.settle(out)
    if checkpoint.exists(out / VAES[0], STATE):
        raise FileExistsError(f"{out / VAES[0]} is there; move it away to balance another autoencoder")
    vae = load_vae(out)
    cached = {path: load_file(path) for path in cache.files(out)}
    latents = next((data["latents"] for data in cached.values() if data["latents"].shape[1] > 1), None)
    if latents is None:
        latents = cache.encode_clips(vae, range(8 * clips), shapes.FRAMES, torch.Generator())["latents"]
    found = metric(vae, latents[:clips].float(), torch.Generator().manual_seed(0))
    matrix = balance(found, latents[:1024].float())
    turn(vae, matrix)
    for path, data in cached.items():
        save_file(data | {"latents": turned(data["latents"], matrix)}, path.with_suffix(cache.TURNED))
    Run(out / VAES[0], vae, Optimizer([], list(vae.parameters()), 0.0), Ema(vae, 0.0)).save()
    cache.settle(out)
    return matrix
