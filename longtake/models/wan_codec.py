"""Wan's causal video autoencoder, latent by latent, with a cache that is a value.

The stock `decode` keeps its cache on the module and wants the whole video. Here the stock decoder is driven with a
list of our own: the first latent becomes one frame, each later one four, and what the convolutions remember is
returned as plain tensors, the word "Rep" (a time upsampler that has seen the first latent alone) and None.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models.fold import Folded
from longtake.models.place import Place

Cache = dict[str, tuple[Tensor | str | None, ...]]


def on_host(cache: Cache | None) -> Cache | None:
    """A cache that waits off the device, where another part is about to work: 3.8 GB of Wan's at 832x480."""
    return cache and {"feat": tuple(one.to("cpu") if isinstance(one, Tensor) else one for one in cache["feat"])}


class WanCodec:
    """A streaming `AutoencoderKLWan`; implements `core.model.Codec`. The module and its own caches are left alone.

    Latents are normalised as the transformer sees them (config `latents_mean`, `latents_std`). `fold` runs 3-D
    convolutions as 2-D (default: where it works on a CPU), equal to rounding.
    """

    def __init__(self, vae: nn.Module, fold: bool | None = None) -> None:
        config = vae.config
        self.vae = vae
        self.place = Place()
        self.patch = config.patch_size or 1
        self.factor = config.scale_factor_spatial
        self._mean = torch.tensor(config.latents_mean).reshape(-1, 1, 1)
        self._std = torch.tensor(config.latents_std).reshape(-1, 1, 1)
        self._slots = {part: _num_convolutions(part) for part in (vae.encoder, vae.decoder)}
        self._folds, self._fold = fold, Folded()

    @property
    def device(self) -> torch.device:
        """Where the autoencoder works."""
        return self.place.home or self.vae.post_quant_conv.weight.device

    def range_of(self, index: int) -> range:
        """The pixel frames of the latent at `index`: one for the first, four for each later."""
        return range(max(0, 4 * index - 3), 4 * index + 1)

    def decode(
        self, z: Float[Tensor, "F C H W"], cache: Cache | None = None
    ) -> tuple[UInt8[Tensor, "T H2 W2 3"], Cache | None]:
        """Frames of these latents, on the CPU, and the cache for the latents that follow. None starts a video."""
        video, cache = self.pixels(z, cache)
        return frames_of(video), cache

    def pixels(
        self, z: Float[Tensor, "F C H W"], cache: Cache | None = None
    ) -> tuple[Float[Tensor, "T 3 H2 W2"], Cache | None]:
        """As `decode`, but float32 in [-1, 1], channels first, on the autoencoder's device."""
        video, cache = self.raw(z, cache)
        return video.clamp(-1, 1), cache

    @torch.no_grad()
    def raw(
        self, z: Float[Tensor, "F C H W"], cache: Cache | None = None
    ) -> tuple[Float[Tensor, "T 3 H2 W2"], Cache | None]:
        """As `pixels`, before values are clamped."""
        if not len(z):
            return torch.zeros(0, 3, z.shape[2] * self.factor, z.shape[3] * self.factor, device=self.device), cache
        weight = self.vae.post_quant_conv.weight
        z = z.to(self.device, torch.float32) * self._std.to(self.device) + self._mean.to(self.device)
        parts = []
        with self.place.working(self.vae), self._convolutions():
            hidden = self.vae.post_quant_conv(z.to(weight.dtype).transpose(0, 1)[None])
            for one in hidden.split(1, dim=2):
                feats = self._feats(self.vae.decoder, cache)
                out = self.vae.decoder(one, feat_cache=feats, feat_idx=[0], first_chunk=cache is None)
                # contiguous, as a cache from a file is, so that resuming takes the same kernels
                cache = {"feat": tuple(f.contiguous() if isinstance(f, Tensor) else f for f in feats)}
                parts.append(out[0].transpose(0, 1).float())
        return _unpatchify(torch.cat(parts), self.patch), cache if self.place.stage is None else on_host(cache)

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "T H2 W2 3"]) -> Float[Tensor, "F C H W"]:
        """Normalised latents (float32, the posterior's mode) of T = 4k + 1 frames, on the autoencoder's device."""
        if len(frames) % 4 != 1:
            near = max(1, (len(frames) - 1) // 4 * 4 + 1)
            raise UsageError(f"a clip to encode has 4k + 1 frames, got {len(frames)}; use the last {near}")
        if any(side % (2 * self.factor) for side in frames.shape[1:3]):
            height, width = frames.shape[1:3]
            raise UsageError(f"frames of {width}x{height} do not fit: sides must be multiples of {2 * self.factor}")
        return self.latents(frames.permute(0, 3, 1, 2).to(self.device, torch.float32) / 127.5 - 1)

    @torch.no_grad()
    def latents(self, video: Float[Tensor, "T 3 H2 W2"]) -> Float[Tensor, "F C H W"]:
        """As `encode`, from float32 in [-1, 1], channels first."""
        weight = self.vae.post_quant_conv.weight
        video = _patchify(video.to(self.device), self.patch).to(weight.dtype).transpose(0, 1)[None]
        feats = self._feats(self.vae.encoder, None)
        with self.place.working(self.vae), self._convolutions():
            parts = [
                self.vae.encoder(part, feat_cache=feats, feat_idx=[0])
                for part in (video[:, :, :1], *video[:, :, 1:].split(4, dim=2))
                if part.shape[2]
            ]
            moments = self.vae.quant_conv(torch.cat(parts, dim=2))
        mode = moments.chunk(2, dim=1)[0][0].transpose(0, 1).float()
        return (mode - self._mean.to(self.device)) / self._std.to(self.device)

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

    def _feats(self, part: nn.Module, cache: Cache | None) -> list[Any]:
        if cache is None:
            return [None] * self._slots[part]
        return [feat.to(self.device) if isinstance(feat, Tensor) else feat for feat in cache["feat"]]

    def _convolutions(self) -> AbstractContextManager[Any]:
        # asked at each call: weights that wait on the host (offloading) may work elsewhere
        folds = self.device.type == "cpu" if self._folds is None else self._folds
        return self._fold if folds else nullcontext()


def _num_convolutions(part: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv3d) for module in part.modules())


def frames_of(video: Float[Tensor, "T 3 H W"]) -> UInt8[Tensor, "T H W 3"]:
    """Pictures of values in [-1, 1], on the CPU."""
    return ((video + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def cover(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture scaled to cover (width, height), its middle cropped; as it is where it fits."""
    if picture.size == tuple(size):
        return picture
    scale = max(size[0] / picture.width, size[1] / picture.height)
    width, height = max(size[0], round(picture.width * scale)), max(size[1], round(picture.height * scale))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    scaled = picture.resize((width, height), Image.Resampling.LANCZOS)
    return scaled.crop((left, top, left + size[0], top + size[1]))


def _patchify(x: Float[Tensor, "T C H W"], size: int) -> Float[Tensor, "T D h w"]:
    # Wan 2.2's order of channels: colour, column, row
    x = x.unflatten(3, (-1, size)).unflatten(2, (-1, size))
    return x.permute(0, 1, 5, 3, 2, 4).flatten(1, 3)


def _unpatchify(x: Float[Tensor, "T D h w"], size: int) -> Float[Tensor, "T C H W"]:
    x = x.unflatten(1, (-1, size, size))
    return x.permute(0, 1, 4, 3, 5, 2).flatten(4, 5).flatten(2, 3)
