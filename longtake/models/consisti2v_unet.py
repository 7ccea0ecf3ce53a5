"""The network of ConsistI2V (arXiv 2402.04324): Stable Diffusion 2.1's UNet with a temporal layer behind every layer.

A unit is a residual block, a temporal convolution, spatial attention and temporal attention; the innermost level has
the first two only, the middle no temporal attention. Time enters in the residual blocks alone, which see frames one by
one, so every frame may have its own; the frame stride is added to it. The layout is that of the checkpoint
`TIGER-Lab/ConsistI2V`, folder `unet`.

Deviation: the reference works on 16 frames only, a constant of its reshapes; here on any number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from longtake.models.consisti2v_blocks import FrameConv, Pictures, SpatialTransformer, TemporalTransformer


@dataclass(frozen=True)
class ConsistConfig:
    """Sizes; the defaults are the published ones. `heads` are those of spatial attention, level by level."""

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    heads: tuple[int, ...] = (5, 10, 20, 20)
    temporal_heads: int = 8
    context: int = 1024
    groups: int = 32

    @property
    def time_width(self) -> int:
        """Channels of the time embedding."""
        return 4 * self.channels[0]


class ConsistUNet(nn.Module):
    """The noise in every frame, from frames of which the first is the picture, a time a frame, text and stride."""

    def __init__(self, config: ConsistConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ConsistConfig()
        first, deepest = config.channels[0], len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, first, 3, padding=1)
        self.time_embedding = TimestepEmbedding(first, config.time_width)
        self.frame_stride_embedding = TimestepEmbedding(first, config.time_width)
        self.down_blocks = nn.ModuleList(
            _Down(config, level, inner, last=level == deepest)
            for level, inner in enumerate((first, *config.channels[:-1]))
        )
        self.mid_block = _Middle(config)
        self.up_blocks = nn.ModuleList(_Up(config, level) for level in range(deepest, -1, -1))
        self.conv_norm_out = nn.GroupNorm(config.groups, first, eps=1e-5)
        self.conv_out = nn.Conv2d(first, config.out_channels, 3, padding=1)

    def forward(
        self,
        x: Float[Tensor, "B F C H W"],
        times: Float[Tensor, "B F"],
        text: Float[Tensor, "B L D"],
        stride: Float[Tensor, "B"],  # noqa: F821 - a jaxtyping axis
    ) -> Float[Tensor, "B F C H W"]:
        """The noise estimate of every frame, that of the picture included (it means nothing and is not used)."""
        frames, weight = x.shape[1], self.conv_in.weight
        text = text.to(weight)
        emb = self.time_embedding(self._waves(times.flatten()).to(weight))
        emb = emb + self.frame_stride_embedding(self._waves(stride).to(weight)).repeat_interleave(frames, dim=0)
        hidden = self.conv_in(x.flatten(0, 1).to(weight))
        kept = [hidden]
        for block in self.down_blocks:
            made = block(hidden, emb, text, frames)
            hidden = made[-1]
            kept += made
        hidden = self.mid_block(hidden, emb, text, frames)
        for block in self.up_blocks:
            beside = [kept.pop() for _ in block.resnets]
            hidden = block(hidden, emb, text, frames, beside)
        out = self.conv_out(functional.silu(self.conv_norm_out(hidden)))
        return out.unflatten(0, (-1, frames))

    def _waves(self, values: Tensor) -> Tensor:
        return get_timestep_embedding(values, self.config.channels[0], flip_sin_to_cos=True, downscale_freq_shift=0)


class _Units(nn.Module):
    """Units of one level. `resnets` and `conv3ds` are always there, attention where the level has it."""

    def __init__(self, config: ConsistConfig, level: int, inners: list[int], attends: bool) -> None:
        super().__init__()
        width, groups = config.channels[level], config.groups
        if attends:
            self.attentions = nn.ModuleList(
                SpatialTransformer(width, config.context, config.heads[level], groups) for _ in inners
            )
            self.tempo_attns = nn.ModuleList(
                TemporalTransformer(width, config.context, config.temporal_heads, groups) for _ in inners
            )
        self.resnets = nn.ModuleList(_resnet(config, inner, width) for inner in inners)
        self.conv3ds = nn.ModuleList(FrameConv(width, groups) for _ in inners)

    def unit(self, number: int, x: Pictures, emb: Tensor, text: Tensor, frames: int) -> Pictures:
        """One unit."""
        x = self.conv3ds[number](self.resnets[number](x, emb), frames)
        if hasattr(self, "attentions"):
            x = self.attentions[number](x, text, frames)
            x = self.tempo_attns[number](x, text, frames)
        return x


class _Down(_Units):
    def __init__(self, config: ConsistConfig, level: int, inner: int, last: bool) -> None:
        width = config.channels[level]
        super().__init__(config, level, [inner, *[width] * (config.layers - 1)], attends=not last)
        if not last:
            self.downsamplers = nn.ModuleList([Downsample2D(width, use_conv=True, padding=1, name="op")])

    def forward(self, x: Pictures, emb: Tensor, text: Tensor, frames: int) -> list[Pictures]:
        """What every unit makes, and at last the halved one where there is: all are wanted on the way up."""
        made = []
        for number in range(len(self.resnets)):
            x = self.unit(number, x, emb, text, frames)
            made.append(x)
        if hasattr(self, "downsamplers"):
            made.append(self.downsamplers[0](x))
        return made


class _Up(_Units):
    def __init__(self, config: ConsistConfig, level: int) -> None:
        sizes, top = config.channels, len(config.channels) - 1
        below = sizes[min(level + 1, top)]
        beside = [sizes[level]] * config.layers + [sizes[max(level - 1, 0)]]
        inners = [(below if number == 0 else sizes[level]) + skip for number, skip in enumerate(beside)]
        super().__init__(config, level, inners, attends=level != top)
        if level > 0:
            self.upsamplers = nn.ModuleList([Upsample2D(sizes[level], use_conv=True)])

    def forward(self, x: Pictures, emb: Tensor, text: Tensor, frames: int, beside: list[Pictures]) -> Pictures:
        """Each unit takes one of `beside`, made on the way down, and what comes from below."""
        for number, skip in enumerate(beside):
            x = self.unit(number, torch.cat([x, skip], dim=1), emb, text, frames)
        return self.upsamplers[0](x) if hasattr(self, "upsamplers") else x


class _Middle(nn.Module):
    def __init__(self, config: ConsistConfig) -> None:
        super().__init__()
        width, groups = config.channels[-1], config.groups
        self.attentions = nn.ModuleList([SpatialTransformer(width, config.context, config.heads[-1], groups)])
        self.resnets = nn.ModuleList(_resnet(config, width, width) for _ in range(2))
        self.conv3ds = nn.ModuleList(FrameConv(width, groups) for _ in range(2))

    def forward(self, x: Pictures, emb: Tensor, text: Tensor, frames: int) -> Pictures:
        x = self.conv3ds[0](self.resnets[0](x, emb), frames)
        x = self.attentions[0](x, text, frames)
        return self.conv3ds[1](self.resnets[1](x, emb), frames)


def _resnet(config: ConsistConfig, inner: int, outer: int) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=inner, out_channels=outer, temb_channels=config.time_width, groups=config.groups, eps=1e-5
    )
