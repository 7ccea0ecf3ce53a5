"""Random numbers for training, the same host generator whatever the device.

A checkpoint holds one generator, of the host. Large draws would be slow there for an accelerator, so it draws a seed
and the device the numbers. A run that is resumed draws what it would have drawn, on the same kind of device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normal(shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal float32 of `shape` on `device`, decided by the host's `generator`."""
    device = torch.device(device)
    if device.type == "cpu":
        return torch.randn(tuple(shape), generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.randn(tuple(shape), generator=torch.Generator(device).manual_seed(seed), device=device)
