"""Latte-XL/2 for UCF-101 (Ma et al. 2024), class-conditional, with one noise level a row.

Another network than the text-to-video one of diffusers: one list of blocks, spatial ones at even places and temporal
ones at odd places, each with a modulation of its own from time and class; positions are stored. The published network
hands one condition to every place of a sequence over time; here each frame brings its own. Parameters have the names
and shapes of the published checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from longtake.models.latte_rows import unpatched
from longtake.models.videocrafter_blocks import sinusoid


@dataclass(frozen=True)
class LatteConfig:
    """The sizes of the network; the defaults are the published ones. side: of the latent, square; frames: a window."""

    width: int = 1152
    depth: int = 28
    heads: int = 16
    patch: int = 2
    channels: int = 4
    side: int = 32
    frames: int = 16
    classes: int = 101
    time_width: int = 256


class _Patches(nn.Module):
    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.channels, config.width, config.patch, stride=config.patch)


class _Times(nn.Module):
    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        width = config.width
        self.mlp = nn.Sequential(nn.Linear(config.time_width, width), nn.SiLU(), nn.Linear(width, width))


class _Labels(nn.Module):
    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.classes + 1, config.width)  # the last row stands for no class


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        read = functional.scaled_dot_product_attention(queries, keys, values)
        return self.proj(read.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


def _norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = _Attention(width, heads)
        self.mlp = _Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Float[Tensor, "N L D"], cond: Float[Tensor, "N L1 D"]) -> Float[Tensor, "N L D"]:
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.adaLN_modulation(cond).chunk(6, dim=-1)
        x = x + gate * self.attn(_norm(x) * (1 + scale) + shift)
        return x + gate_ff * self.mlp(_norm(x) * (1 + scale_ff) + shift_ff)


class _Head(nn.Module):
    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.width, config.patch**2 * 2 * config.channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 2 * config.width))

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(cond).chunk(2, dim=-1)
        return self.linear(_norm(x) * (1 + scale) + shift)


class LatteUCF(nn.Module):
    """Predicts the noise and, behind it, a variance. Its state dict has the names and shapes of the checkpoint."""

    def __init__(self, config: LatteConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LatteConfig()
        tokens = (config.side // config.patch) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, config.width), requires_grad=False)
        self.temp_embed = nn.Parameter(torch.zeros(1, config.frames, config.width), requires_grad=False)
        self.x_embedder, self.t_embedder, self.y_embedder = _Patches(config), _Times(config), _Labels(config)
        self.blocks = nn.ModuleList(_Block(config.width, config.heads) for _ in range(config.depth))
        self.final_layer = _Head(config)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.final_layer.linear.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.final_layer.linear.weight.device

    def forward(
        self, x: Float[Tensor, "B F C H W"], times: Float[Tensor, "B F"], label: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B F C2 H W"]:
        """Noise and variance of each frame, given the training time of each and the embedded class of each clip."""
        config, (batch, num_rows) = self.config, times.shape
        cond = self.t_embedder.mlp(sinusoid(times.flatten(), config.time_width).to(x.dtype))
        cond = cond.unflatten(0, (batch, num_rows)) + label[:, None]
        over_space = cond.flatten(0, 1)[:, None]  # ((B F), 1, D)
        tokens = self.x_embedder.proj(x.flatten(0, 1)).flatten(2).transpose(1, 2) + self.pos_embed
        over_time = cond[:, None].expand(-1, tokens.shape[1], -1, -1).flatten(0, 1)  # ((B S), F, D)
        for number in range(0, config.depth, 2):
            tokens = self.blocks[number](tokens, over_space)
            sequences = tokens.unflatten(0, (batch, num_rows)).transpose(1, 2).flatten(0, 1)
            if number == 0:
                sequences = sequences + self.temp_embed[:, :num_rows]
            sequences = self.blocks[number + 1](sequences, over_time)
            tokens = sequences.unflatten(0, (batch, -1)).transpose(1, 2).flatten(0, 1)
        grid = (config.side // config.patch,) * 2
        out = unpatched(self.final_layer(tokens, over_space), grid, config.patch)
        return out.unflatten(0, (batch, num_rows))
