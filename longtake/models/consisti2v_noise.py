"""How ConsistI2V begins: noise that frames share, and the low band of a clip that stands still (arXiv 2402.04324).

FrameInit (Sec. 4.3): the first frame's latent, repeated, is diffused to time 850 with the clip's noise; of that, space
and time together, the low frequencies are kept, the high ones are those of the noise. A clip then starts from the
layout of its picture. The noise itself is half shared by all frames ("mixed", after PYoCo, arXiv 2305.10474) or half
that of the frame before ("progressive", the same). Frames i and j of a clip then have the correlation 1/2, or
2^(-|i - j| / 2). The release does the first, with FrameInit.

Both act before the first step, so they are functions on noise and on a queue (`Beginning`), not part of the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from longtake.core.noise import normal
from longtake.core.rows import Queue, Row

Noise = Literal["own", "mixed", "progressive"]

TIME, CUTOFF = 850, 0.25
"""The training time to which the standing clip is diffused, and the cut-off of its low band in space and time."""


def mixed(
    shared: Float[Tensor, "C H W"], own: Float[Tensor, "F C H W"], alpha: float = 1.0
) -> Float[Tensor, "F C H W"]:
    """Unit noise whose frames have `shared` in common, alpha^2 parts of variance against one of their own."""
    total = 1 + alpha**2
    return math.sqrt(alpha**2 / total) * shared + math.sqrt(1 / total) * own


def progressive(own: Float[Tensor, "F C H W"], alpha: float = 1.0) -> Float[Tensor, "F C H W"]:
    """Unit noise of which each frame has alpha^2 parts from the one before and one of its own."""
    total, frames = 1 + alpha**2, [own[0]]
    for x in own[1:]:
        frames.append(math.sqrt(alpha**2 / total) * frames[-1] + math.sqrt(1 / total) * x)
    return torch.stack(frames)


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


@dataclass(frozen=True)
class Beginning:
    """How a clip begins: a `models/seam.Begin`.

    noise      what first noise the frames share; "own": none
    frameinit  whether the low band is that of the picture in front, where there is one
    signal     a_t at FrameInit's time
    alpha      the shared part, see `mixed` and `progressive`

    Frames that were given in front draw their part of the clip's noise too, as the release draws it for its picture,
    and drop it. What is shared is keyed by the path of the first noisy row, so that a fork changes it.
    """

    noise: Noise = "mixed"
    frameinit: bool = True
    signal: float = 0.0
    alpha: float = 1.0

    def __call__(self, queue: Queue, fresh: range) -> Queue:
        """The queue with its rows in `fresh` begun; rows that are given stay as they are."""
        rows = [row for row in queue.rows if row.index in fresh and row.level]
        first, path = queue.rows[0], rows[0].path
        # a picture in front is where the network is, noise that no network has read is still the host's
        own = torch.stack([self._own(row, row.index in fresh, path).to(first.x) for row in queue.rows])
        if self.noise == "mixed":
            own = mixed(normal(first.x.shape, path, "shared", first.index).to(first.x), own, self.alpha)
        elif self.noise == "progressive":
            own = progressive(own, self.alpha)
        if self.frameinit and first.level == 0 and first.index not in fresh:
            own = frame_init(first.x, own, self.signal)
        return queue.replaced(replace(row, x=own[row.index - queue.start].clone()) for row in rows)

    @staticmethod
    def _own(row: Row, fresh: bool, path: int) -> Tensor:
        return row.x if fresh and row.level else normal(row.x.shape, path, "init", row.index).to(row.x)
