"""STDiT3, the network of Open-Sora 1.2, with one time a latent frame (layout of `hpcai-tech/OpenSora-STDiT-v3`).

Pairs of blocks on tokens (B, T, S, C), T latent frames of S patches: the spatial one attends within a frame, the
temporal one along T at a place. Time enters as shift, scale and gate of every branch. Open-Sora trained with clean
condition frames, so it chooses between two modulations a frame (its `x_mask`); here every frame has its own, as
PA-VDM (arXiv 2410.08151) does, and two levels are a special case.

Deviations: text that a prompt does not fill is masked out of cross-attention, where the reference cuts it off before;
equal to rounding. Attention is torch's, which sums in float32 for half precision as the reference does.
Cost: one call is two passes of `depth` blocks over T * S tokens, attention over S and over T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from longtake.models.opensora_longer import OverTime


@dataclass(frozen=True)
class STDiT3Config:
    """Sizes of the network; the defaults are those of the published XL/2."""

    depth: int = 28
    hidden_size: int = 1152
    num_heads: int = 16
    mlp_ratio: float = 4.0
    in_channels: int = 4
    out_channels: int = 8
    patch_size: tuple[int, int, int] = (1, 2, 2)
    caption_channels: int = 4096
    model_max_length: int = 300
    input_sq_size: int = 512


class STDiT3(nn.Module):
    """The network: velocity x0 - noise of every latent frame, from frames, a time a frame, frame rate and text."""

    def __init__(self, config: STDiT3Config | None = None) -> None:
        super().__init__()
        self.config = config = config or STDiT3Config()
        width = config.hidden_size
        self.rope = _Rotary(width // config.num_heads)
        self.x_embedder = _Patches(config.in_channels, width, config.patch_size)
        self.t_embedder = _ScalarEmbedder(width)
        self.fps_embedder = _ScalarEmbedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedder = _Captions(config)
        hidden = int(width * config.mlp_ratio)
        self.spatial_blocks = nn.ModuleList(_Block(width, config.num_heads, hidden) for _ in range(config.depth))
        self.temporal_blocks = nn.ModuleList(_Block(width, config.num_heads, hidden, True) for _ in range(config.depth))
        self.final_layer = _Final(width, config.out_channels * config.patch_size[1] * config.patch_size[2])

    @property
    def null_text(self) -> Float[Tensor, "L D"]:
        """The text embedding that stands for no prompt, before the projection."""
        return self.y_embedder.y_embedding

    def forward(
        self,
        x: Float[Tensor, "B T C H W"],
        times: Float[Tensor, "B T"],
        text: Float[Tensor, "B L D"],
        mask: Bool[Tensor, "B L"],
        fps: Float[Tensor, "B"],  # noqa: F821 - a jaxtyping axis
    ) -> Float[Tensor, "B T C H W"]:
        """The velocity. `times` in 0..1000, one a frame; `mask` marks the text tokens that exist."""
        dtype = self.x_embedder.proj.weight.dtype
        height, width = x.shape[-2:]
        tokens, grid = self.x_embedder(x.to(dtype))
        tokens = tokens + self._positions(grid, height, width).to(tokens)
        # the reference casts times to the network's dtype before it embeds them
        embedded = self.t_embedder(times.to(tokens)) + self.fps_embedder(fps.to(tokens))[:, None]
        modulation = self.t_block(embedded).unflatten(-1, (6, -1))
        y = self.y_embedder(text.to(dtype))
        allowed = mask[:, None, None, :]
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            tokens = spatial(tokens, modulation, y, allowed, None)
            tokens = temporal(tokens, modulation, y, allowed, self.rope)
        out = self.final_layer(tokens, embedded)
        return self._unpatched(out, grid)[:, :, : self.config.in_channels, :height, :width]

    def _positions(self, grid: tuple[int, int], height: int, width: int) -> Float[Tensor, "S C"]:
        # pixels are eight to a latent: the spatial autoencoder's factor
        scale = 8 * (height * width) ** 0.5 / self.config.input_sq_size
        return position_table(self.config.hidden_size, grid, scale, round((grid[0] * grid[1]) ** 0.5))

    def _unpatched(self, out: Float[Tensor, "B T S P"], grid: tuple[int, int]) -> Float[Tensor, "B T C H W"]:
        _, high, wide = self.config.patch_size
        cells = out.unflatten(2, grid).unflatten(-1, (high, wide, -1))
        return cells.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


def position_table(dim: int, grid: tuple[int, int], scale: float, base: int) -> Float[Tensor, "S C"]:
    """Fixed sine and cosine positions of a (rows, columns) grid, row by row; first half of `dim` the column.

    A coordinate is index / scale * base / cells, so that pictures of any size and shape span the trained range.
    """
    rows, columns = grid
    ys = torch.arange(rows, dtype=torch.float32) / scale * base / rows
    xs = torch.arange(columns, dtype=torch.float32) / scale * base / columns
    quarter = dim // 4
    frequency = 10000 ** (-torch.arange(quarter, dtype=torch.float64) / quarter).to(torch.float32)

    def waves(places: Tensor) -> Tensor:
        angles = places[:, None] * frequency
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    across = waves(xs)[None].expand(rows, -1, -1)
    down = waves(ys)[:, None].expand(-1, columns, -1)
    return torch.cat([across, down], dim=-1).flatten(0, 1)


def sinusoid(values: Float[Tensor, "..."], dim: int = 256) -> Float[Tensor, "... dim"]:
    """Cosines, then sines, of `values` at frequencies from 1 down to 1 / 10000; float32."""
    half = dim // 2
    frequency = torch.exp(-torch.arange(half, dtype=torch.float32, device=values.device) * (9.210340371976184 / half))
    angles = values.float()[..., None] * frequency
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class _Rotary(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        frequencies = 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
        self.freqs = nn.Parameter(frequencies, requires_grad=False)

    def forward(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        # cosines and sines (T, dim), each frequency for two neighbouring channels
        places = torch.arange(count, dtype=torch.float32, device=device)
        angles = (places[:, None] * self.freqs.float()).repeat_interleave(2, dim=-1)
        return angles.cos(), angles.sin()


def _turned(x: Float[Tensor, "... T D"], turn: tuple[Tensor, Tensor]) -> Float[Tensor, "... T D"]:
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    crossed = torch.stack([-odd, even], dim=-1).flatten(-2)
    return (x.float() * turn[0] + crossed * turn[1]).to(x)


class _Patches(nn.Module):
    def __init__(self, channels: int, width: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(channels, width, patch, patch)

    def forward(self, x: Float[Tensor, "B T C H W"]) -> tuple[Float[Tensor, "B T S D"], tuple[int, int]]:
        bottom, right = -x.shape[-2] % self.patch[1], -x.shape[-1] % self.patch[2]
        cells = self.proj(functional.pad(x, (0, right, 0, bottom)).transpose(1, 2))
        return cells.permute(0, 2, 3, 4, 1).flatten(2, 3), (cells.shape[3], cells.shape[4])


class _ScalarEmbedder(nn.Module):
    def __init__(self, width: int, waves: int = 256) -> None:
        super().__init__()
        self.waves = waves
        self.mlp = nn.Sequential(nn.Linear(waves, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, values: Float[Tensor, "..."]) -> Float[Tensor, "... D"]:
        return self.mlp(sinusoid(values, self.waves).to(self.mlp[0].weight))


class _Mlp(nn.Module):
    def __init__(self, inner: int, hidden: int, outer: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inner, hidden)
        self.fc2 = nn.Linear(hidden, outer)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class _Captions(nn.Module):
    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        null = torch.randn(config.model_max_length, config.caption_channels) / config.caption_channels**0.5
        self.register_buffer("y_embedding", null)
        self.y_proj = _Mlp(config.caption_channels, config.hidden_size, config.hidden_size)

    def forward(self, text: Float[Tensor, "B L D"]) -> Float[Tensor, "B L C"]:
        return self.y_proj(text)


class _RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        scaled = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * scaled.to(x)


class _Attention(nn.Module):
    """Self-attention over the last axis but one; channels of `qkv` are (which of the three, head, dim)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = _RMSNorm(width // heads)
        self.k_norm = _RMSNorm(width // heads)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "N L C"], rope: _Rotary | None) -> Float[Tensor, "N L C"]:
        return self.proj(self.read(x, rope))

    def read(
        self, x: Float[Tensor, "N L C"], rope: _Rotary | None, mask: Tensor | None = None, sharpen: float = 1.0
    ) -> Float[Tensor, "N L C"]:
        """What is read, before the projection; `mask` is true where a token may read, `sharpen` scales queries."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self.q_norm(query), self.k_norm(key)
        if rope is not None:
            turn = rope(x.shape[1], x.device)
            query, key = _turned(query, turn), _turned(key, turn)
        out = functional.scaled_dot_product_attention(sharpen * query, key, value, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)


class _TimeAttention(_Attention, OverTime):
    """Along the frames at a place."""

    def forward(self, x: Float[Tensor, "N T C"], rope: _Rotary | None) -> Float[Tensor, "N T C"]:
        def read(part: Tensor, mask: Tensor | None = None, sharpen: float = 1.0) -> Tensor:
            return self.read(part, rope, mask, sharpen)

        return self.proj(self.looked(read, x))


class _CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "B N C"], y: Float[Tensor, "B L C"], allowed: Bool[Tensor, "B 1 1 L"]
    ) -> Float[Tensor, "B N C"]:
        query = self.q_linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.kv_linear(y).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.proj(out.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    """One block; with `rope` (rotations by place in time) it attends along time, without along space."""

    def __init__(self, width: int, heads: int, hidden: int, over_time: bool = False) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.attn = (_TimeAttention if over_time else _Attention)(width, heads)
        self.cross_attn = _CrossAttention(width, heads)
        self.mlp = _Mlp(width, hidden, width)

    def forward(
        self,
        x: Float[Tensor, "B T S C"],
        modulation: Float[Tensor, "B T 6 C"],
        y: Float[Tensor, "B L C"],
        allowed: Tensor,
        rope: _Rotary | None,
    ) -> Float[Tensor, "B T S C"]:
        parts = (self.scale_shift_table + modulation)[:, :, None].unbind(3)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        normed = _norm(x) * (1 + scale) + shift
        if rope is None:
            mixed = self.attn(normed.flatten(0, 1), None).unflatten(0, x.shape[:2])
        else:
            across = normed.transpose(1, 2)
            mixed = self.attn(across.flatten(0, 1), rope).unflatten(0, across.shape[:2]).transpose(1, 2)
        x = x + gate * mixed
        x = x + self.cross_attn(x.flatten(1, 2), y, allowed).unflatten(1, x.shape[1:3])
        return x + gate_mlp * self.mlp(_norm(x) * (1 + scale_mlp) + shift_mlp)


class _Final(nn.Module):
    def __init__(self, width: int, outer: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.linear = nn.Linear(width, outer)

    def forward(self, x: Float[Tensor, "B T S C"], embedded: Float[Tensor, "B T C"]) -> Float[Tensor, "B T S P"]:
        shift, scale = (self.scale_shift_table + embedded[:, :, None])[:, :, None].unbind(3)
        return self.linear(_norm(x) * (1 + scale) + shift)


def _norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)
