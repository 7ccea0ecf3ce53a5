"""The layers of ConsistI2V (arXiv 2402.04324) that Stable Diffusion does not have: all look at the first frame.

Pictures are (B F, C, h, w), frame after frame. Spatial attention lets every frame read its own tokens and those of
frame 0; temporal attention reads all frames at a pixel and the eight neighbours of that pixel in frame 0. Temporal
layers are blended with their input by a learned share `alpha`.

Some weights of the checkpoint have no effect (a relative position bias, and the time projections of the temporal
convolutions); they are kept so that the layout is complete.
"""

from __future__ import annotations

import torch
from diffusers.models.attention import FeedForward
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from longtake.models.opensora_longer import OverTime

Pictures = Float[Tensor, "BF C h w"]
Tokens = Float[Tensor, "N L C"]


class FrameConv(nn.Module):
    """Two convolutions along time, blended with the input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.norm1 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv1 = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.time_emb_proj = nn.Linear(512, channels)  # in the checkpoint, never used
        self.norm2 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv2 = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Pictures, frames: int) -> Pictures:
        """Norms are per frame; the convolutions see `frames` of them."""
        hidden = _along(self.conv1, functional.silu(self.norm1(x)), frames)
        hidden = _along(self.conv2, functional.silu(self.norm2(hidden)), frames)
        return _blended(self.alpha, x, x + hidden)


class Attention(nn.Module):
    """Multi-head attention from x to y; queries and keys may be turned before they are split into heads."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tokens, y: Tokens) -> Tokens:
        """Attend from x to y."""
        return self.attend(self.to_q(x), self.to_k(y), self.to_v(y))

    def attend(self, query: Tokens, key: Tokens, value: Tokens) -> Tokens:
        """Attention from projected queries, keys and values, and the projection out."""
        return self.to_out[0](self.read(query, key, value))

    def read(self, query: Tokens, key: Tokens, value: Tokens, mask: Tensor | None = None) -> Tokens:
        """What is read from projected queries, keys and values; `mask` is true where a query may read."""
        heads = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        return functional.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2)


class FrameAttention(Attention, OverTime):
    """Attention along time with rotary positions on the first half of the channels, before the split into heads."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__(width, context, heads)
        self.rotary_bias = nn.Module()
        self.rotary_bias.relative_attention_bias = nn.Embedding(32, heads)  # in the checkpoint, never used
        self.rotary_emb = nn.Module()
        frequencies = 10000 ** (-torch.arange(0, width // 2, 2, dtype=torch.float32) / (width // 2))
        self.rotary_emb.freqs = nn.Parameter(frequencies, requires_grad=False)

    def turned(self, x: Tokens) -> Tokens:
        """x rotated by its place on the axis of frames."""
        places = torch.arange(x.shape[1], dtype=torch.float32, device=x.device)
        angles = (places[:, None] * self.rotary_emb.freqs.float()).repeat_interleave(2, dim=-1)
        half = x[..., : angles.shape[-1]].float()
        even, odd = half.unflatten(-1, (-1, 2)).unbind(-1)
        crossed = torch.stack([-odd, even], dim=-1).flatten(-2)
        return torch.cat([(half * angles.cos() + crossed * angles.sin()).to(x), x[..., angles.shape[-1] :]], dim=-1)


class _Block(nn.Module):
    def __init__(self, width: int, context: int, heads: int, kind: type[Attention]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = kind(width, width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = kind(width, context, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, activation_fn="geglu")


class SpatialTransformer(nn.Module):
    """Attention within a frame, frame 0 and the text."""

    def __init__(self, width: int, context: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([_Block(width, context, heads, Attention)])
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Pictures, text: Float[Tensor, "B L D"], frames: int) -> Pictures:
        """Keys of a frame: its own tokens and those of frame 0 of its video, both after the norm."""
        block = self.transformer_blocks[0]
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        normed = block.norm1(tokens)
        first = normed.unflatten(0, (-1, frames))[:, 0].repeat_interleave(frames, dim=0)
        tokens = tokens + block.attn1(normed, torch.cat([normed, first], dim=1))
        tokens = tokens + block.attn2(block.norm2(tokens), text.repeat_interleave(frames, dim=0))
        tokens = tokens + block.ff(block.norm3(tokens))
        return x + self.proj_out(tokens).transpose(1, 2).unflatten(2, x.shape[2:])


class TemporalTransformer(nn.Module):
    """Attention along time at every pixel, with its neighbourhood in frame 0, and to the text."""

    def __init__(self, width: int, context: int, heads: int, groups: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([_Block(width, context, heads, FrameAttention)])
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Pictures, text: Float[Tensor, "B L D"], frames: int) -> Pictures:
        """Blend of x and x with what its pixels see along time."""
        block = self.transformer_blocks[0]
        pixels = x.shape[2] * x.shape[3]
        # (B S, F, C): the frames of one pixel are a sequence
        maps = self.proj_in(self.norm(x).movedim(1, -1)).flatten(1, 2)
        tokens = maps.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)
        normed = block.norm1(tokens)
        tokens = tokens + self._over_frames(block.attn1, normed, x.shape[2:])
        cross, words = block.attn2, text.repeat_interleave(pixels, dim=0)
        # text keys stay unturned: that is how the weights were trained
        query = cross.turned(cross.to_q(block.norm2(tokens)))
        tokens = tokens + cross.attend(query, cross.to_k(words), cross.to_v(words))
        tokens = tokens + block.ff(block.norm3(tokens))
        out = self.proj_out(tokens).unflatten(0, (-1, pixels)).transpose(1, 2).flatten(0, 1)
        return _blended(self.alpha, x, x + out.transpose(1, 2).unflatten(2, x.shape[2:]))

    def _over_frames(self, attention: FrameAttention, normed: Tokens, size: torch.Size) -> Tokens:
        first = normed[:, 0].unflatten(0, (-1, *size)).movedim(-1, 1)
        near = neighbours(first).flatten(0, 1)

        def read(part: Tokens, mask: Tensor | None = None, sharpen: float = 1.0) -> Tokens:
            # the neighbours stand at position 0, where turning changes nothing, and may always be read
            query = sharpen * attention.turned(attention.to_q(part))
            key = torch.cat([attention.turned(attention.to_k(part)), attention.to_k(near)], dim=1)
            value = torch.cat([attention.to_v(part), attention.to_v(near)], dim=1)
            mask = None if mask is None else functional.pad(mask, (0, near.shape[1]), value=True)
            return attention.read(query, key, value, mask)

        return attention.to_out[0](attention.looked(read, normed))


def neighbours(picture: Float[Tensor, "B C h w"]) -> Float[Tensor, "B S 8 C"]:
    """The eight pixels around every pixel, row by row, those outside replaced by the nearest inside."""
    padded = functional.pad(picture, (1, 1, 1, 1), mode="replicate")
    high, wide = picture.shape[2:]
    around = [
        padded[:, :, down : down + high, right : right + wide]
        for down in range(3)
        for right in range(3)
        if (down, right) != (1, 1)
    ]
    return torch.stack(around, dim=1).flatten(3).permute(0, 3, 1, 2)


def _along(layer: nn.Module, x: Pictures, frames: int) -> Pictures:
    return layer(x.unflatten(0, (-1, frames)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)


def _blended(alpha: Tensor, x: Tensor, y: Tensor) -> Tensor:
    share = alpha.clamp(0, 1)
    return share * x + (1 - share) * y
