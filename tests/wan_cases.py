"""Helpers of the Wan tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longtake.models import load as loading
from longtake.models.load import load

SIZE = (32, 64)  # width, height: unequal, so that a swap of the two shows
PROMPT, NEGATIVE = "a dog runs right over the hills", "a cat"


def model_of(pipe: Any, **options: Any) -> loading.Model:
    return load(pipe, **{"size": SIZE if not pipe.config.expand_timesteps else (64, 96), "num_steps": 6, **options})


def noise(model: loading.Model, windows: int, rows: int, seed: int = 0) -> Tensor:
    return torch.randn(windows, rows, *model.denoiser.can.latent_shape, generator=torch.Generator().manual_seed(seed))


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.std())
