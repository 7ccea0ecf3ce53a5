"""A latent reward model: reads latents halfway, and says how good the finished video will be.

After LatSearch (Zhao et al. 2026): a network that scores partially denoised latents for visual quality, motion quality
and text alignment, so that a search needs neither a decoder nor a preview. Theirs is a vision-language model of two
billion weights which are not released; this one has well under a million, is trained for one model by
`longtake train reward`, and lies in the folder `reward/` beside that model's weights.

Deviations. Beside the noisy latents it reads the estimates x0 that the sampler made of them, which cost nothing, and
how those change from row to row: from noise alone a small network learns next to nothing (LOG.md). The level is told
as a number, the share of noise sigma / (alpha + sigma) of each row, through sines and cosines: theirs is a table of
five steps and knows no other. Each row has its own, so queues are read too. The prompt is a bag of words (hashed),
since a model's text encoder may be gone by the time of a search. What it is told to predict shrinks at noisy levels
(longtake.training.reward), so scores are compared at one level.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from longtake.core.rollout import View
from longtake.core.schedule import NoiseSchedule

FOLDER = "reward"
DROPPED = 0.3
"""Share of features that training leaves out: videos are few."""
WAVES = 8
"""Frequencies that a level is told in."""


class Scorer(nn.Module):
    """Latents and their estimates [B,T,C,H,W] with a share of noise a row and a prompt to one number a head."""

    def __init__(
        self, channels: int = 32, heads: Sequence[str] = ("visual", "motion", "text"), width: int = 32,
        words: int = 2048,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = {"channels": channels, "heads": list(heads), "width": width, "words": words}
        wide = 2 * width
        self.eye = nn.Sequential(
            nn.Conv2d(3 * channels, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU(),
            nn.Conv2d(width, wide, 3, 2, 1), nn.GroupNorm(8, wide), nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1), nn.GroupNorm(8, wide), nn.SiLU(),
        )  # fmt: skip
        self.level = nn.Sequential(nn.Linear(2 * WAVES, wide), nn.SiLU(), nn.Linear(wide, 4 * wide))
        self.look = nn.Linear(2 * wide, wide)
        self.course = nn.Sequential(
            nn.Conv1d(wide, wide, 3, padding=1), nn.SiLU(), nn.Conv1d(wide, wide, 3, padding=1), nn.SiLU()
        )
        self.words = nn.EmbeddingBag(words, wide)
        self.drop = nn.Dropout(DROPPED)
        self.out = nn.Sequential(nn.Linear(3 * wide, wide), nn.SiLU(), nn.Dropout(DROPPED), nn.Linear(wide, len(heads)))

    def forward(
        self,
        x: Float[Tensor, "B T C H W"],
        x0: Float[Tensor, "B T C H W"],
        noise: Float[Tensor, "B T"],
        words: Sequence[Tensor],
    ) -> Float[Tensor, "B heads"]:
        """Scores; `words` are the buckets of each prompt's words (`buckets_of`)."""
        batch, rows = x.shape[:2]
        change = x0 - torch.cat([x0[:, :1], x0[:, :-1]], 1)
        seen = self.eye(torch.cat([x, x0, change], 2).flatten(0, 1))
        pooled = torch.cat([seen.mean(dim=(2, 3)), seen.amax(dim=(2, 3))], 1)
        scale, shift = self.level(waves(noise.flatten())).chunk(2, dim=1)
        looked = self.drop(F.silu(self.look(pooled * (1 + scale) + shift)))
        frames = looked.unflatten(0, (batch, rows)).transpose(1, 2)
        course = frames + self.course(frames)
        offsets = torch.tensor([0, *(len(bag) for bag in words)][:-1]).cumsum(0).to(x.device)
        text = self.words(torch.cat(list(words)).to(x.device), offsets)
        return self.out(torch.cat([course.mean(2), course.amax(2), text], 1))


