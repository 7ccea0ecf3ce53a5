"""What rewards remember of a branch: features of its first picture and of its newest ones, and its decoder cache.

Each branch has its own (`View.memory`), updated when more of its latents are finished, so an anchor is encoded once and
no branch is compared with the past of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longtake.core.rollout import Emission, View
from longtake.rewards.eyes import Eyes, Pictures
from longtake.rewards.features import Encoder


@dataclass(frozen=True, eq=False)
class Seen:
    """Of a branch before its clip: normalised features (D,), the newest last; the last picture; the decoder cache."""

    cache: Any = None
    first: Tensor | None = None
    newest: tuple[Tensor, ...] = ()
    picture: Tensor | None = None


def remembered(eyes: Eyes, encoder: Encoder | None, keep: int, memory: Any, emission: Emission) -> Any:
    """The memory after more finished latents; of their features the last `keep` stay."""
    memory = Seen() if memory is None else memory
    if not emission.latents:
        return memory
    pictures, cache = eyes.follow(memory.cache, emission)
    features = tuple(normalised(encoder, pictures)) if encoder is not None else ()
    first = memory.first if memory.first is not None or not features else features[0]
    newest = (*memory.newest, *features)[-keep:] if keep else ()
    return Seen(cache, first, newest, pictures[-1])


def features_of(eyes: Eyes, encoder: Encoder, views: Sequence[View], span: int | None = None) -> list[Tensor]:
    """Normalised features (T, D) of each clip; all pictures of all clips go through the encoder together."""
    clips = eyes.look(views, span)
    shown = [clip for clip in clips if len(clip)]
    if not shown:
        return [torch.zeros(0, 1)] * len(clips)
    parts = iter(normalised(encoder, torch.cat(shown)).split([len(clip) for clip in shown]))
    return [next(parts) if len(clip) else torch.zeros(0, 1) for clip in clips]


def normalised(encoder: Encoder, pictures: Pictures) -> Tensor:
    """Features of length 1, float32 on the CPU."""
    features = encoder(pictures).float().cpu()
    return features / features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
