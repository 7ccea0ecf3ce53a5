"""Encoders without weights to fetch: a colour histogram, and pocket's judge, which is part of this package."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

BINS = 8


class ColourHistogram:
    """The share of pixels in each of 8 x 8 x 8 boxes of RGB. It knows colours and nothing else."""

    name = "colour-histogram"

    def __call__(self, frames: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "T 512"]:
        """Shares that sum to 1."""
        red, green, blue = (frames.long() * BINS // 256).flatten(1, 2).unbind(-1)
        boxes = (red * BINS + green) * BINS + blue
        counts = torch.zeros(len(frames), BINS**3, device=frames.device)
        counts.scatter_add_(1, boxes, torch.ones_like(boxes, dtype=torch.float32))
        return counts / boxes.shape[1]


def measure_subject() -> Any:
    """The judge's features of the subject, of the set that tables are made with."""
    return _judge("measure", "subject")


def measure_place() -> Any:
    """The judge's features of the place, of the set that tables are made with."""
    return _judge("measure", "place")


def reward_subject() -> Any:
    """The judge's features of the subject, of the set that a search may follow."""
    return _judge("reward", "subject")


def reward_place() -> Any:
    """The judge's features of the place, of the set that a search may follow."""
    return _judge("reward", "place")


def _judge(which: str, role: str) -> Any:
    from longtake.metrics import judge

    return judge.encoder(which, role)
