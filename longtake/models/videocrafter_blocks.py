"""The parts of VideoCrafter2's network, with the parameter names of its published checkpoint.

Spatial parts run on frames, ((B F), C, H, W) with frames innermost; temporal parts see the frames of a clip together.
Only the residual block is told the noise level, and it is told one a frame: that is all a level per row needs.
The spelling `temopral_conv` is the checkpoint's.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 32


def group_norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    """The network's group norm, computed in float32 whatever the weights are."""
    return _Norm(GROUPS, channels, eps=eps)


class _Norm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        weight, bias = (value.float() for value in (self.weight, self.bias))
        return functional.group_norm(input.float(), self.num_groups, weight, bias, self.eps).to(input.dtype)


class Attention(nn.Module):
    """Multi-head attention: q, k and v without bias, the output with one. Self-attention without a `context`."""

    def __init__(self, width: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context or width, width, bias=False)
        self.to_v = nn.Linear(context or width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Float[Tensor, "N L C"], context: Float[Tensor, "N M D"] | None = None) -> Tensor:
        """(N, L, C): every token of x reads the tokens of its context."""
        context = x if context is None else context
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        read = functional.scaled_dot_product_attention(queries, keys, values)
        return self.to_out(read.transpose(1, 2).flatten(2))


class _Gated(nn.Module):
    # GEGLU with the exact gelu: the projection holds value and gate
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(_Gated(width, 4 * width), nn.Dropout(0.0), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _Block(nn.Module):
    """Attention to itself, to the context (or to itself again), and a feed-forward part, each behind a layer norm."""

    def __init__(self, width: int, heads: int, context: int | None) -> None:
        super().__init__()
        self.attn1 = Attention(width, heads)
        self.ff = _FeedForward(width)
        self.attn2 = Attention(width, heads, context)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Tokens are the pixels of one frame; the second attention reads the text."""

    def __init__(self, channels: int, heads: int, text: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([_Block(channels, heads, text)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "N C H W"], text: Float[Tensor, "N L D"]) -> Float[Tensor, "N C H W"]:
        """Frames with what their pixels read from each other and from the text added."""
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.transformer_blocks:
            tokens = block(tokens, text)
        return x + self.proj_out(tokens).transpose(1, 2).unflatten(2, x.shape[2:])


class TemporalTransformer(nn.Module):
    """Tokens are the frames at one pixel; no text, no mask and no position, so any number of frames may come.

    `conv`: the projections are one-wide convolutions, as in the transformer behind the first convolution.
    """

    def __init__(self, channels: int, heads: int, head_dim: int, conv: bool = False) -> None:
        super().__init__()
        width = heads * head_dim
        self.norm = group_norm(channels, eps=1e-6)
        self.proj_in: Any = nn.Conv1d(channels, width, 1) if conv else nn.Linear(channels, width)
        self.transformer_blocks = nn.ModuleList([_Block(width, heads, None)])
        self.proj_out: Any = nn.Conv1d(width, channels, 1) if conv else nn.Linear(width, channels)

    def forward(self, x: Float[Tensor, "N C H W"], num_frames: int) -> Float[Tensor, "N C H W"]:
        """Frames with what they read from the other frames of their clip added. N = B * num_frames."""
        clips = x.unflatten(0, (-1, num_frames)).transpose(1, 2)  # (B, C, F, H, W): one norm for all frames
        batch, _, _, height, width = clips.shape
        tokens = self.norm(clips).permute(0, 3, 4, 2, 1).flatten(0, 2)  # ((B H W), F, C)
        tokens = _project(self.proj_in, tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, None)
        out = _project(self.proj_out, tokens).unflatten(0, (batch, height, width))
        return x + out.permute(0, 3, 4, 1, 2).flatten(0, 1)


def _project(layer: nn.Module, tokens: Tensor) -> Tensor:
    # a one-wide convolution over tokens is a linear layer
    if isinstance(layer, nn.Conv1d):
        return functional.linear(tokens, layer.weight[:, :, 0], layer.bias)
    return layer(tokens)


class _TemporalConv(nn.Module):
    # four three-frame convolutions, added to their input; norms see all frames of a clip
    def __init__(self, channels: int) -> None:
        super().__init__()

        def stage(dropout: bool) -> nn.Sequential:
            parts: list[nn.Module] = [group_norm(channels), nn.SiLU()]
            parts += [nn.Dropout(0.1)] if dropout else []
            return nn.Sequential(*parts, nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0)))

        self.conv1, self.conv2 = stage(False), stage(True)
        self.conv3, self.conv4 = stage(True), stage(True)

    def forward(self, x: Float[Tensor, "B C F H W"]) -> Float[Tensor, "B C F H W"]:
        return x + self.conv4(self.conv3(self.conv2(self.conv1(x))))


class ResBlock(nn.Module):
    """Two convolutions on each frame with the time embedding of that frame in between, then four over time."""

    def __init__(self, channels: int, emb: int, out: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(group_norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, out))
        self.out_layers = nn.Sequential(group_norm(out), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)
        self.temopral_conv = _TemporalConv(out)

    def forward(self, x: Float[Tensor, "N C H W"], emb: Float[Tensor, "N E"], num_frames: int) -> Tensor:
        """(N, out, H, W) for N = B * num_frames frames, each with its own row of `emb`."""
        hidden = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        hidden = self.skip_connection(x) + self.out_layers(hidden)
        clips = hidden.unflatten(0, (-1, num_frames)).transpose(1, 2)
        return self.temopral_conv(clips).transpose(1, 2).flatten(0, 1)


class Down(nn.Module):
    """Half the height and width, by a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H / 2, W / 2)."""
        return self.op(x)


class Up(nn.Module):
    """Twice the height and width: nearest pixels, then a convolution. `size` where the skip has an odd side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, 2 H, 2 W)."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class Unit(nn.ModuleList):
    """The parts of one step of the network in order, each called with what it needs."""

    def forward(self, x: Tensor, emb: Tensor, text: Tensor, num_frames: int) -> Tensor:
        """(N, C', H', W')."""
        for part in self:
            if isinstance(part, ResBlock):
                x = part(x, emb, num_frames)
            elif isinstance(part, SpatialTransformer):
                x = part(x, text)
            elif isinstance(part, TemporalTransformer):
                x = part(x, num_frames)
            else:
                x = part(x)
        return x


def sinusoid(times: Float[Tensor, " N"], dim: int) -> Float[Tensor, "N dim"]:
    """Cosines, then sines, of `times` at dim / 2 frequencies from 1 down towards 1 / 10000."""
    half = dim // 2
    scale = torch.exp(-torch.arange(half, device=times.device) * (torch.log(torch.tensor(10000.0)).item() / half))
    angles = times.float()[:, None] * scale
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
