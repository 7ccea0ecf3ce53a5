"""Stable Video Diffusion's autoencoder: pictures in, and a decoder over frames that is streamed with overlap.

The decoder mixes frames both ways and normalises over all that it is given, so pieces are never exactly the whole, in
the stock pipeline's chunks neither. Here every frame is decoded at the end of a short piece, behind the `context`
latents before it: the same frame comes out however latents arrive, which resuming needs. Cost: context + 1 decoded
frames a frame. The cache holds those latents.

With `tiling`, pictures larger than a tile are decoded in tiles, each piece of frames by itself; diffusers has no tiling
for this autoencoder. What a tile's norms and its attention see ends with the tile, so the result differs a little from
the whole. A tile is as large as what the autoencoder was trained on, up to 512 pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models.place import Place
from longtake.models.tiling import in_tiles, quartered

CONTEXT = 3
TILE = 512
"""Pixels of a tile's side, at most."""


class SVDCodec:
    """A diffusers `AutoencoderKLTemporalDecoder`; implements `core.model.Codec`. The module is left as it is.

    Latents are multiplied by `scaling_factor`, as the network sees them.
    """

    def __init__(self, vae: nn.Module, context: int = CONTEXT, tiling: bool = False) -> None:
        self.vae = vae
        self.context = context
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scale = float(vae.config.scaling_factor)
        self.place = Place()
        # latents of a tile's side; None: pictures are decoded whole
        self.tile = max(1, min(vae.config.sample_size, TILE) // self.factor) if tiling else None

    @property
    def device(self) -> torch.device:
        """Where the autoencoder works."""
        return self.place.home or next(self.vae.parameters()).device

    def range_of(self, index: int) -> range:
        """The pixel frame of the latent at `index`."""
        return range(index, index + 1)

    def decode(
        self, z: Float[Tensor, "F C H W"], cache: dict[str, Any] | None = None
    ) -> tuple[UInt8[Tensor, "F H2 W2 3"], dict[str, Any] | None]:
        """Frames of these latents, on the CPU, and the cache for the latents that follow. None starts a video."""
        video, cache = self.pixels(z, cache)
        frames = ((video + 1) * 127.5).round().to(torch.uint8)
        return frames.permute(0, 2, 3, 1).contiguous().cpu(), cache

    @torch.no_grad()
    def pixels(
        self, z: Float[Tensor, "F C H W"], cache: dict[str, Any] | None = None
    ) -> tuple[Float[Tensor, "F 3 H2 W2"], dict[str, Any] | None]:
        """As `decode`, but float32 in [-1, 1], channels first, on the autoencoder's device."""
        if not len(z):
            return torch.zeros(0, 3, z.shape[2] * self.factor, z.shape[3] * self.factor, device=self.device), cache
        z = z.to(self.device, torch.float32)
        known = z if cache is None else torch.cat([cache["past"].to(z), z])
        kind = next(self.vae.parameters()).dtype
        parts = []
        with self.place.working(self.vae):
            for last in range(len(known) - len(z), len(known)):
                piece = (known[max(0, last - self.context) : last + 1] / self.scale).to(kind)
                parts.append(self._last(piece))
        kept = known[max(0, len(known) - self.context) :].clone()
        return torch.cat(parts).clamp(-1, 1), {"past": kept}

    def _last(self, piece: Float[Tensor, "F C H W"]) -> Float[Tensor, "1 3 H2 W2"]:
        # the last frame of a piece
        def decode(z: Tensor, memory: Any) -> tuple[Tensor, None]:
            return self.vae.decode(z, num_frames=len(z), return_dict=False)[0][-1:].float(), memory

        if self.tile is None or max(piece.shape[2:]) <= self.tile:
            return decode(piece, None)[0]
        return in_tiles(piece, decode, quartered(self.tile), self.factor)[0]

    @torch.no_grad()
    def encode_pixels(self, video: Float[Tensor, "T 3 H2 W2"]) -> Float[Tensor, "T C H W"]:
        """The posterior's modes, float32 and not scaled: what the network is shown of its picture."""
        kind = next(self.vae.parameters()).dtype
        with self.place.working(self.vae):
            modes = [self.vae.encode(one).latent_dist.mode().float() for one in video.to(self.device, kind).split(1)]
        return torch.cat(modes)

    def encode(self, frames: UInt8[Tensor, "T H2 W2 3"]) -> Float[Tensor, "T C H W"]:
        """Scaled latents (float32), one a frame, on the autoencoder's device."""
        if any(side % self.factor for side in frames.shape[1:3]):
            height, width = frames.shape[1:3]
            raise UsageError(f"frames of {width}x{height} do not fit: sides must be multiples of {self.factor}")
        return self.encode_pixels(frames.permute(0, 3, 1, 2).float() / 127.5 - 1) * self.scale

    def encode_image(
        self, picture: Image.Image | UInt8[Tensor, "H2 W2 3"], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "1 C H W"]:
        """The latent of a picture. `size` (width, height) scales it to cover that size and crops the middle."""
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(np.asarray(picture))
        picture = picture.convert("RGB")
        if size is not None and picture.size != tuple(size):
            picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        return self.encode(torch.from_numpy(np.array(picture))[None])
