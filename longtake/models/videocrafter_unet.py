"""VideoCrafter2's 3-D UNet (Chen et al. 2024) with one noise level a frame, in the layout of its checkpoint.

A picture UNet in which every step is followed by layers over time. The time embedding, to which that of the frame rate
is added, enters through the residual blocks alone and is one a frame there; the layers over time are not told the
level. So a level per row costs nothing, and equal levels are the stock forward.

Two names for each weight exist: those of the published checkpoint, which this module has, and those of the
diffusers-style conversion. `published_name` translates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models.videocrafter_blocks import (
    Down,
    ResBlock,
    SpatialTransformer,
    TemporalTransformer,
    Unit,
    Up,
    group_norm,
    sinusoid,
)


@dataclass(frozen=True)
class UNetConfig:
    """The sizes of the network; the defaults are the published ones.

    attention      whether a level of the pyramid has transformers
    first_heads    heads of the transformer over time behind the first convolution, each `head_dim` wide
    """

    in_channels: int = 4
    channels: int = 320
    mults: tuple[int, ...] = (1, 2, 4, 4)
    units: int = 2
    attention: tuple[bool, ...] = (True, True, True, False)
    head_dim: int = 64
    first_heads: int = 8
    text_dim: int = 1024


class VideoCrafterUNet(nn.Module):
    """Predicts the noise. Its state dict has the names and shapes of the published checkpoint."""

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        base, emb = config.channels, 4 * config.channels
        self.time_embed, self.fps_embedding = _embedding(base, emb), _embedding(base, emb)
        self.input_blocks = nn.ModuleList([Unit([nn.Conv2d(config.in_channels, base, 3, padding=1)])])
        self.init_attn = Unit([TemporalTransformer(base, config.first_heads, config.head_dim, conv=True)])
        skips, channels = [base], base
        last = len(config.mults) - 1
        for level, mult in enumerate(config.mults):
            for _ in range(config.units):
                self.input_blocks.append(_unit(config, channels, mult * base, config.attention[level]))
                channels = mult * base
                skips.append(channels)
            if level < last:
                self.input_blocks.append(Unit([Down(channels)]))
                skips.append(channels)
        attended = _unit(config, channels, channels, True)
        self.middle_block = Unit([*attended, ResBlock(channels, emb, channels)])
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(last + 1)):
            for number in range(config.units + 1):
                unit = _unit(config, channels + skips.pop(), config.mults[level] * base, config.attention[level])
                channels = config.mults[level] * base
                if level and number == config.units:
                    unit.append(Up(channels))
                self.output_blocks.append(unit)
        self.out = nn.Sequential(group_norm(base), nn.SiLU(), nn.Conv2d(base, config.in_channels, 3, padding=1))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.out[2].weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.out[2].weight.device

    def forward(
        self,
        x: Float[Tensor, "B F C H W"],
        times: Float[Tensor, "B F"],
        text: Float[Tensor, "B L D"],
        fps: Float[Tensor, " B"],
    ) -> Float[Tensor, "B F C H W"]:
        """The noise in each frame, given the training time (0..999) of each and the frame rate of each clip."""
        batch, num_frames = times.shape
        base = self.config.channels
        emb = self.time_embed(sinusoid(times.flatten(), base).to(x.dtype))
        emb = emb + self.fps_embedding(sinusoid(fps, base).to(x.dtype)).repeat_interleave(num_frames, 0)
        words = text.repeat_interleave(num_frames, 0)
        hidden, skips = x.flatten(0, 1), []
        for number, unit in enumerate(self.input_blocks):
            hidden = unit(hidden, emb, words, num_frames)
            if number == 0:
                hidden = self.init_attn(hidden, emb, words, num_frames)
            skips.append(hidden)
        hidden = self.middle_block(hidden, emb, words, num_frames)
        for unit in self.output_blocks:
            hidden = unit(torch.cat([hidden, skips.pop()], dim=1), emb, words, num_frames)
        return self.out(hidden).unflatten(0, (batch, num_frames))


def _embedding(base: int, emb: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(base, emb), nn.SiLU(), nn.Linear(emb, emb))


def _unit(config: UNetConfig, channels: int, out: int, attention: bool) -> Unit:
    unit = Unit([ResBlock(channels, 4 * config.channels, out)])
    if attention:
        heads = out // config.head_dim
        unit.extend([SpatialTransformer(out, heads, config.text_dim), TemporalTransformer(out, heads, config.head_dim)])
    return unit


# -- names ---------------------------------------------------------------------------------------------------------

_RES = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
_TOPS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "fps_embedding.linear_1": "fps_embedding.0", "fps_embedding.linear_2": "fps_embedding.2",
    "transformer_in": "init_attn.0", "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_PLACES = {"resnets": 0, "temp_convs": 0, "attentions": 1, "temp_attentions": 2}


def published_name(name: str, config: UNetConfig | None = None) -> str:
    """The published name of a weight of the diffusers-style conversion; KeyError if there is none."""
    config = config or UNetConfig()
    for theirs, ours in _TOPS.items():
        if name.startswith(theirs + "."):
            return ours + name[len(theirs) :]
    parts = name.split(".")
    if parts[0] == "mid_block":
        place = {("attentions", "0"): 1, ("temp_attentions", "0"): 2}.get((parts[1], parts[2]), 3 * int(parts[2]))
        return f"middle_block.{place}.{_inside(parts[1], parts[3:])}"
    side, level, kind, number, *rest = parts
    level, number = int(level), int(number)
    attention = config.attention if side == "down_blocks" else config.attention[::-1]
    if kind == "downsamplers":
        return f"input_blocks.{(config.units + 1) * (level + 1)}.0.op.{rest[-1]}"
    if kind == "upsamplers":
        place = 3 if attention[level] else 1
        return f"output_blocks.{(config.units + 1) * level + config.units}.{place}.conv.{rest[-1]}"
    if side == "down_blocks":
        return f"input_blocks.{(config.units + 1) * level + number + 1}.{_PLACES[kind]}.{_inside(kind, rest)}"
    if side == "up_blocks":
        return f"output_blocks.{(config.units + 1) * level + number}.{_PLACES[kind]}.{_inside(kind, rest)}"
    raise KeyError(name)


def _inside(kind: str, rest: list[str]) -> str:
    if kind == "resnets":
        return ".".join([_RES[rest[0]], *rest[1:]])
    return ".".join(["temopral_conv", *rest] if kind == "temp_convs" else rest)


def published_weights(weights: Mapping[str, Tensor], config: UNetConfig | None = None) -> dict[str, Tensor]:
    """Weights under either set of names as `VideoCrafterUNet` takes them; UsageError names a key that is neither."""
    if "time_embed.0.weight" in weights:
        return dict(weights)
    found = {}
    for name, value in weights.items():
        try:
            ours = published_name(name, config)
        except (KeyError, ValueError, IndexError):
            raise UsageError(f"{name!r} is no weight of VideoCrafter2, neither published nor converted") from None
        # the one difference in shape: linear layers where the published ones are one-wide convolutions
        conv = ours in ("init_attn.0.proj_in.weight", "init_attn.0.proj_out.weight") and value.ndim == 2
        found[ours] = value[:, :, None] if conv else value
    return found
