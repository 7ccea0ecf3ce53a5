"""ConsistI2V's network a second time, from weights by name: one video, frame by frame and pixel by pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    bias = w.get(f"{name}.bias")
    out = x @ w[f"{name}.weight"].T
    return out if bias is None else out + bias


def conv(w: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    size = w[f"{name}.weight"].shape[-1]
    return functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, size // 2)


def group(w: Weights, name: str, x: Tensor, groups: int, eps: float) -> Tensor:
    return functional.group_norm(x, groups, w[f"{name}.weight"], w[f"{name}.bias"], eps)


def layer(w: Weights, name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def waves(value: float, dim: int) -> Tensor:
    angles = [value * 10000 ** (-k / (dim // 2)) for k in range(dim // 2)]
    return torch.tensor([math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles])


def embedding(w: Weights, name: str, value: float) -> Tensor:
    hidden = waves(value, w[f"{name}.linear_1.weight"].shape[1])
    return linear(w, f"{name}.linear_2", functional.silu(linear(w, f"{name}.linear_1", hidden)))


def resnet(w: Weights, name: str, x: Tensor, emb: Tensor, groups: int) -> Tensor:
    hidden = conv(w, f"{name}.conv1", functional.silu(group(w, f"{name}.norm1", x, groups, 1e-5)))
    hidden = hidden + linear(w, f"{name}.time_emb_proj", functional.silu(emb))[:, :, None, None]
    hidden = conv(w, f"{name}.conv2", functional.silu(group(w, f"{name}.norm2", hidden, groups, 1e-5)))
    return hidden + (conv(w, f"{name}.conv_shortcut", x) if f"{name}.conv_shortcut.weight" in w else x)


def over_frames(w: Weights, name: str, x: Tensor, groups: int) -> Tensor:
    hidden = x
    for number in (1, 2):
        hidden = functional.silu(group(w, f"{name}.norm{number}", hidden, groups, 1e-6))
        kernel, bias = w[f"{name}.conv{number}.weight"][..., 0, 0], w[f"{name}.conv{number}.bias"]
        edge = torch.zeros_like(hidden[:1])
        padded = torch.cat([edge, hidden, edge])
        hidden = torch.stack(
            [
                sum(torch.einsum("oi,ihw->ohw", kernel[:, :, j], padded[f + j]) for j in range(3)) + bias[:, None, None]
                for f in range(len(x))
            ]
        )
    share = w[f"{name}.alpha"].clamp(0, 1)
    return share * x + (1 - share) * (x + hidden)


def attend(w: Weights, name: str, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """q (L, C), already projected; head by head."""
    dim, parts = q.shape[-1] // heads, []
    for head in range(heads):
        cut = slice(head * dim, (head + 1) * dim)
        parts.append((q[:, cut] @ k[:, cut].T / math.sqrt(dim)).softmax(-1) @ v[:, cut])
    return linear(w, f"{name}.to_out.0", torch.cat(parts, -1))


def feed(w: Weights, name: str, x: Tensor) -> Tensor:
    value, gate = linear(w, f"{name}.net.0.proj", x).chunk(2, dim=-1)
    return linear(w, f"{name}.net.2", value * functional.gelu(gate))


def spatial(w: Weights, name: str, x: Tensor, text: Tensor, heads: int, groups: int) -> Tensor:
    frames, _, high, wide = x.shape
    block = f"{name}.transformer_blocks.0"
    h = linear(w, f"{name}.proj_in", group(w, f"{name}.norm", x, groups, 1e-6).flatten(2).transpose(1, 2))
    normed, made = layer(w, f"{block}.norm1", h), []
    for f in range(frames):
        seen = torch.cat([normed[f], normed[0]])
        projected = [linear(w, f"{block}.attn1.{n}", part) for n, part in
                     (("to_q", normed[f]), ("to_k", seen), ("to_v", seen))]  # fmt: skip
        one = h[f] + attend(w, f"{block}.attn1", *projected, heads)
        projected = [linear(w, f"{block}.attn2.{n}", part) for n, part in
                     (("to_q", layer(w, f"{block}.norm2", one)), ("to_k", text), ("to_v", text))]  # fmt: skip
        one = one + attend(w, f"{block}.attn2", *projected, heads)
        made.append(one + feed(w, f"{block}.ff", layer(w, f"{block}.norm3", one)))
    out = linear(w, f"{name}.proj_out", torch.stack(made))
    return x + out.transpose(1, 2).reshape(frames, -1, high, wide)


def turned(x: Tensor) -> Tensor:
    """x (F, C): the first half of its channels, pair by pair, by the place of the frame."""
    half = x.shape[-1] // 2
    angle = torch.outer(torch.arange(len(x)).float(), 10000 ** (-torch.arange(0, half, 2) / half))
    pairs = torch.view_as_complex(x[:, :half].reshape(len(x), -1, 2).contiguous()) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat([torch.view_as_real(pairs).flatten(1), x[:, half:]], dim=-1)


def temporal(w: Weights, name: str, x: Tensor, text: Tensor, heads: int, groups: int) -> Tensor:
    _, _, high, wide = x.shape
    block = f"{name}.transformer_blocks.0"
    h = linear(w, f"{name}.proj_in", group(w, f"{name}.norm", x, groups, 1e-6).permute(0, 2, 3, 1))
    first, made = layer(w, f"{block}.norm1", h)[0], torch.zeros_like(h)
    for row in range(high):
        for column in range(wide):
            near = [
                first[min(max(row + down, 0), high - 1), min(max(column + right, 0), wide - 1)]
                for down in (-1, 0, 1)
                for right in (-1, 0, 1)
                if (down, right) != (0, 0)
            ]
            one, beside = h[:, row, column], torch.stack(near)
            normed = layer(w, f"{block}.norm1", one)
            q, k, v = (linear(w, f"{block}.attn1.{part}", normed) for part in ("to_q", "to_k", "to_v"))
            k = torch.cat([turned(k), linear(w, f"{block}.attn1.to_k", beside)])
            v = torch.cat([v, linear(w, f"{block}.attn1.to_v", beside)])
            one = one + attend(w, f"{block}.attn1", turned(q), k, v, heads)
            q = turned(linear(w, f"{block}.attn2.to_q", layer(w, f"{block}.norm2", one)))
            k, v = (linear(w, f"{block}.attn2.{part}", text) for part in ("to_k", "to_v"))
            one = one + attend(w, f"{block}.attn2", q, k, v, heads)
            made[:, row, column] = one + feed(w, f"{block}.ff", layer(w, f"{block}.norm3", one))
    out = x + linear(w, f"{name}.proj_out", made).permute(0, 3, 1, 2)
    share = w[f"{name}.alpha"].clamp(0, 1)
    return share * x + (1 - share) * out


def forward(w: Weights, sizes, x: Tensor, times: list[float], text: Tensor, stride: float) -> Tensor:
    """x (F, C, H, W), a time a frame; `sizes` is the network's configuration."""
    emb = torch.stack([embedding(w, "time_embedding", time) for time in times])
    emb = emb + embedding(w, "frame_stride_embedding", stride)
    groups, deepest = sizes.groups, len(sizes.channels) - 1

    def unit(block: str, number: int, h: Tensor, level: int, attends: bool) -> Tensor:
        h = resnet(w, f"{block}.resnets.{number}", h, emb, groups)
        h = over_frames(w, f"{block}.conv3ds.{number}", h, groups)
        if attends:
            h = spatial(w, f"{block}.attentions.{number}", h, text, sizes.heads[level], groups)
            h = temporal(w, f"{block}.tempo_attns.{number}", h, text, sizes.temporal_heads, groups)
        return h

    h = conv(w, "conv_in", x)
    kept = [h]
    for level in range(deepest + 1):
        for number in range(sizes.layers):
            h = unit(f"down_blocks.{level}", number, h, level, level < deepest)
            kept.append(h)
        if level < deepest:
            h = conv(w, f"down_blocks.{level}.downsamplers.0.conv", h, stride=2)
            kept.append(h)
    h = unit("mid_block", 0, h, deepest, False)
    h = spatial(w, "mid_block.attentions.0", h, text, sizes.heads[-1], groups)
    h = unit("mid_block", 1, h, deepest, False)
    for place, level in enumerate(range(deepest, -1, -1)):
        for number in range(sizes.layers + 1):
            h = unit(f"up_blocks.{place}", number, torch.cat([h, kept.pop()], dim=1), level, level < deepest)
        if level > 0:
            h = functional.interpolate(h, scale_factor=2, mode="nearest")
            h = conv(w, f"up_blocks.{place}.upsamplers.0.conv", h)
    return conv(w, "conv_out", functional.silu(group(w, "conv_norm_out", h, groups, 1e-5)))
