"""CogVideoX's causal video autoencoder, streamed, with a cache that is a value.

The stock decoder takes pairs of latents (eight frames), the first time three of them when their number is odd, and its
group norms look at all frames of such a piece. Here the first latent is decoded alone, into the one frame that it is
(so that a picture can open a video, or guide a clip and be dropped), and each pair after it together. A latent whose
pair is not complete waits in the cache, and no frames come for it yet.

Deviation: the first piece is [1], [2] where the stock one is [3], so group norms see other frames there. What the
convolutions remember hands on the difference, which fades (measured in the tests); `exact_streaming` is False for it.
Piece by piece and all at once are the same here, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models.place import Place
from longtake.models.tiling import in_tiles
from longtake.models.wan_codec import cover

Cache = dict[str, Any]
"""`memory`: what the convolutions remember, nested by their names; `waiting`: the first latent of a pair, or None."""

POINTWISE = ("conv_y", "conv_b")
"""Convolutions that see one frame at a time; the stock decoder keeps their whole inputs for nothing."""


class CogVideoXCodec:
    """A streaming `AutoencoderKLCogVideoX`; implements `core.model.Codec`. Latents are as the transformer sees them."""

    def __init__(self, vae: nn.Module) -> None:
        config = vae.config
        self.vae = vae
        self.place = Place()
        self.scale = float(config.scaling_factor)
        self.factor = 2 ** (len(config.block_out_channels) - 1)

    @property
    def device(self) -> torch.device:
        """Where the autoencoder works."""
        return self.place.home or next(self.vae.parameters()).device

    def decode(
        self, z: Float[Tensor, "F C H W"], cache: Cache | None = None
    ) -> tuple[UInt8[Tensor, "T H2 W2 3"], Cache | None]:
        """Frames of these latents, on the CPU, and the cache for those that follow. None starts a video."""
        parts = [torch.zeros(0, z.shape[2] * self.factor, z.shape[3] * self.factor, 3, dtype=torch.uint8)]
        for latent in z:
            if cache is None:
                frames, memory = self._piece(latent[None], None)
                cache = {"memory": memory, "waiting": None}
            elif cache["waiting"] is None:
                cache = {**cache, "waiting": latent.clone()}
                continue
            else:
                pair = torch.stack([cache["waiting"].to(latent), latent])
                frames, memory = self._piece(pair, cache["memory"])
                cache = {"memory": memory, "waiting": None}
            parts.append(frames)
        return torch.cat(parts), cache

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "T H2 W2 3"]) -> Float[Tensor, "F C H W"]:
        """Latents (float32, the posterior's mode) of T = 4k + 1 frames, on the autoencoder's device."""
        if len(frames) % 4 != 1:
            near = max(1, (len(frames) - 1) // 4 * 4 + 1)
            raise UsageError(f"a clip to encode has 4k + 1 frames, got {len(frames)}; use the last {near}")
        video = frames.permute(3, 0, 1, 2)[None].to(self.device, self.vae.dtype) / 127.5 - 1
        with self.place.working(self.vae):
            mode = self.vae.encode(video).latent_dist.mode()
        return self.scale * mode[0].transpose(0, 1).float()

    def encode_image(
        self, picture: Image.Image | UInt8[Tensor, "H2 W2 3"], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "1 C H W"]:
        """The latent of a picture. `size` (width, height) scales it to cover that size and crops the middle."""
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(np.asarray(picture))
        picture = picture.convert("RGB")
        if size is not None:
            picture = cover(picture, size)
        return self.encode(torch.from_numpy(np.array(picture))[None])

    def _piece(self, z: Float[Tensor, "F C H W"], memory: Any) -> tuple[UInt8[Tensor, "T H W 3"], Any]:
        video, memory = self._video(z, memory)
        frames = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return frames.permute(0, 2, 3, 1).contiguous().cpu(), memory

    @torch.no_grad()
    def _video(self, z: Float[Tensor, "F C H W"], memory: Any) -> tuple[Float[Tensor, "T 3 H2 W2"], Any]:
        z = (z.to(self.device, torch.float32) / self.scale).to(self.vae.dtype).transpose(0, 1)[None]
        with self.place.working(self.vae):
            if self.vae.post_quant_conv is not None:
                z = self.vae.post_quant_conv(z)
            video, memory = self.vae.decoder(z, conv_cache=_moved(memory, self.device))
        return video[0].transpose(0, 1).float(), _moved(memory)


class TiledCogVideoXCodec(CogVideoXCodec):
    """Decodes pictures larger than a tile in tiles, each a video with a memory of its own, as `enable_tiling` does.

    A tile is half the autoencoder's trained picture high and wide (240x360 pixels), a sixth and a fifth shared with the
    next. What a tile's convolutions and group norms see ends with the tile, so the result differs from the whole.
    """

    def __init__(self, vae: nn.Module, tile: tuple[int, int] | None = None) -> None:
        super().__init__(vae)
        high, wide = tile or (vae.config.sample_height // 2, vae.config.sample_width // 2)
        self.tile = high // self.factor, wide // self.factor
        self.stride = int(self.tile[0] * (1 - 1 / 6)), int(self.tile[1] * (1 - 1 / 5))

    def _video(self, z: Float[Tensor, "F C H W"], memory: Any) -> tuple[Float[Tensor, "T 3 H2 W2"], Any]:
        if z.shape[2] <= self.tile[0] and z.shape[3] <= self.tile[1]:
            return super()._video(z, memory)
        video, tiles = in_tiles(z, super()._video, (self.tile, self.stride), self.factor, memory and memory["tiles"])
        return video, {"tiles": tiles}


def _moved(memory: Any, device: torch.device | None = None) -> Any:
    # contiguous and without empty places, as a cache from a file is, so that resuming takes the same kernels
    if isinstance(memory, dict):
        kept = {name: _moved(value, device) for name, value in memory.items() if name not in POINTWISE}
        return {name: value for name, value in kept.items() if value is not None and value != {}} or None
    return memory if memory is None else memory.contiguous() if device is None else memory.to(device)
