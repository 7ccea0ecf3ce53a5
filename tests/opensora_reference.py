"""STDiT3 and its temporal autoencoder a second time, from weights by name: scalar times, loops and complex numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(w, f"{name}.fc2", functional.gelu(linear(w, f"{name}.fc1", x), approximate="tanh"))


def norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()


def embedded(w: Weights, name: str, value: float) -> Tensor:
    waves = [value * 10000 ** (-k / 128) for k in range(128)]
    row = torch.tensor([math.cos(wave) for wave in waves] + [math.sin(wave) for wave in waves])
    return linear(w, f"{name}.mlp.2", functional.silu(linear(w, f"{name}.mlp.0", row)))


def attention(w: Weights, name: str, x: Tensor, heads: int, turn: bool) -> Tensor:
    """x (L, C): one sequence, head by head."""
    length, width = x.shape
    dim = width // heads
    qkv = linear(w, f"{name}.qkv", x)
    out = []
    for head in range(heads):
        q, k, v = (qkv[:, part * width + head * dim : part * width + (head + 1) * dim] for part in range(3))
        q = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.q_norm.weight"]
        k = k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.k_norm.weight"]
        if turn:
            angle = torch.outer(torch.arange(length).float(), w["rope.freqs"])
            phase = torch.polar(torch.ones_like(angle), angle)
            q, k = (
                torch.view_as_real(torch.view_as_complex(part.reshape(length, -1, 2).contiguous()) * phase).flatten(1)
                for part in (q, k)
            )
        out.append((q @ k.T / math.sqrt(dim)).softmax(-1) @ v)
    return linear(w, f"{name}.proj", torch.cat(out, -1))


def cross(w: Weights, name: str, x: Tensor, y: Tensor, heads: int) -> Tensor:
    q, (k, v) = linear(w, f"{name}.q_linear", x), linear(w, f"{name}.kv_linear", y).chunk(2, dim=-1)
    dim = q.shape[-1] // heads
    parts = []
    for head in range(heads):
        cut = slice(head * dim, (head + 1) * dim)
        parts.append((q[:, cut] @ k[:, cut].T / math.sqrt(dim)).softmax(-1) @ v[:, cut])
    return linear(w, f"{name}.proj", torch.cat(parts, -1))


def positions(width: int, rows: int, columns: int, scale: float) -> Tensor:
    base, quarter = round(math.sqrt(rows * columns)), width // 4
    table = torch.zeros(rows * columns, width)
    for row in range(rows):
        for column in range(columns):
            for k in range(quarter):
                speed = 10000 ** (-2 * k / (width // 2))
                across, down = column / scale * base / columns * speed, row / scale * base / rows * speed
                table[row * columns + column, [k, quarter + k, 2 * quarter + k, 3 * quarter + k]] = torch.tensor(
                    [math.sin(across), math.cos(across), math.sin(down), math.cos(down)]
                )
    return table


def forward(w: Weights, heads: int, depth: int, x: Tensor, time: float, clean: list[bool], text: Tensor, fps: float):
    """One video x (T, C, H, W): frames marked `clean` are modulated by time 0, the others by `time`."""
    frames, channels, height, width = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    padded = torch.zeros(frames, channels, 2 * rows, 2 * columns)
    padded[:, :, :height, :width] = x
    kernel, bias = w["x_embedder.proj.weight"][:, :, 0], w["x_embedder.proj.bias"]
    h = functional.conv2d(padded, kernel, bias, stride=2).flatten(2).transpose(1, 2)
    h = h + positions(h.shape[-1], rows, columns, math.sqrt(64 * height * width) / 512)
    y = mlp(w, "y_embedder.y_proj", text)
    both = {}
    for flag, value in ((False, time), (True, 0.0)):
        e = embedded(w, "t_embedder", value) + embedded(w, "fps_embedder", fps)
        both[flag] = e, linear(w, "t_block.1", functional.silu(e)).reshape(6, -1)
    for layer in range(depth):
        for kind in ("spatial_blocks", "temporal_blocks"):
            name = f"{kind}.{layer}"
            six = torch.stack([w[f"{name}.scale_shift_table"] + both[flag][1] for flag in clean])[:, :, None]
            shift, scale, gate, shift2, scale2, gate2 = six.unbind(1)
            normed = norm(h) * (1 + scale) + shift
            if kind == "spatial_blocks":
                mixed = torch.stack([attention(w, f"{name}.attn", frame, heads, False) for frame in normed])
            else:
                places = [attention(w, f"{name}.attn", normed[:, s], heads, True) for s in range(rows * columns)]
                mixed = torch.stack(places, dim=1)
            h = h + gate * mixed
            h = h + cross(w, f"{name}.cross_attn", h.flatten(0, 1), y, heads).reshape(h.shape)
            h = h + gate2 * mlp(w, f"{name}.mlp", norm(h) * (1 + scale2) + shift2)
    ends = torch.stack([w["final_layer.scale_shift_table"] + both[flag][0] for flag in clean])[:, :, None]
    out = linear(w, "final_layer.linear", norm(h) * (1 + ends[:, 1]) + ends[:, 0])
    made = torch.zeros(frames, 8, 2 * rows, 2 * columns)
    for row in range(rows):
        for column in range(columns):
            cell = out[:, row * columns + column].reshape(frames, 2, 2, 8).permute(0, 3, 1, 2)
            made[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = cell
    return made[:, :channels, :height, :width]


def causal(w: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """x (C, T, H, W), frame by frame: a frame of the result sees `kernel` frames that end at its own."""
    kernel = w[f"{name}.conv.weight"]
    size, bias = kernel.shape[2], w.get(f"{name}.conv.bias")
    padded = torch.cat([torch.zeros_like(x[:, :1])] * (size - stride) + [x], dim=1)
    out = []
    for start in range(0, padded.shape[1] - size + 1, stride):
        seen = [
            functional.conv2d(padded[None, :, start + j], kernel[:, :, j], padding=kernel.shape[-1] // 2)[0]
            for j in range(size)
        ]
        out.append(sum(seen))
    made = torch.stack(out, dim=1)
    return made if bias is None else made + bias[:, None, None, None]


def groupnorm(w: Weights, name: str, x: Tensor, groups: int) -> Tensor:
    return functional.silu(functional.group_norm(x[None], groups, w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)[0])


def residual(w: Weights, name: str, x: Tensor, groups: int) -> Tensor:
    hidden = causal(w, f"{name}.conv1", groupnorm(w, f"{name}.norm1", x, groups))
    hidden = causal(w, f"{name}.conv2", groupnorm(w, f"{name}.norm2", hidden, groups))
    return hidden + (causal(w, f"{name}.conv3", x) if f"{name}.conv3.conv.weight" in w else x)


def temporal_decode(w: Weights, z: Tensor, groups: int, blocks: int) -> Tensor:
    """z (4, F, H, W) to (4, 4 F, H, W): every frame of the decoder, none cut off."""
    x = causal(w, "decoder.conv1", causal(w, "post_quant_conv", z))
    for block in range(blocks):
        x = residual(w, f"decoder.res_blocks.{block}", x, groups)
    for group in (3, 2, 1, 0):
        for block in range(blocks):
            x = residual(w, f"decoder.block_res_blocks.{group}.{block}", x, groups)
        if group in (3, 2):
            y = causal(w, f"decoder.conv_blocks.{group - 1}", x)
            x = torch.stack([frame[phase::2] for frame in y.unbind(1) for phase in (0, 1)], dim=1)
    return causal(w, "decoder.conv_out", groupnorm(w, "decoder.norm1", x, groups))


def temporal_encode(w: Weights, x: Tensor, groups: int, blocks: int) -> Tensor:
    """x (4, T, H, W), T a multiple of 4, to the mean (4, T / 4, H, W)."""
    x = causal(w, "encoder.conv_in", x)
    for group in range(4):
        for block in range(blocks):
            x = residual(w, f"encoder.block_res_blocks.{group}.{block}", x, groups)
        if group in (1, 2):
            x = causal(w, f"encoder.conv_blocks.{group}", x, stride=2)
    for block in range(blocks):
        x = residual(w, f"encoder.res_blocks.{block}", x, groups)
    x = causal(w, "encoder.conv2", groupnorm(w, "encoder.norm1", x, groups))
    return causal(w, "quant_conv", x)[:4]
