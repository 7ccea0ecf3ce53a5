"""FreeLong (Lu et al. 2024): more frames in one window than the network was trained on, blended by frequency.

In each attention over time the rows read all rows (global: steady, but its fine detail is worn) and once more only the
trained number nearest to them (local: sharp, but it drifts). SpectralBlend keeps the low frequencies in time and space
of the first and the high ones of the second: F_t,h,w(z) = P F(z_global) + (1 - P) F(z_local).

Symbols: P -> low_pass, a Gaussian of width 0.25 of the Nyquist frequency in time and space, as released.
Deviations: local rows always read exactly `window` rows, near the ends too, since that is what the network was trained
with; zero frequency is where the filter is 1 for odd sizes too (the released grid is half a cell off there).
No extra network calls; a window of no more than the trained number of rows is left alone.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import lru_cache
from math import isqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longtake.models.temporal import attend, near, replaced

CUT = 0.25


def applied(network: nn.Module, batch: int, size: tuple[int, int], window: int) -> AbstractContextManager[None]:
    """While open, `network` blends. batch: windows in a call; size: (height, width) of its latents; window: trained."""

    def read(layer: nn.Module, x: Float[Tensor, "N F C"]) -> Float[Tensor, "N F C"]:
        everything = attend(layer, x)
        if x.shape[1] <= window:
            return everything
        local = attend(layer, x, near(x.shape[1], window).to(x.device))
        down = isqrt(size[0] * size[1] // (len(x) // batch))
        return blend(everything, local, (size[0] // down, size[1] // down))

    return replaced(network, read)


def blend(low: Float[Tensor, "N F C"], high: Float[Tensor, "N F C"], size: tuple[int, int]) -> Float[Tensor, "N F C"]:
    """Low frequencies of `low`, high ones of `high`; N = B * height * width, pixels row by row."""
    difference = (low - high).float().unflatten(0, (-1, *size))  # (B, H, W, F, C)
    axes = (3, 1, 2)
    keep = low_pass(low.shape[1], *size).to(low.device)[..., : size[1] // 2 + 1].permute(1, 2, 0)[..., None]
    spectrum = torch.fft.rfftn(difference, dim=axes) * keep
    passed = torch.fft.irfftn(spectrum, s=(low.shape[1], *size), dim=axes)
    return high + passed.flatten(0, 2).to(high.dtype)


@lru_cache(maxsize=64)
def low_pass(num_frames: int, height: int, width: int, cut: float = CUT) -> Float[Tensor, "F H W"]:
    """exp(-d^2 / 2) with d the distance from zero frequency in units of `cut` of the Nyquist frequency, FFT order."""
    t, y, x = (2 * torch.fft.fftfreq(many) / cut for many in (num_frames, height, width))
    return torch.exp(-(t[:, None, None] ** 2 + y[:, None] ** 2 + x**2) / 2)
