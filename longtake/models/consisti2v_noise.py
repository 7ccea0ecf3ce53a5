"""How ConsistI2V begins: noise that frames share, and the low band of a clip that stands still (arXiv 2402.04324).

FrameInit (Sec. 4.3): the first frame's latent, repeated, is diffused to time 850 with the clip's noise; of that, space
and time together, the low frequencies are kept, the high ones are those of the noise. A clip then starts from the
layout of its picture. The noise itself is half shared by all frames ("mixed", after PYoCo, arXiv 2305.10474).

Both act before the first step, so they are functions on noise and on a queue (`framed`), not part of the network.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from longtake.core.noise import normal
from longtake.core.rows import Queue

TIME, CUTOFF = 850, 0.25
"""The training time to which the standing clip is diffused, and the cut-off of its low band in space and time."""


def mixed(
    shared: Float[Tensor, "C H W"], own: Float[Tensor, "F C H W"], alpha: float = 1.0
) -> Float[Tensor, "F C H W"]:
    """Unit noise whose frames have `shared` in common, alpha^2 parts of variance against one of their own."""
    total = 1 + alpha**2
    return math.sqrt(alpha**2 / total) * shared + math.sqrt(1 / total) * own


def low_pass(
    frames: int, height: int, width: int, in_space: float = CUTOFF, in_time: float = CUTOFF
) -> Float[Tensor, "F H W"]:
    """The share of each frequency that FrameInit keeps of the picture; frequency 0 in the middle of each axis."""
    along = [2 * torch.arange(size, dtype=torch.float64) / size - 1 for size in (frames, height, width)]
    time, down, across = torch.meshgrid(*along, indexing="ij")
    distance = (in_space / in_time * time) ** 2 + down**2 + across**2
    return torch.exp(-distance / (2 * in_space**2)).float()


def frame_init(
    picture: Float[Tensor, "C H W"], noise: Float[Tensor, "F C H W"], signal: float
) -> Float[Tensor, "F C H W"]:
    """Noise of a clip, its low band taken from the picture standing still; `signal` is a_t at the diffused time."""
    still = math.sqrt(signal) * picture + math.sqrt(1 - signal) * noise
    share = low_pass(noise.shape[0], *noise.shape[2:])[:, None].to(noise.device)

    def bands(x: Tensor) -> Tensor:
        return torch.fft.fftshift(torch.fft.fftn(x.float(), dim=(0, 2, 3)), dim=(0, 2, 3))

    both = share * bands(still) + (1 - share) * bands(noise)
    return torch.fft.ifftn(torch.fft.ifftshift(both, dim=(0, 2, 3)), dim=(0, 2, 3)).real.to(noise)


def framed(queue: Queue, signal: float) -> Queue:
    """A queue that begins with a clean picture and holds fresh noise behind it, begun as ConsistI2V begins a clip.

    The noise of each row stays its own half; the shared half is keyed by the first noisy row's path, so that a fork
    changes both. ValueError for a queue of another kind.
    """
    first, *rows = queue.rows
    if first.level or not rows or any(row.seen or not row.level for row in rows):
        raise ValueError("a clip that begins from its picture needs one clean row and fresh noise behind it")
    path, shape = rows[0].path, first.x.shape
    shared, lead = (normal(shape, path, purpose, first.index).to(first.x) for purpose in ("shared", "init"))
    noise = mixed(shared, torch.stack([lead, *(row.x.to(first.x) for row in rows)]))
    begun = frame_init(first.x, noise, signal)[1:]
    return queue.replaced(replace(row, x=x.clone()) for row, x in zip(rows, begun, strict=True))
