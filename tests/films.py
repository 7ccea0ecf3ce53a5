"""Synthetic videos with one fault each, for the metrics: uint8 (T, H, W, 3) at 8 frames a second."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.output.video import Format, VideoWriter

FPS = 8


def moving(num_frames: int = 96, seed: int = 0, side: int = 64, tint: tuple[float, float, float] = (1, 1, 1)) -> Tensor:
    """A disc crossing a scenery that pans two pixels a frame and never returns."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.rand(1, 3, side // 8, (2 * num_frames + side) // 8 + 2, generator=generator)
    wide = F.interpolate(wide, scale_factor=8, mode="bicubic", align_corners=False)[0].clamp(0, 1)
    wide = 40 + 150 * wide * torch.tensor(tint)[:, None, None]
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    frames = []
    for t in range(num_frames):
        picture = wide[:, :, 2 * t : 2 * t + side].clone()
        x, y = side * (0.5 + 0.35 * math.sin(t / 11)), side * (0.5 + 0.3 * math.sin(t / 17))
        inside = (columns - x) ** 2 + (rows - y) ** 2 < (side / 7) ** 2
        picture[:, inside] = torch.tensor([230.0, 60.0, 50.0])[:, None]
        frames.append(picture.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0))
    return torch.stack(frames)


def frozen(num_frames: int = 96) -> Tensor:
    """The first frame for ever."""
    return moving(1).expand(num_frames, -1, -1, -1).clone()


def shuffled(num_frames: int = 96) -> Tensor:
    """The right frames in the wrong order."""
    return moving(num_frames)[torch.randperm(num_frames, generator=torch.Generator().manual_seed(1))]


def drifting(num_frames: int = 96) -> Tensor:
    """Ever redder and brighter."""
    shift = torch.linspace(0, 1, num_frames)[:, None, None, None] * torch.tensor([55.0, 10.0, -25.0])
    return (moving(num_frames) + shift).round().clamp(0, 255).to(torch.uint8)


def cut(num_frames: int = 96) -> Tensor:
    """Another scene from the middle on."""
    half = num_frames // 2
    return torch.cat([moving(half), 255 - moving(num_frames - half, seed=5, tint=(0.2, 1, 0.5))])


def looping(num_frames: int = 96, period: int = 24) -> Tensor:
    """The first three seconds again and again, back and forth, so that it has no cut."""
    half = moving(period // 2 + 1)
    once = torch.cat([half, half[1:-1].flip(0)])
    return once.repeat(-(-num_frames // period), 1, 1, 1)[:num_frames]


def seamed(num_frames: int = 96, every: int = 12) -> tuple[Tensor, list[int]]:
    """A camera that is jolted by some pixels at every join; the joins."""
    joins = list(range(every, num_frames, every))
    film = moving(num_frames)
    for number, join in enumerate(joins):
        film[join:] = film[join:].roll(3 if number % 2 else -3, dims=1)
    return film, joins


def save(film: Tensor, path: Path, fps: int = FPS, crf: int = 10) -> Path:
    """A video file of these frames."""
    writer = VideoWriter(path, Format(film.shape[2], film.shape[1], Fraction(fps), crf))
    writer.write(film)
    writer.flush()
    return path
