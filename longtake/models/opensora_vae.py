"""The video autoencoder of Open-Sora 1.2 (layout of `hpcai-tech/OpenSora-VAE-v1.2`): pictures, then time.

Every frame goes through an image autoencoder (8x in space, SDXL's shape, finetuned); its latents, 17 frames at a
time, through a temporal one of causal convolutions (4x in time). Seventeen frames make five latents: three zero frames
are put in front to make twenty, and cut off again after decoding. Groups know nothing of each other: the group norms of
the temporal part average over time, so within a group it is not causal, and nothing is passed on to the next.

Deviation: the reference samples both posteriors when it encodes; here their mean is taken, so that a picture has one
latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class TemporalConfig:
    """Sizes of the temporal part; the defaults are the published ones."""

    channels: int = 4
    filters: int = 128
    num_res_blocks: int = 4
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    halvings: tuple[bool, ...] = (False, True, True)  # of time, after each group but the last
    num_groups: int = 32

    @property
    def factor(self) -> int:
        """Frames of one latent."""
        return 2 ** sum(self.halvings)


IMAGE_PART: dict[str, Any] = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    norm_num_groups=32,
)
"""The image part as published, in the words of diffusers' AutoencoderKL."""

IMAGE_SCALE = 0.18215  # hard-coded by the release, although the image part descends from SDXL's
MICRO_FRAMES, MICRO_LATENTS = 17, 5


