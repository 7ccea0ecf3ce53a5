"""Encoded clips for the transformer: rendered and encoded once, kept in memory and in `.cache`.

A cache is a dictionary: `latents` float16 [N,L,z,8,8] (not normalised), `mask` float16 [N,L,4,4] (visible share of
the subject in each transformer token), `ids` and `text` [N,32] tokens and their mask, `labels` int64 [N,4].
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from longtake.output import checkpoint
from longtake.training import fold, text
from longtake.training.loop import STATE
from longtake.training.pool import LONGEST
from longtake.world.captions import caption
from longtake.world.grammar import scene
from longtake.world.renderer import render

TURNED = ".turned"
"""Ending of a cache that waits for its balanced autoencoder (training/balance)."""
LABELS = ("subject", "place", "time", "motion")


def token_mask(mask: Tensor) -> Tensor:
    """Subject masks uint8 [B,F,64,64] to shares [B,L,4,4]: the first frame alone, then groups of four."""
    share = F.avg_pool2d(mask.float() / 255, mask.shape[-1] // 4)
    rest = share[:, 1:].unflatten(1, (-1, 4)).mean(2) if share.shape[1] > 1 else share[:, 1:]
    return torch.cat([share[:, :1], rest], dim=1)


@torch.no_grad()
def encode_clips(vae: nn.Module, seeds: range, num_frames: int, generator: torch.Generator) -> dict[str, Tensor]:
    scenes = [scene(seed, "train") for seed in seeds]
    starts = torch.randint(0, LONGEST, (len(scenes),), generator=generator).tolist()
    device = next(vae.parameters()).device
    clip = render(scenes, num_frames, start=starts, device=str(device))
    with torch.autocast(device.type, torch.bfloat16):
        mean, _, _ = fold.encode(vae, clip.pixels.float() / 127.5 - 1)
    ids, mask = text.tokenize(text.new_tokenizer(), [caption(s) for s in scenes])
    labels = torch.stack([clip.labels[name] for name in LABELS], dim=1).cpu()
    return {
        "latents": mean.half().cpu(),
        "mask": token_mask(clip.mask).half().cpu(),
        "ids": ids,
        "text": mask,
        "labels": labels,
    }


def build(vae: nn.Module, path: Path, num: int, num_frames: int, minutes: float = 60.0) -> dict[str, Tensor]:
    """Load the cache at `path`, or make one of `num` clips (fewer if the minutes run out)."""
    if path.exists():
        return load_file(path)
    generator = torch.Generator().manual_seed(num_frames)
    parts, end, batch = [], time.monotonic() + 60 * minutes, 32 if num_frames == 1 else 8
    if next(vae.parameters()).device.type != "cpu":
        batch *= 8
    for first in range(0, num, batch):
        base = first + 50_000_000 * (1 + (num_frames > 1))
        parts.append(encode_clips(vae, range(base, base + batch), num_frames, generator))
        if time.monotonic() > end:
            break
    data = {key: torch.cat([part[key] for part in parts]).contiguous() for key in parts[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(data, path)
    return data


def files(out: Path) -> list[Path]:
    """The caches below a folder that are there."""
    return [path for path in (out / "clips.safetensors", out / "stills.safetensors") if path.exists()]


def settle(out: Path) -> None:
    """Turned caches take the place of the old ones once their autoencoder is there: what a kill left undone."""
    for path in files(out):
        if path.with_suffix(TURNED).exists() and checkpoint.exists(out / "vae-balanced", STATE):
            path.with_suffix(TURNED).replace(path)


def statistics(data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean of each latent channel [z] and the one standard deviation of all of them [z]: training/balance says why."""
    latents = data["latents"][:4096].float()
    mean, variance = latents.mean(dim=(0, 1, 3, 4)), latents.var(dim=(0, 1, 3, 4))
    return mean, variance.mean().sqrt().clamp_min(1e-3).expand(len(mean))


def window(data: dict[str, Tensor], batch: int, num_latents: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A random batch of the first `num_latents` latents."""
    picks = torch.randint(0, len(data["latents"]), (batch,), generator=generator)
    return {
        key: value[picks, :num_latents] if key in ("latents", "mask") else value[picks] for key, value in data.items()
    }
