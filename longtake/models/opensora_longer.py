"""FreeLong and FreePCA on layers over time that know positions: those of Open-Sora and ConsistI2V.

The formulas are those of `freelong` and `freepca`. What differs is reading: these layers turn queries and keys by their
place in the window and, in ConsistI2V, also read a neighbourhood in the first frame, so they read for themselves. A
layer hands its reading to `change`; `changed` sets that for the length of a `with` block. Positions past the trained
ones are turned on as they are, the local reading sees only distances that training had.

FreePCA's bound on time is that of VideoCrafter2 in noise: a ratio of noise to signal of 0.696.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models import freelong, freepca
from longtake.models.longer import frames_of
from longtake.models.temporal import near

LATE_RATIO = 0.696
OPTIONS = ("freelong", "freepca")


class Read(Protocol):
    """What a layer reads for tokens (N, F, C); `mask` (F, F) is true where a row may read, `sharpen` scales queries."""

    def __call__(self, x: Tensor, mask: Tensor | None = None, sharpen: float = 1.0) -> Tensor: ...


Change = Callable[[Read, Tensor], Tensor]
Mix = Callable[[nn.Module, Tensor, tuple[int, int]], AbstractContextManager[None]]
"""For one call: the network, times (B, F), (rows, columns) of its finest tokens."""


class OverTime:
    """A layer over time: where `change` is set, it makes what the layer returns from the layer's own reading."""

    change: Change | None = None

    def looked(self, read: Read, x: Tensor) -> Tensor:
        """What is read for x."""
        return read(x) if self.change is None else self.change(read, x)


@contextmanager
def changed(network: nn.Module, change: Change) -> Iterator[None]:
    """While open, every layer over time of `network` returns what `change` makes."""
    layers = [module for module in network.modules() if isinstance(module, OverTime)]
    try:
        for layer in layers:
            layer.change = change
        yield
    finally:
        for layer in layers:
            layer.change = None


def mix_of(extras: Mapping[str, Any], window: int, late: float, compiled: bool) -> tuple[Mix | None, int]:
    """(what changes the layers over time or None, frames in a window) by the options `freelong` and `freepca`.

    window: of training; late: the time above which FreePCA joins. UsageError for both at once, or with compiling.
    """
    long, pca = (frames_of(extras, name, window, times) for name, times in (("freelong", 8), ("freepca", 4)))
    if long and pca:
        raise UsageError("freelong and freepca both change the same layers; set one of them")
    if (long or pca) and compiled:
        raise UsageError("--compile and freelong or freepca do not go together: both change the network; leave one out")
    if not long and not pca:
        return None, window

    def mix(network: nn.Module, times: Tensor, size: tuple[int, int]) -> AbstractContextManager[None]:
        if times.shape[1] <= window:
            return nullcontext()
        if long:
            return changed(network, partial(blended, len(times), size, window))
        return changed(network, partial(joined, times, window, late))

    return mix, long or pca


def blended(
    batch: int, size: tuple[int, int], window: int, read: Read, x: Float[Tensor, "N F C"]
) -> Float[Tensor, "N F C"]:
    """FreeLong: the low frequencies of reading all rows, the high ones of reading the nearest `window`."""
    local = read(x, near(x.shape[1], window).to(x.device))
    down = math.isqrt(size[0] * size[1] // (len(x) // batch))
    return freelong.blend(read(x), local, (size[0] // down, size[1] // down))


def joined(
    times: Float[Tensor, "B F"], window: int, late: float, read: Read, x: Float[Tensor, "N F C"]
) -> Float[Tensor, "N F C"]:
    """FreePCA: in windows, the appearance of reading all rows with the motion of reading the window."""
    everything = read(x, None, math.sqrt(math.log(x.shape[1], window)))
    total, count = torch.zeros_like(everything), torch.zeros(x.shape[1], device=x.device)
    for number, first in enumerate(freepca.starts(x.shape[1], window)):
        rows = slice(first, first + window)
        local = read(x[:, rows])
        if number:
            parts = zip(everything[:, rows].chunk(len(times)), local.chunk(len(times)), times[:, rows], strict=True)
            local = torch.cat([
                freepca.join(whole, part, min(number, freepca.MOST)) if float(clip.mean()) > late else part
                for whole, part, clip in parts
            ])  # fmt: skip
        total[:, rows] += local
        count[rows] += 1
    return total / count.to(total.dtype)[:, None]
