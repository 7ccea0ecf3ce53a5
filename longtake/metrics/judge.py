"""Pocket's judge: which subject, place, time of day and motion a clip shows. Torch only, no diffusers.

It sees 15 pairs of neighbouring frames, spread over the clip. Trained by `longtake.training.judge` on rendered truth
and on the same clips through pocket's VAE.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from longtake.world.grammar import MOTIONS, PLACES, SUBJECTS, TIMES

CLASSES = {"subject": SUBJECTS, "place": PLACES, "time": TIMES, "motion": MOTIONS}
PAIRS = 15


class Judge(nn.Module):
    """Convolutions per pair of frames, then an average over the clip (subject, place, time) or over time (motion)."""

    def __init__(self, width: int = 64, memory: int = 64) -> None:
        super().__init__()
        widths = [96, width, 3 * width // 2, 2 * width]
        layers: list[nn.Module] = [nn.PixelUnshuffle(4)]
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, stride=min(i, 1) + 1, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.config = {"width": width, "memory": memory}
        self.eye = nn.Sequential(*layers)
        self.still = nn.Linear(widths[-1], len(SUBJECTS) + len(PLACES) + len(TIMES))
        self.place = nn.Linear(16 * widths[-1], memory)
        self.course = nn.Sequential(
            nn.Conv1d(memory, memory, 5, padding=2), nn.SiLU(), nn.Conv1d(memory, memory, 5, padding=2), nn.SiLU()
        )
        self.motion = nn.Linear(2 * memory, len(MOTIONS))

    def forward(self, pairs: Tensor) -> dict[str, Tensor]:
        """Logits [B,classes] by attribute of `pairs` [B,15,6,64,64] in -1..1."""
        seen = self.eye(pairs.flatten(0, 1))
        means = seen.mean(dim=(2, 3)).unflatten(0, pairs.shape[:2]).mean(1)
        parts = self.still(means).split([len(SUBJECTS), len(PLACES), len(TIMES)], dim=1)
        course = self.course(self.place(seen.flatten(1)).unflatten(0, pairs.shape[:2]).transpose(1, 2))
        motion = self.motion(torch.cat([course.mean(2), course.amax(2)], dim=1))
        return dict(zip(CLASSES, (*parts, motion), strict=True))


def pairs_of(video: Tensor) -> Tensor:
    """Clips [B,F,3,H,W] (uint8, or float in 0..1) of at least 2 frames to what the judge reads, in -1..1."""
    if video.dtype == torch.uint8:
        video = video.float() / 255
    first = torch.linspace(0, video.shape[1] - 2, PAIRS).round().long()
    pairs = torch.cat([video[:, first], video[:, first + 1]], dim=2) * 2 - 1
    if pairs.shape[-1] != 64 or pairs.shape[-2] != 64:
        pairs = F.interpolate(pairs.flatten(0, 1), (64, 64), mode="area").unflatten(0, pairs.shape[:2])
    return pairs


@torch.no_grad()
def classify(judge: Judge, video: Tensor, batch: int = 16) -> dict[str, Tensor]:
    """Class indices [B] by attribute; see `CLASSES` for the names."""
    parts = [judge(pairs_of(part)) for part in video.split(batch)]
    return {name: torch.cat([part[name] for part in parts]).argmax(1) for name in CLASSES}


def load(folder: Path) -> Judge:
    """A judge from `config.json` and `judge.safetensors`."""
    judge = Judge(**json.loads((folder / "config.json").read_text())["model"])
    judge.load_state_dict({name: value.float() for name, value in load_file(folder / "judge.safetensors").items()})
    return judge.eval()