class OpenSoraVAE(nn.Module):
    """The whole autoencoder: pixels (T, 3, H, W) in -1..1 to normalised latents (F, 4, H/8, W/8) and back."""

    def __init__(self, image: dict[str, Any] | None = None, temporal: TemporalConfig | None = None) -> None:
        super().__init__()
        self.config = {"image": image or IMAGE_PART, "temporal": asdict(temporal or TemporalConfig())}
        self.spatial_vae = nn.Module()
        self.spatial_vae.module = AutoencoderKL(**(image or IMAGE_PART))
        self.temporal_vae = TemporalVAE(temporal or TemporalConfig())
        self.register_buffer("shift", torch.tensor([-0.10, 0.34, 0.27, 0.98]).reshape(1, 4, 1, 1, 1))
        self.register_buffer("scale", torch.tensor([3.85, 2.32, 2.33, 3.06]).reshape(1, 4, 1, 1, 1))

    def encode(self, pixels: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "F 4 h w"]:
        """Latents, group by group of 17 frames; a shorter last group makes ceil(frames / 4)."""
        pictures = torch.cat([self._picture_latents(part) for part in pixels.split(4)])
        groups = [self.temporal_vae.encode(group.transpose(0, 1)[None]) for group in pictures.split(MICRO_FRAMES)]
        return ((torch.cat(groups, dim=2) - self.shift) / self.scale)[0].transpose(0, 1)

    def decode(
        self,
        latents: Float[Tensor, "F 4 h w"],
        num_frames: int | None = None,
        show: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "T 3 H W"]:
        """Pixels: five latents become 17 frames, a shorter last group of g latents 4 g - 3, or up to `num_frames`.

        show: from latents of frames to frames, in the place of `self.show`.
        """
        whole = latents.transpose(0, 1)[None] * self.scale + self.shift
        parts = []
        left = num_frames
        for group in whole.split(MICRO_LATENTS, dim=2):
            frames = 4 * group.shape[2] - 3 if left is None else min(left, MICRO_FRAMES)
            left = None if left is None else left - frames
            pictures = self.temporal_vae.decode(group, frames)[0].transpose(0, 1)
            parts += [(show or self.show)(part) for part in pictures.split(4)]
        return torch.cat(parts)

    def show(self, latents: Float[Tensor, "T 4 h w"]) -> Float[Tensor, "T 3 H W"]:
        """Frames of latents that are one a frame, by the image part alone."""
        return self.spatial_vae.module.decode(latents / IMAGE_SCALE, return_dict=False)[0]

    def _picture_latents(self, pixels: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 4 h w"]:
        moments = self.spatial_vae.module.encode(pixels, return_dict=False)[0]
        return moments.mode() * IMAGE_SCALE


class TemporalVAE(nn.Module):
    """Four frames of image latents to one and back."""

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        self.factor = config.factor
        self.encoder = _Encoder(config)
        self.quant_conv = _Conv(2 * config.channels, 2 * config.channels, 1)
        self.post_quant_conv = _Conv(config.channels, config.channels, 1)
        self.decoder = _Decoder(config)

    def encode(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C F H W"]:
        """The posterior's mean; zero frames in front fill T up to a multiple of the factor."""
        padded = functional.pad(x, (0, 0, 0, 0, -x.shape[2] % self.factor, 0))
        return self.quant_conv(self.encoder(padded)).chunk(2, dim=1)[0]

    def decode(self, z: Float[Tensor, "B C F H W"], num_frames: int) -> Float[Tensor, "B C T H W"]:
        """The last `num_frames` of the frames that these latents stand for, at most `factor` each."""
        return self.decoder(self.post_quant_conv(z))[:, :, -num_frames % self.factor :][:, :, :num_frames]


class _Conv(nn.Module):
    """A convolution that sees the past only: zeros stand for what was before."""

    def __init__(self, inner: int, outer: int, kernel: int, time_stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        side = kernel // 2
        self.front = kernel - time_stride
        self.conv = nn.Conv3d(inner, outer, kernel, (time_stride, 1, 1), (0, side, side), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, 0, 0, 0, self.front, 0)))


class _Res(nn.Module):
    def __init__(self, inner: int, outer: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inner, eps=1e-5)
        self.conv1 = _Conv(inner, outer, 3, bias=False)
        self.norm2 = nn.GroupNorm(groups, outer, eps=1e-5)
        self.conv2 = _Conv(outer, outer, 3, bias=False)
        if inner != outer:
            self.conv3 = _Conv(inner, outer, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        return hidden + (self.conv3(x) if hasattr(self, "conv3") else x)


def _blocks(inner: int, outer: int, config: TemporalConfig) -> nn.ModuleList:
    many = range(config.num_res_blocks)
    return nn.ModuleList(_Res(inner if place == 0 else outer, outer, config.num_groups) for place in many)


class _Encoder(nn.Module):
    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        widths = [config.filters * multiplier for multiplier in config.multipliers]
        self.conv_in = _Conv(config.channels, config.filters, 3, bias=False)
        self.block_res_blocks = nn.ModuleList(
            _blocks(inner, outer, config) for inner, outer in zip([config.filters, *widths], widths, strict=False)
        )
        self.conv_blocks = nn.ModuleList(
            _Conv(width, width, 3, time_stride=2) if halve else nn.Identity()
            for width, halve in zip(widths, config.halvings, strict=False)
        )
        self.res_blocks = _blocks(widths[-1], widths[-1], config)
        self.norm1 = nn.GroupNorm(config.num_groups, widths[-1], eps=1e-5)
        self.conv2 = _Conv(widths[-1], 2 * config.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for place, group in enumerate(self.block_res_blocks):
            for block in group:
                x = block(x)
            if place < len(self.conv_blocks):
                x = self.conv_blocks[place](x)
        for block in self.res_blocks:
            x = block(x)
        return self.conv2(functional.silu(self.norm1(x)))


class _Decoder(nn.Module):
    """The encoder backwards: groups are numbered as there and run from the last to the first."""

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        widths = [config.filters * multiplier for multiplier in config.multipliers]
        self.conv1 = _Conv(config.channels, widths[-1], 3)
        self.res_blocks = _blocks(widths[-1], widths[-1], config)
        above = [*widths[1:], widths[-1]]
        self.block_res_blocks = nn.ModuleList(
            _blocks(inner, outer, config) for inner, outer in zip(above, widths, strict=True)
        )
        self.conv_blocks = nn.ModuleList(
            _Conv(width, 2 * width, 3) if double else nn.Identity()
            for width, double in zip(widths[1:], config.halvings, strict=True)
        )
        self.norm1 = nn.GroupNorm(config.num_groups, widths[0], eps=1e-5)
        self.conv_out = _Conv(widths[0], config.channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv1(z)
        for block in self.res_blocks:
            x = block(x)
        for place in reversed(range(len(self.block_res_blocks))):
            for block in self.block_res_blocks[place]:
                x = block(x)
            if place > 0 and isinstance(self.conv_blocks[place - 1], _Conv):
                doubled = self.conv_blocks[place - 1](x).unflatten(1, (-1, 2))
                x = doubled.permute(0, 1, 3, 2, 4, 5).flatten(2, 3)
        return self.conv_out(functional.silu(self.norm1(x)))
