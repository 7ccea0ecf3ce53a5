"""WF-VAE as a streaming codec: exact, its frames two behind, what its layers remember as a value.

With `tiling`, pictures larger than a tile are decoded in tiles, each a video with a memory of its own, streamed as the
whole is. The attention of a frame ends with its tile, so the result differs from the whole.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models.opensora_codec import fitted, from_bytes, in_bytes
from longtake.models.opensoraplan_wavelets import Past
from longtake.models.place import Place
from longtake.models.tiling import TILE, in_tiles, quartered


class PlanCodec:
    """A `WFVAE` as `core.model.Codec`.

    A stream returns 1 frame for the first latent, 2 for the second and 4 for each later one: the last two frames of a
    latent wait for the next, which the interpolation in time reads (`Capabilities.frames_behind`).
    """

    factor = 8

    def __init__(self, vae: nn.Module, tiling: bool = False) -> None:
        self.vae, self.place = vae, Place()
        self.tile = TILE // self.factor if tiling else None

    @property
    def device(self) -> torch.device:
        """Where the autoencoder works."""
        return self.place.home or self._weight.device

    def range_of(self, index: int) -> range:
        """The pixel frames of the latent at `index`: one for the first, four for each later."""
        return range(max(0, 4 * index - 3), 4 * index + 1)

    @torch.no_grad()
    def decode(
        self, z: Float[Tensor, "F C H W"], cache: dict[str, Any] | None = None
    ) -> tuple[UInt8[Tensor, "T H2 W2 3"], dict[str, Any] | None]:
        """The frames that these latents decide, on the CPU, and what the layers remember. None starts a video."""
        height, width = (side * self.factor for side in z.shape[2:])
        parts = [torch.zeros(0, height, width, 3, dtype=torch.uint8)]
        with self.place.working(self.vae):
            for one in self._placed(z).split(1):
                if self._whole(z):
                    video, cache = self._streamed(one, cache)
                else:
                    sides = quartered(self.tile or 1)
                    video, tiles = in_tiles(one, self._streamed, sides, self.factor, cache and cache["tiles"])
                    cache = {"tiles": tiles}
                parts.append(in_bytes(video.clamp(-1, 1)))
        return torch.cat(parts), cache

    def _whole(self, z: Tensor) -> bool:
        return self.tile is None or max(z.shape[2:]) <= self.tile

    def _streamed(self, z: Float[Tensor, "1 C H W"], cache: Past | None) -> tuple[Float[Tensor, "T 3 H2 W2"], Past]:
        past = {name: value.to(self.device) for name, value in (cache or {}).items()}
        return self.vae.decode(z.transpose(0, 1)[None], past)[0].transpose(0, 1).float(), past

    @torch.no_grad()
    def pixels(self, z: Float[Tensor, "F C H W"]) -> Float[Tensor, "T 3 H2 W2"]:
        """All 4 F - 3 frames of these latents as one video; float32 in [-1, 1], on the autoencoder's device."""

        def decode(part: Tensor, memory: Any) -> tuple[Tensor, None]:
            return self.vae.decode(part.transpose(0, 1)[None])[0].transpose(0, 1).float(), memory

        with self.place.working(self.vae):
            if self._whole(z):
                return decode(self._placed(z), None)[0].clamp(-1, 1)
            return in_tiles(self._placed(z), decode, quartered(self.tile or 1), self.factor)[0].clamp(-1, 1)

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "T H2 W2 3"]) -> Float[Tensor, "F C H W"]:
        """Scaled latents of T = 4 n + 1 frames."""
        if len(frames) % 4 != 1:
            near = max(1, (len(frames) - 1) // 4 * 4 + 1)
            raise UsageError(f"a clip to encode has 4k + 1 frames, got {len(frames)}; use the last {near}")
        return self.latents(from_bytes(frames, self.factor, self.vae).to(self.device))

    @torch.no_grad()
    def latents(self, pixels: Float[Tensor, "T 3 H2 W2"]) -> Float[Tensor, "F C H W"]:
        """As `encode`, of pixels in [-1, 1] on the autoencoder's device."""
        with self.place.working(self.vae):
            return self.vae.encode(pixels.to(self._weight).transpose(0, 1)[None])[0].transpose(0, 1).float()

    def encode_image(
        self, picture: Image.Image | UInt8[Tensor, "H2 W2 3"], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "1 C H W"]:
        """The latent of a picture. `size` (width, height) scales it to cover that size and crops the middle."""
        return self.encode(fitted(picture, size))

    @property
    def _weight(self) -> Tensor:
        return next(self.vae.parameters())

    def _placed(self, z: Tensor) -> Tensor:
        return z.to(self.device, self._weight.dtype)
