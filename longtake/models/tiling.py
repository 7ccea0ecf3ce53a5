"""Decoding in tiles: large pictures in the memory of small ones. Each tile is a video of its own, with its own cache.

Tiles overlap by a quarter and are blended across the overlap, above before left, as diffusers' `tiled_decode` does, so
the result is the same as with `enable_tiling()`; it differs from decoding the whole picture, whose every pixel may read
every other. Tiled is streamed as whole is: latent by latent, the caches of all tiles in one value.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from longtake.models.wan_codec import WanCodec, frames_of

TILE, STRIDE = 256, 192
"""Pixels of a tile's side, and between the starts of neighbours, as in diffusers."""


class TiledCodec(WanCodec):
    """A `WanCodec` that decodes pictures larger than a tile in tiles."""

    def __init__(self, codec: WanCodec, tile: int = TILE, stride: int = STRIDE) -> None:
        self.__dict__.update(vars(codec))
        self.tile, self.stride = tile // self.factor, stride // self.factor

    def decode(self, z: Float[Tensor, "F C H W"], cache: Any = None) -> tuple[UInt8[Tensor, "T H2 W2 3"], Any]:
        """Frames of these latents, on the CPU, and the cache for the latents that follow. None starts a video."""
        if max(z.shape[2:]) <= self.tile or not len(z):
            return super().decode(z, cache)
        tops, lefts = (range(0, side, self.stride) for side in z.shape[2:])
        caches = iter(cache["tiles"] if cache is not None else [None] * (len(tops) * len(lefts)))
        rows: list[list[Tensor]] = []
        kept: list[Any] = []
        for top in tops:
            rows.append([])
            for left in lefts:
                tile = z[:, :, top : top + self.tile, left : left + self.tile]
                video, memory = self.raw(tile, next(caches))
                rows[-1].append(video)
                kept.append(memory)
        video = self._joined(rows)[:, :, : z.shape[2] * self.factor, : z.shape[3] * self.factor]
        return frames_of(video.clamp(-1, 1)), {"tiles": tuple(kept)}

    def _joined(self, rows: list[list[Tensor]]) -> Tensor:
        keep, overlap = self.stride * self.factor, (self.tile - self.stride) * self.factor
        return joined(rows, (keep, keep), (overlap, overlap), self.patch)


def joined(rows: list[list[Tensor]], keep: tuple[int, int], overlap: tuple[int, int], patch: int = 1) -> Tensor:
    """One video (T, 3, H, W) of rows of overlapping tiles (T, 3, h, w), blended with those above and to the left.

    keep and overlap: pixels (down, across) that a tile gives, and that it shares with the next. Tiles are changed.
    """
    bands = []
    for i, row in enumerate(rows):
        for j in range(len(row)):
            if i > 0:
                row[j] = _blended(rows[i - 1][j], row[j], overlap[0], 2, patch)
            if j > 0:
                row[j] = _blended(row[j - 1], row[j], overlap[1], 3, patch)
        bands.append(torch.cat([tile[:, :, : keep[0], : keep[1]] for tile in row], dim=3))
    return torch.cat(bands, dim=2)


def _blended(before: Tensor, tile: Tensor, overlap: int, side: int, patch: int) -> Tensor:
    # weights rise in steps of a pixel patch, which is what the stock blending works on
    many = min(before.shape[side], tile.shape[side], overlap)
    share = torch.arange(many // patch, device=tile.device).repeat_interleave(patch)
    share = (share / (many // patch)).reshape(-1, *[1] * (3 - side))
    mixed = before.narrow(side, before.shape[side] - many, many) * (1 - share) + tile.narrow(side, 0, many) * share
    return torch.cat([mixed, tile.narrow(side, many, tile.shape[side] - many)], dim=side)
