"""A pool of rendered clips that is drawn from at random and renewed a little between steps.

Rendering is allowed a fixed share of the wall time: the pool keeps count of both.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from longtake.world.grammar import scene
from longtake.world.renderer import render

LONGEST = 400  # frames: the latest frame of a scene at which a clip may start


def clips(seeds: range, num_frames: int, split: str, generator: torch.Generator, device: str = "cpu") -> Tensor:
    """Render scenes from random start frames: uint8 [N,F,3,64,64] on `device`."""
    starts = torch.randint(0, LONGEST, (len(seeds),), generator=generator).tolist()
    return render([scene(seed, split) for seed in seeds], num_frames, start=starts, device=device).pixels


class Pool:
    """`size` clips of `num_frames` frames on `device`; `draw` gives pixels in -1..1 [B,F,3,64,64]."""

    def __init__(self, size: int, num_frames: int, seed: int = 0, share: float = 0.1, split: str = "train",
                 device: str = "cpu") -> None:  # fmt: skip
        self.num_frames, self.share, self.split, self.device = num_frames, share, split, device
        self.generator = torch.Generator().manual_seed(seed)
        self.next_seed, self.next_slot = seed * 10_000_000, 0
        self.pixels = torch.empty(size, num_frames, 3, 64, 64, dtype=torch.uint8, device=device)
        self.count = 16 if device == "cpu" else min(64, size)
        self.start, self.rendering = time.monotonic(), 0.0
        first = 32 if device == "cpu" else 256
        for _ in range(0, size, first):
            self._render(min(first, size))
        self.start, self.rendering = time.monotonic(), 0.0

    def _render(self, count: int) -> None:
        begin = time.monotonic()
        seeds = range(self.next_seed, self.next_seed + count)
        slots = (torch.arange(count) + self.next_slot) % len(self.pixels)
        self.pixels[slots] = clips(seeds, self.num_frames, self.split, self.generator, self.device)
        self.next_seed += count
        self.next_slot = (self.next_slot + count) % len(self.pixels)
        self.rendering += time.monotonic() - begin

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        if self.rendering < self.share * (time.monotonic() - self.start):
            self._render(self.count)
        picks = torch.randint(0, len(self.pixels), (batch,), generator=generator)
        return self.pixels[picks].float() / 127.5 - 1
