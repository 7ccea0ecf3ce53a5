"""Keyed noise: every draw is a pure function of what it is for, never of when it is drawn.

A *path* is an integer that names one line of randomness. `root(seed)` starts it; `fold` derives another, and is
the only way to get other noise. A draw is keyed by (path, purpose, latent index, level), so results do not depend
on window order, worker count, resume points or the number of frames asked for.

The draws come from Philox with the 64-bit key as its key. `torch.Generator` on the CPU seeds its Mersenne twister
with the low 32 bits alone, which repeats draws in long stochastic runs (docs/adr/004).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor


def fold(path: int, *parts: int | str) -> int:
    """Derive another path, a 63-bit integer, from `path` and what tells the new one apart."""
    digest = blake2b(repr((path, *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def root(seed: int) -> int:
    """The path that a run with this seed starts from."""
    return fold(0, "seed", seed)


def normal(shape: Sequence[int], path: int, purpose: str, index: int = 0, level: int = 0) -> Tensor:
    """Standard normal noise of `shape`: float32 on the CPU, the same on every machine and device."""
    if 0 in shape:  # plans ask for nothing but the count
        return torch.empty(tuple(shape))
    bits = np.random.Philox(key=fold(path, purpose, index, level))
    return torch.from_numpy(np.random.Generator(bits).standard_normal(tuple(shape), dtype=np.float32))
