"""Decoding in tiles: large pictures in the memory of small ones. Each tile is a video of its own, with its own cache.

Tiles overlap by a quarter and are blended across the overlap, above before left, as diffusers' `tiled_decode` does, so
the result is the same as with `enable_tiling()`; it differs from decoding the whole picture, whose every pixel may read
every other. Tiled is streamed as whole is: latent by latent, the caches of all tiles in one value. Together they are
larger than that of the whole (Wan at 832x480: 6.3 GB for 3.8), so they wait on the host and visit the device in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from longtake.models.wan_codec import WanCodec, frames_of, on_host

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
        sides = (self.tile, self.tile), (self.stride, self.stride)
        video, tiles = in_tiles(z, self._tile, sides, self.factor, cache and cache["tiles"], self.patch)
        return frames_of(video.clamp(-1, 1)), {"tiles": tiles}

    def _tile(self, z: Tensor, cache: Any) -> tuple[Tensor, Any]:
        # the decoder brings a cache to its device by itself
        video, cache = self.raw(z, cache)
        return video, on_host(cache)


Sides = tuple[tuple[int, int], tuple[int, int]]
"""Latents of a tile (down, across), and between the starts of neighbours."""


def quartered(tile: int) -> Sides:
    """Square tiles of so many latents that share a quarter with the next."""
    stride = max(1, tile * 3 // 4)
    return (tile, tile), (stride, stride)


def in_tiles(
    z: Float[Tensor, "F C H W"],
    decode: Callable[[Tensor, Any], tuple[Tensor, Any]],
    sides: Sides,
    factor: int,
    memories: Sequence[Any] | None = None,
    patch: int = 1,
) -> tuple[Float[Tensor, "T 3 H2 W2"], tuple[Any, ...]]:
    """The video of latents decoded in tiles, and what each tile remembers.

    decode: from a tile and its memory (None at first) to pixels and its memory; factor: pixels of a latent's side;
    memories: what the tiles before these latents remembered; patch: pixels in whose steps neighbours are blended.
    """
    (high, wide), (down, across) = sides
    tops, lefts = range(0, z.shape[2], down), range(0, z.shape[3], across)
    known = iter(memories if memories is not None else [None] * (len(tops) * len(lefts)))
    rows: list[list[Tensor]] = []
    kept: list[Any] = []
    for top in tops:
        rows.append([])
        for left in lefts:
            video, memory = decode(z[:, :, top : top + high, left : left + wide], next(known))
            rows[-1].append(video)
            kept.append(memory)
    overlap = (high - down) * factor, (wide - across) * factor
    video = joined(rows, (down * factor, across * factor), overlap, patch)
    return video[:, :, : z.shape[2] * factor, : z.shape[3] * factor], tuple(kept)


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
