"""A plain batched Euler sampler for looking at a model in training; the library's own rollouts do not use it."""

from __future__ import annotations

import torch
from torch import Tensor

from longtake.training import fold, shapes, text
from longtake.training.pocket import Pocket


def times(num_steps: int) -> Tensor:
    """Noise levels from 1 to 0 [S+1], shifted as in training."""
    t = torch.linspace(1, 0, num_steps + 1)
    return shapes.SHIFT * t / (1 + (shapes.SHIFT - 1) * t)


@torch.no_grad()
def sample(model: Pocket, captions: list[str], num_latents: int = shapes.WINDOW, num_steps: int = 24,
           guidance: float = 3.0, seed: int = 0) -> Tensor:  # fmt: skip
    """Normalised latents [B,L,z,8,8] of the captions."""
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    channels = model.transformer.config.in_channels
    x = torch.randn(len(captions), num_latents, channels, 8, 8, generator=generator).to(device)
    ids, mask = (v.to(device) for v in text.tokenize(text.new_tokenizer(), captions + [""] * len(captions)))
    lengths, levels = [shapes.TEXT_LENGTH] * len(ids), times(num_steps)
    for now, after in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        told = torch.full((len(ids), num_latents), now, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            pair = model(torch.cat([x, x]), told, ids, mask, lengths).float()
        cond, uncond = pair.chunk(2)
        x = x + (after - now) * (uncond + guidance * (cond - uncond))
    return x


@torch.no_grad()
def pictures(vae: torch.nn.Module, latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalised latents to pixels in -1..1 [B,F,3,H,W]."""
    z = latents * std.to(latents)[:, None, None] + mean.to(latents)[:, None, None]
    return torch.cat([fold.decode(vae, part)[0] for part in z.split(4)]).clamp(-1, 1)


def save_grid(video: Tensor, path: str, columns: int) -> None:
    """Pictures [N,3,H,W] in -1..1 as one PNG of rows of `columns`."""
    from PIL import Image

    rows = video[: len(video) // columns * columns].unflatten(0, (-1, columns))
    grid = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray(((grid + 1) * 127.5).round().byte().numpy()).save(path)
