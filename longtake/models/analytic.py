"""The oracle: a Gaussian video whose best denoiser is known exactly, for laws that need no weights.

Latent frames are jointly normal with covariance rho^|i - j| and a mean that depends on the prompt. Under one level per
row, E[x0 | x] is one linear solve, so the oracle couples rows as a real network does. rho = 0 is the separable case, in
which every diagonal method must equal plain sampling. Like a real network it sees window positions, not places in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from longtake.core.model import Capabilities, Cond, embedded
from longtake.core.noise import normal, root
from longtake.core.schedule import NoiseSchedule


@dataclass(frozen=True)
class GaussianVideo:
    """The exact denoiser of a Gaussian video with lag-one correlation `rho`.

    mean_scale   standard deviation of the prompts' means; the empty prompt has mean 0
    """

    schedule: NoiseSchedule
    shape: tuple[int, int, int] = (2, 3, 3)
    window: int = 8
    rho: float = 0.9
    mean_scale: float = 1.0
    cost: int = 1
    device: torch.device = field(default=torch.device("cpu"))

    @property
    def can(self) -> Capabilities:
        """Native levels per row, any window length."""
        return Capabilities(self.window, self.shape, image_first=True)

    def __call__(self, x: Tensor, levels: Tensor, cond: Sequence[Cond]) -> Tensor:
        """E[x0 | x]: (B, F, C, H, W) -> the same. Window by window, so that a batch gives the bits of its parts."""
        return torch.stack([self._one(*window) for window in zip(x, levels.tolist(), cond, strict=True)])

    def _one(self, x: Tensor, levels: list[int], prompt: Cond) -> Tensor:
        gain, alphas = _gain(self.schedule, self.rho, tuple(levels))
        mean = embedded(prompt, self.mean).to(torch.float64)
        centred = x.to(torch.float64) - alphas.reshape(-1, 1, 1, 1) * mean
        return (mean + torch.einsum("ij,jchw->ichw", gain, centred)).to(x.dtype)

    def mean(self, prompt: str) -> Tensor:
        """The mean latent (C, H, W) of videos of this prompt."""
        return self.mean_scale * normal(self.shape, root(0), f"mean of {prompt}") if prompt else torch.zeros(self.shape)


@lru_cache(maxsize=4096)
def _gain(schedule: NoiseSchedule, rho: float, levels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    # K A (A K A + S^2)^-1 for x = A x0 + S eps, x0 ~ N(mean, K)
    places = torch.arange(len(levels), dtype=torch.float64)
    lag = (places[:, None] - places[None]).abs()
    covariance = torch.eye(len(levels), dtype=torch.float64) if rho == 0 else rho**lag
    alphas = torch.tensor([schedule.alphas[level] for level in levels], dtype=torch.float64)
    sigmas = torch.tensor([schedule.sigmas[level] for level in levels], dtype=torch.float64)
    if rho == 0:
        return torch.diag(alphas / (alphas**2 + sigmas**2)), alphas
    observed = alphas[:, None] * covariance * alphas + torch.diag(sigmas**2)
    return torch.linalg.solve(observed, alphas[:, None] * covariance).T.contiguous(), alphas
