"""RIFLEx: windows longer than a model was trained for, by slowing one rotary frequency of time (Zhao et al. 2025).

The k-th frequency of time theta_k = base^(-2 (k-1) / d) turns once in N_k = 2 pi / theta_k latents. The component that
would begin to repeat within a window of L latents is slowed until it stays inside one turn: theta_k' = 0.9 * 2 pi / L.

k is the slowest component with N_k < L. That is the published choice where there is one (CogVideoX k = 2 at 25
latents, HunyuanVideo k = 4 at 66); where no component repeats, nothing has to change and the window only grows.
About twice the trained length is what the method is good for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

SHARE = 0.9
"""Of a whole turn that the slowed component makes."""


def slowed(dim: int, length: int, base: float = 10000.0) -> tuple[int, float] | None:
    """(0-based place of the component among the dim / 2 of time, its new frequency); None if none repeats."""
    turning = [place for place in range(dim // 2) if 2 * math.pi * base ** (2 * place / dim) < length]
    return (turning[-1], SHARE * 2 * math.pi / length) if turning else None


def stretched(cos: Tensor, sin: Tensor, dim: int, length: int) -> tuple[Tensor, Tensor]:
    """Rotary tables (F, ..., D) whose first `dim` columns are time's, in pairs, with the component replaced."""
    change = slowed(dim, length)
    if change is None:
        return cos, sin
    place, frequency = change
    angles = torch.arange(len(cos), dtype=torch.float64, device="cpu") * frequency
    tables = []
    for table, values in ((cos, angles.cos()), (sin, angles.sin())):
        table = table.clone()
        table[..., 2 * place : 2 * place + 2] = values.to(table).reshape(-1, *[1] * (table.ndim - 1))
        tables.append(table)
    return tables[0], tables[1]


@contextmanager
def lengthened(rope: nn.Module, length: int | None) -> Iterator[None]:
    """While open, the rotary module of a Wan-like transformer (`t_dim`, tables (1, F h w, 1, D)) is RIFLEx's."""
    if length is None:
        yield
        return

    def replace(module: Any, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        rows = args[0].shape[2] // module.patch_size[0]
        cos, sin = (table.reshape(rows, -1, table.shape[-1]) for table in output)
        new = stretched(cos, sin, module.t_dim, length)
        return new[0].reshape(output[0].shape), new[1].reshape(output[1].shape)

    handle = rope.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
