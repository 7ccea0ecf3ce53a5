"""A picture autoencoder used frame by frame (Stable Diffusion's), as a codec whose decoding in pieces is exact.

One latent is one frame, so there is nothing to remember: the cache stays None. With `tiling`, pictures larger than the
autoencoder was trained on (its `sample_size`) are decoded in tiles of that size that overlap by a quarter and are
blended, as diffusers' `enable_tiling` does; what a tile's pixels read then ends with the tile.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models.place import Place


class FrameCodec:
    """A diffusers `AutoencoderKL` over single frames; implements `core.model.Codec`. The module is left as it is.

    Latents are multiplied by `scaling_factor`, as the networks see them. Frames go through one at a time, so the bits
    do not depend on how many are decoded together.
    """

    def __init__(self, vae: nn.Module, tiling: bool = False) -> None:
        self.vae, self.tiling = vae, tiling
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scale = float(vae.config.scaling_factor)
        self.place = Place()

    @property
    def device(self) -> torch.device:
        """Where the autoencoder works."""
        return self.place.home or next(self.vae.parameters()).device

    def range_of(self, index: int) -> range:
        """The pixel frame of the latent at `index`."""
        return range(index, index + 1)

    def decode(self, z: Float[Tensor, "F C H W"], cache: None = None) -> tuple[UInt8[Tensor, "F H2 W2 3"], None]:
        """Frames of these latents, on the CPU."""
        video = self.pixels(z)
        frames = ((video + 1) * 127.5).round().to(torch.uint8)
        return frames.permute(0, 2, 3, 1).contiguous().cpu(), None

    @torch.no_grad()
    def pixels(self, z: Float[Tensor, "F C H W"]) -> Float[Tensor, "F 3 H2 W2"]:
        """As `decode`, but float32 in [-1, 1], channels first, on the autoencoder's device."""
        if not len(z):
            return torch.zeros(0, 3, z.shape[2] * self.factor, z.shape[3] * self.factor, device=self.device)
        kind = next(self.vae.parameters()).dtype
        latents = (z.to(self.device, torch.float32) / self.scale).to(kind)
        with self.place.working(self.vae):
            parts = [self._decoded(one).float() for one in latents.split(1)]
        return torch.cat(parts).clamp(-1, 1)

    def _decoded(self, z: Float[Tensor, "1 C H W"]) -> Float[Tensor, "1 3 H2 W2"]:
        tiled = self.tiling and max(z.shape[2:]) > self.vae.tile_latent_min_size
        return (self.vae.tiled_decode if tiled else self.vae.decode)(z, return_dict=False)[0]

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "T H2 W2 3"]) -> Float[Tensor, "T C H W"]:
        """Scaled latents (float32, the posterior's mode), one a frame, on the autoencoder's device."""
        if any(side % self.factor for side in frames.shape[1:3]):
            height, width = frames.shape[1:3]
            raise UsageError(f"frames of {width}x{height} do not fit: sides must be multiples of {self.factor}")
        kind = next(self.vae.parameters()).dtype
        video = frames.permute(0, 3, 1, 2).to(self.device, torch.float32) / 127.5 - 1
        with self.place.working(self.vae):
            modes = [self.vae.encode(one).latent_dist.mode().float() for one in video.to(kind).split(1)]
        return torch.cat(modes) * self.scale

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