class Panel(nn.Module):
    """Scorers that began apart; their mean, which is wrong less often than one of them."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        super().__init__()
        self.scorers = nn.ModuleList(scorers)
        self.config = {"scorers": len(scorers), **scorers[0].config}

    def forward(self, x: Tensor, x0: Tensor, noise: Tensor, words: Sequence[Tensor]) -> Float[Tensor, "B heads"]:
        """As a scorer's."""
        return torch.stack([scorer(x, x0, noise, words) for scorer in self.scorers]).mean(0)


def waves(noise: Tensor) -> Tensor:
    """Shares of noise [N] in 0..1 as sines and cosines [N, 2 WAVES]."""
    angle = noise[:, None] * math.pi * 2.0 ** torch.arange(WAVES, device=noise.device)
    return torch.cat([angle.sin(), angle.cos()], 1)


def buckets_of(prompt: str, many: int) -> Tensor:
    """The bucket of every word of a prompt; the same on every machine. A prompt without words is bucket 0."""
    words = re.findall(r"\w+", prompt.lower())
    hashed = [int.from_bytes(blake2b(word.encode(), digest_size=4).digest(), "big") % many for word in words]
    return torch.tensor(hashed or [0])


def share_of_noise(schedule: NoiseSchedule, level: int) -> float:
    """sigma / (alpha + sigma): 0 clean, 1 pure noise, and the same for flow matching and variance preserving."""
    return schedule.sigmas[level] / (schedule.alphas[level] + schedule.sigmas[level])


class LatentReward:
    """The model as a reward; finished latents count as free of noise. It reads `span` latents at a time (None: all):
    of an unfinished clip the last, of longer ones that are finished one window after the other, which are averaged.
    """

    needs = frozenset({"x", "x0", "past"})

    def __init__(self, net: Scorer | Panel, schedule: NoiseSchedule, span: int | None = None) -> None:
        self.net, self.schedule, self.span = net.eval().requires_grad_(False), schedule, span

    @torch.no_grad()
    def __call__(self, views: list[View]) -> list[float]:
        """The sum of the heads for each view; 0 where there is nothing to read. Each is read by itself."""
        return [self._one(view) for view in views]

    def _one(self, view: View) -> float:
        done = view.clip[: len(view.clip) - len(view.x0)]
        latents, guessed = (*done, *view.x), (*done, *view.x0)
        shares = [0.0] * len(done) + [share_of_noise(self.schedule, level) for level in view.level]
        if not latents:
            return 0.0
        stop, many = len(latents), len(view.judged(self.span))
        span = min(self.span or many, many)
        starts = sorted({stop - span, *range(stop - many, stop - span, span)})
        weight = next(self.net.parameters())
        words = [buckets_of(view.prompt, self.net.config["words"])]  # type: ignore[arg-type]
        scores = []
        for window in (slice(start, start + span) for start in starts):
            x, x0 = (torch.stack([latent.to(weight) for latent in part[window]])[None] for part in (latents, guessed))
            scores.append(float(self.net(x, x0, torch.tensor([shares[window]]).to(weight), words).sum()))
        return sum(scores) / len(scores)


def exists(folder: Path) -> bool:
    """Whether a model folder has a latent reward model."""
    return (folder / FOLDER / "reward.safetensors").is_file()


def wins(folder: Path) -> bool:
    """Whether a model folder has one that was measured to rank better than what needs no training."""
    return exists(folder) and bool(json.loads((folder / FOLDER / "config.json").read_text()).get("wins"))


def load(folder: Path) -> Panel:
    """The latent reward model of a model folder."""
    home = folder / FOLDER
    told = dict(json.loads((home / "config.json").read_text())["model"])
    net = Panel([Scorer(**told) for _ in range(told.pop("scorers"))])
    net.load_state_dict({name: value.float() for name, value in load_file(home / "reward.safetensors").items()})
    return net.eval().requires_grad_(False)
