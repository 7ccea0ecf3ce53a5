"""Open-Sora-Plan's transformer and autoencoder a second time, from weights by name: masks, loops, sums."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from tests.opensora_reference import linear, norm

Weights = dict[str, Tensor]


def embedded(w: Weights, time: float) -> Tensor:
    waves = [time * 10000 ** (-k / 128) for k in range(128)]
    row = torch.tensor([math.cos(wave) for wave in waves] + [math.sin(wave) for wave in waves])
    name = "adaln_single.emb.timestep_embedder"
    return linear(w, f"{name}.linear_2", functional.silu(linear(w, f"{name}.linear_1", row)))


def turned(x: Tensor, places: list[tuple[int, int, int]]) -> Tensor:
    """x (N, dim) of one head, token by token."""
    third, out = x.shape[-1] // 3, x.clone()
    for token, place in enumerate(places):
        for axis, where in enumerate(place):
            for k in range(third // 2):
                angle = where * 10000 ** (-2 * k / third)
                one, two = axis * third + k, axis * third + third // 2 + k
                a, b = x[token, one], x[token, two]
                out[token, one] = a * math.cos(angle) - b * math.sin(angle)
                out[token, two] = b * math.cos(angle) + a * math.sin(angle)
    return out


def attention(w: Weights, name: str, x: Tensor, y: Tensor, heads: int, bias: Tensor | None, places=None) -> Tensor:
    q, k, v = linear(w, f"{name}.to_q", x), linear(w, f"{name}.to_k", y), linear(w, f"{name}.to_v", y)
    dim, parts = q.shape[-1] // heads, []
    for head in range(heads):
        cut = slice(head * dim, (head + 1) * dim)
        one, two = (part[:, cut] if places is None else turned(part[:, cut], places) for part in (q, k))
        scores = one @ two.T / math.sqrt(dim)
        parts.append((scores if bias is None else scores + bias).softmax(-1) @ v[:, cut])
    return linear(w, f"{name}.to_out.0", torch.cat(parts, -1))


def forward(w: Weights, heads: int, depth: int, x: Tensor, time: float, text: Tensor, given: Tensor | None = None):
    """One video x (T, C, H, W) at one time."""
    frames, channels, height, width = x.shape

    def patches(name: str, part: Tensor) -> Tensor:
        cells = functional.conv2d(part, w[f"{name}.proj.weight"], w[f"{name}.proj.bias"], stride=2)
        return cells.permute(0, 2, 3, 1).flatten(0, 2)

    h = patches("pos_embed", x)
    if given is not None:
        h = h + patches("pos_embed_masked_hidden_states.0", given[:, :channels]) @ w[
            "pos_embed_masked_hidden_states.1.weight"].T  # fmt: skip
        h = h + patches("pos_embed_mask.0", given[:, channels:]) @ w["pos_embed_mask.1.weight"].T
    places = [(t, r, c) for t in range(frames) for r in range(height // 2) for c in range(width // 2)]
    count = len(places)
    e = embedded(w, time)
    six = linear(w, "adaln_single.linear", functional.silu(e)).reshape(6, -1)
    y = linear(w, "caption_projection.linear_1", text)
    y = linear(w, "caption_projection.linear_2", functional.gelu(y, approximate="tanh"))
    for layer in range(depth):
        name = f"transformer_blocks.{layer}"
        shift, scale, gate, shift2, scale2, gate2 = w[f"{name}.scale_shift_table"] + six
        bias = None
        if 2 <= layer < depth - 2:
            group = [(i // 4) % 4 if layer % 2 else i % 4 for i in range(count)]
            bias = torch.tensor([[0.0 if a == b else -math.inf for b in group] for a in group])
        normed = norm(h) * (1 + scale) + shift
        h = h + gate * attention(w, f"{name}.attn1", normed, normed, heads, bias, places)
        h = h + attention(w, f"{name}.attn2", h, y, heads, None)
        hidden = linear(w, f"{name}.ff.net.0.proj", norm(h) * (1 + scale2) + shift2)
        h = h + gate2 * linear(w, f"{name}.ff.net.2", functional.gelu(hidden, approximate="tanh"))
    shift, scale = w["scale_shift_table"] + e
    out = linear(w, "proj_out", norm(h) * (1 + scale) + shift)
    made = torch.zeros(frames, out.shape[-1] // 4, height, width)
    for cell, (t, r, c) in zip(out, places, strict=True):
        made[t, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2] = cell.reshape(2, 2, -1).permute(2, 0, 1)
    return made


# -- the autoencoder: x is (C, T, H, W) throughout -----------------------------------------------------------------


def frames_of(w: Weights, name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    kernel, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    return functional.conv2d(x.transpose(0, 1), kernel, bias, stride, padding).transpose(0, 1)


def causal(w: Weights, name: str, x: Tensor, stride: int = 1, sides: tuple[int, ...] = (1, 1, 1, 1)) -> Tensor:
    kernel, bias = w[f"{name}.conv.weight"], w[f"{name}.conv.bias"]
    size = kernel.shape[2]
    sides = sides if size > 1 else (0, 0, 0, 0)
    seen = torch.cat([x[:, :1]] * (size - 1) + [x], dim=1)
    out = []
    for start in range(0, seen.shape[1] - size + 1, stride):
        parts = [
            functional.conv2d(functional.pad(seen[:, start + j], sides)[None], kernel[:, :, j], stride=stride)[0]
            for j in range(size)
        ]
        out.append(sum(parts) + bias[:, None, None])
    return torch.stack(out, dim=1)


def channels_normed(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(0, keepdim=True)
    scaled = centred / (x.var(0, correction=0, keepdim=True) + 1e-6).sqrt()
    return scaled * w[f"{name}.norm.weight"][:, None, None, None] + w[f"{name}.norm.bias"][:, None, None, None]


def residual(w: Weights, name: str, x: Tensor) -> Tensor:
    flat = f"{name}.conv1.weight" in w
    hidden = x
    for number in (1, 2):
        hidden = functional.silu(channels_normed(w, f"{name}.norm{number}", hidden))
        conv = f"{name}.conv{number}"
        hidden = frames_of(w, conv, hidden) if flat else causal(w, conv, hidden)
    return hidden + (causal(w, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.conv.weight" in w else x)


def looked(w: Weights, name: str, x: Tensor) -> Tensor:
    normed = channels_normed(w, f"{name}.norm", x)
    q, k, v = (causal(w, f"{name}.{part}", normed).flatten(2) for part in "qkv")
    out = torch.stack(
        [v[:, t] @ (q[:, t].T @ k[:, t] / math.sqrt(len(x))).softmax(-1).T for t in range(x.shape[1])], dim=1
    )
    return x + causal(w, f"{name}.proj_out", out.reshape(x.shape))


def haar(x: Tensor) -> Tensor:
    """Eight bands of 2 x 2 x 2 cells behind a repeated first frame, by sums and differences."""
    seen = torch.cat([x[:, :1], x], dim=1)
    parts = [seen]
    for axis in (1, 2, 3):
        parts = [
            half
            for part in parts
            for even, odd in [(part.unflatten(axis, (-1, 2)).select(axis + 1, place) for place in (0, 1))]
            for half in (even + odd, even - odd)
        ]
    return 0.3536 * torch.cat(parts)


def unhaar(x: Tensor) -> Tensor:
    """The way back: each band spread over its cell with its signs; the first frame dropped."""
    bands = x.chunk(8)
    made = torch.zeros(len(bands[0]), *[2 * side for side in x.shape[1:]])
    for number, band in enumerate(bands):
        for t in (0, 1):
            for r in (0, 1):
                for c in (0, 1):
                    sign = (-1) ** ((number >> 2 & 1) * t + (number >> 1 & 1) * r + (number & 1) * c)
                    made[:, t::2, r::2, c::2] += 0.3536 * sign * band
    return made[:, 1:]


def haar2d(x: Tensor) -> Tensor:
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return 0.5 * torch.cat([a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d])


def unhaar2d(x: Tensor) -> Tensor:
    p, q, r, s = x.chunk(4)
    made = torch.zeros(len(p), p.shape[1], 2 * p.shape[2], 2 * p.shape[3])
    made[..., ::2, ::2], made[..., ::2, 1::2] = p + q + r + s, p + q - r - s
    made[..., 1::2, ::2], made[..., 1::2, 1::2] = p - q + r - s, p - q - r + s
    return 0.5 * made


def encode(w: Weights, pixels: Tensor) -> Tensor:
    """Mean and log variance of pixels (3, T, H, W)."""
    bands = haar(pixels)
    lower = haar2d(bands[:3])
    lowest = haar(lower[:3])
    x = frames_of(w, "encoder.down1.0", bands)
    x = residual(w, "encoder.down1.2", residual(w, "encoder.down1.1", x))
    x = frames_of(w, "encoder.down1.3.conv", functional.pad(x, (0, 1, 0, 1)), 2, 0)
    x = frames_of(w, "encoder.down2.0", torch.cat([x, frames_of(w, "encoder.connect_l1", lower)]))
    x = residual(w, "encoder.down2.2", residual(w, "encoder.down2.1", x))
    x = causal(w, "encoder.down2.3.conv", x, 2, (0, 1, 0, 1))
    x = torch.cat([x, frames_of(w, "encoder.connect_l2", lowest)])
    x = residual(w, "encoder.mid.2", looked(w, "encoder.mid.1", residual(w, "encoder.mid.0", x)))
    return causal(w, "encoder.conv_out", functional.silu(channels_normed(w, "encoder.norm_out", x)))


def decode(w: Weights, z: Tensor, flow: int) -> Tensor:
    """Pixels of latents z (C, F, h, w) before scaling, all at once."""

    def side(name: str, x: Tensor) -> Tensor:
        return frames_of(w, f"{name}.2", residual(w, f"{name}.1", residual(w, f"{name}.0", x)))

    x = residual(w, "decoder.mid.0", causal(w, "decoder.conv_in", z))
    x = residual(w, "decoder.mid.2", looked(w, "decoder.mid.1", x))
    low = unhaar(side("decoder.connect_l2", x[-flow:]))
    x = residual(w, "decoder.up2.1", residual(w, "decoder.up2.0", x[:-flow]))
    later = x[:, 1:]
    if later.shape[1]:
        size = (2 * later.shape[1], *later.shape[2:])
        later = functional.interpolate(later[None], size, mode="trilinear")[0]
    x = torch.cat([x[:, :1], later], dim=1)
    big = (x.shape[1], 2 * x.shape[2], 2 * x.shape[3])
    x = causal(w, "decoder.up2.2.conv", functional.interpolate(x[None], big, mode="trilinear")[0])
    x = residual(w, "decoder.up2.3", x)
    bands = side("decoder.connect_l1", x[-flow:])
    low = unhaar2d(torch.cat([bands[:3] + low, bands[3:]]))
    x = residual(w, "decoder.up1.1", residual(w, "decoder.up1.0", x[:-flow]))
    x = frames_of(w, "decoder.up1.2.conv", functional.interpolate(x.transpose(0, 1), scale_factor=2).transpose(0, 1))
    x = residual(w, "decoder.up1.3", x)
    x = residual(w, "decoder.layer.1", residual(w, "decoder.layer.0", x))
    bands = frames_of(w, "decoder.conv_out", functional.silu(channels_normed(w, "decoder.norm_out", x)))
    return unhaar(torch.cat([bands[:3] + low, bands[3:]]))
