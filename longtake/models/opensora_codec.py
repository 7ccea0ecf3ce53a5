"""Open-Sora's autoencoder as a codec: five latents at a time, seventeen frames each, nothing passed between groups.

A stream keeps the latents that wait for their group in its cache and returns no frames until it is whole, so frames are
those of decoding everything at once, in the release's own groups.

With `tiling`, frames larger than a tile are decoded in tiles once the part over time has run, which works on latents of
frames and needs little. What a tile's norms and its attention see ends with the tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models.opensora_vae import MICRO_FRAMES, MICRO_LATENTS
from longtake.models.place import Place
from longtake.models.tiling import TILE, in_tiles, quartered

Cache = dict[str, Tensor]


class GroupCodec:
    """An `OpenSoraVAE` as `core.model.Codec`; `factor` is pixels of a latent's side."""

    def __init__(self, vae: nn.Module, factor: int = 8, tiling: bool = False) -> None:
        self.vae, self.factor, self.place = vae, factor, Place()
        self.tile = TILE // factor if tiling else None

    @property
    def device(self) -> torch.device:
        """Where the autoencoder works."""
        return self.place.home or next(self.vae.parameters()).device

    def range_of(self, index: int) -> range:
        """The pixel frames of the latent at `index`: of five, the first has one and the others four."""
        group, place = divmod(index, MICRO_LATENTS)
        start = group * MICRO_FRAMES
        return range(start + max(0, 4 * place - 3), start + 4 * place + 1)

    def decode(
        self, z: Float[Tensor, "F C H W"], cache: Cache | None = None
    ) -> tuple[UInt8[Tensor, "T H2 W2 3"], Cache | None]:
        """Frames of the groups that these latents complete, on the CPU, and the latents that wait. None: a start."""
        latents = z.to(self.device, torch.float32)
        if cache is not None:
            latents = torch.cat([cache["waiting"].to(latents), latents])
        whole = len(latents) // MICRO_LATENTS * MICRO_LATENTS
        frames = [in_bytes(self.pixels(group)) for group in latents[:whole].split(MICRO_LATENTS) if len(group)]
        height, width = (side * self.factor for side in z.shape[2:])
        made = torch.cat([torch.zeros(0, height, width, 3, dtype=torch.uint8), *frames])
        return made, {"waiting": latents[whole:].clone()}

    @torch.no_grad()
    def pixels(self, z: Float[Tensor, "F C H W"]) -> Float[Tensor, "T 3 H2 W2"]:
        """All frames of these latents as one video, a last group that is not whole included; float32 in [-1, 1]."""
        kind = next(self.vae.parameters()).dtype
        with self.place.working(self.vae):
            return self.vae.decode(z.to(self.device, kind), show=self._shown).float().clamp(-1, 1)

    def _shown(self, latents: Float[Tensor, "T C H W"]) -> Float[Tensor, "T 3 H2 W2"]:
        # frames of their latents
        def decode(z: Tensor, memory: Any) -> tuple[Tensor, None]:
            return self.vae.show(z), memory

        if self.tile is None or max(latents.shape[2:]) <= self.tile:
            return self.vae.show(latents)
        return in_tiles(latents, decode, quartered(self.tile), self.factor)[0]

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "T H2 W2 3"]) -> Float[Tensor, "F C H W"]:
        """Normalised latents of a picture or of whole groups of frames. UsageError for other lengths."""
        if len(frames) != 1 and len(frames) % MICRO_FRAMES:
            near = max(1, len(frames) // MICRO_FRAMES) * MICRO_FRAMES
            raise UsageError(
                f"this model reads clips in groups of {MICRO_FRAMES} frames (5 latents), got {len(frames)} frames; "
                f"give {near}: --method chunk reads that many by itself"
            )
        with self.place.working(self.vae):
            return self.vae.encode(from_bytes(frames, self.factor, self.vae)).float()

    def encode_image(
        self, picture: Image.Image | UInt8[Tensor, "H2 W2 3"], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "1 C H W"]:
        """The latent of a picture. `size` (width, height) scales it to cover that size and crops the middle."""
        return self.encode(fitted(picture, size))


def in_bytes(video: Float[Tensor, "T 3 H W"]) -> UInt8[Tensor, "T H W 3"]:
    """Frames in -1..1 as bytes, on the CPU."""
    return ((video + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def from_bytes(frames: UInt8[Tensor, "T H W 3"], factor: int, vae: nn.Module) -> Float[Tensor, "T 3 H W"]:
    """Frames in -1..1 where `vae` is, in its dtype. UsageError for sides that are no multiples of `factor`."""
    height, width = frames.shape[1:3]
    if height % factor or width % factor:
        raise UsageError(f"frames of {width}x{height} do not fit: sides must be multiples of {factor}")
    weight = next(vae.parameters())
    return (frames.permute(0, 3, 1, 2).to(weight.device, torch.float32) / 127.5 - 1).to(weight)


def fitted(picture: Image.Image | UInt8[Tensor, "H W 3"], size: tuple[int, int] | None) -> UInt8[Tensor, "1 H2 W2 3"]:
    """A picture as one frame, scaled to cover `size` (width, height) and cropped to its middle."""
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(np.asarray(picture))
    picture = picture.convert("RGB")
    if size is not None and picture.size != tuple(size):
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture))[None]
