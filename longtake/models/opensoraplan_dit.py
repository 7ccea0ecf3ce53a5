"""The transformer of Open-Sora-Plan 1.3, text and image conditioned, with one time a latent frame.

Tokens are 2 x 2 patches of every latent frame in one sequence (T, H, W). Self-attention carries 3-D rotary positions;
in all but the first and last two layers it is sparse ("Skiparse"): the sequence is cut into k * k-periodic scopes, of
every k-th token in even layers and of every k-th group of k neighbours in odd ones, each attended to on its own. Time
enters as shift, scale and gate; here every frame has its own, which the regrouping inside attention does not touch.

The image-to-video network adds two patch embeddings, of the given frames' latents and of a mask, to that of the noise.

Deviations: tokens are (B, T, S, C) inside, where the reference has the tokens first; cross-attention is not regrouped,
which changes no number.
Cost: a call is `num_layers` blocks over N = T * H * W / 4 tokens; a sparse layer attends over N / k of them, k times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from longtake.models.opensora_stdit import sinusoid

OUT_OF_SCOPE, PADDING = -9980.0, -10000.0  # added to the scores of keys that do not exist, as the reference does


@dataclass(frozen=True)
class PlanConfig:
    """Sizes; the defaults are the published ones. `inpaint` is the image-to-video network."""

    num_layers: int = 32
    num_heads: int = 24
    head_dim: int = 96
    in_channels: int = 8
    out_channels: int = 8
    patch_size: int = 2
    caption_channels: int = 4096
    interpolation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sparse: int = 4
    dense_ends: int = 2
    inpaint: bool = False
    mask_channels: int = 4

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_heads * self.head_dim


class PlanTransformer(nn.Module):
    """The network: v-prediction of every latent frame from frames, a time a frame and text."""

    def __init__(self, config: PlanConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PlanConfig()
        width = config.width
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.caption_projection = _Captions(config.caption_channels, width)
        self.pos_embed = _Patches(config.in_channels, width, config.patch_size)
        self.transformer_blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.proj_out = nn.Linear(width, config.out_channels * config.patch_size**2)
        self.adaln_single = _Times(width)
        if config.inpaint:
            self.pos_embed_masked_hidden_states = _given(config.in_channels, config)
            self.pos_embed_mask = _given(config.mask_channels, config)

    def forward(
        self,
        x: Float[Tensor, "B T C H W"],
        times: Float[Tensor, "B T"],
        text: Float[Tensor, "B L D"],
        mask: Bool[Tensor, "B L"],
        given: Float[Tensor, "B T G H W"] | None = None,
    ) -> Float[Tensor, "B T C H W"]:
        """The prediction. `mask` marks text tokens; `given` holds the given frames' latents, then the mask, by channel.

        Raises ValueError if `given` is there and the network has no use for it, or the reverse.
        """
        if (given is not None) != self.config.inpaint:
            raise ValueError("given frames belong to the image-to-video network, which cannot do without")
        tokens, grid = self._embedded(x, given)
        place = (x.shape[1], *grid)
        embedded, modulation = self.adaln_single(times.to(tokens))
        y = self.caption_projection(text.to(tokens))
        bias = (~mask).to(tokens)[:, None, None, :] * PADDING
        turn = rotations(self.config.head_dim, place, self.config.interpolation, x.device)
        count = tokens.shape[1] * tokens.shape[2]
        sparse = [regrouping(count, self.config.sparse, grouped, tokens) for grouped in (False, True)]
        first, end = self.config.dense_ends, self.config.num_layers - self.config.dense_ends
        for number, block in enumerate(self.transformer_blocks):
            regroup = sparse[number % 2] if first <= number < end else None
            tokens = block(tokens, modulation, y, bias, turn, regroup)
        shift, scale = (self.scale_shift_table + embedded[:, :, None])[:, :, None].unbind(3)
        out = self.proj_out(_norm(tokens) * (1 + scale) + shift)
        size = self.config.patch_size
        cells = out.unflatten(2, grid).unflatten(-1, (size, size, -1))
        return cells.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _embedded(self, x: Tensor, given: Tensor | None) -> tuple[Float[Tensor, "B T S C"], tuple[int, int]]:
        weight = self.pos_embed.proj.weight
        tokens, grid = self.pos_embed(x.to(weight))
        if given is not None:
            frames, mask = given.to(weight).split([self.config.in_channels, self.config.mask_channels], dim=2)
            for layers, part in ((self.pos_embed_masked_hidden_states, frames), (self.pos_embed_mask, mask)):
                tokens = tokens + layers[1](layers[0](part)[0])
        return tokens, grid


def scopes(count: int, k: int, grouped: bool) -> Int[Tensor, "k M"]:
    """The tokens that each of the k scopes attends to, numbers from `count` on being padding up to k * k."""
    places = torch.arange(count + -count % (k * k))
    if grouped:
        return places.reshape(-1, k, k).transpose(0, 1).flatten(1)
    return places.reshape(-1, k).T


class Regrouping(NamedTuple):
    """How a sequence is cut into scopes and put together again; `bias` hides padded keys, None if there are none."""

    scope: Int[Tensor, "k M"]
    back: Int[Tensor, "N"]  # noqa: F821 - a jaxtyping axis
    bias: Float[Tensor, "1 k 1 1 M"] | None


def regrouping(count: int, k: int, grouped: bool, like: Tensor) -> Regrouping:
    """The regrouping of `count` tokens, on the device and in the dtype of `like`."""
    scope = scopes(count, k, grouped)
    padding = scope >= count
    bias = (padding.to(like) * OUT_OF_SCOPE)[None, :, None, None, :] if bool(padding.any()) else None
    return Regrouping(scope.to(like.device), scope.flatten().argsort()[:count].to(like.device), bias)


def rotations(
    dim: int, place: tuple[int, int, int], interpolation: Sequence[float], device: torch.device | None = None
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
    """Cosines and sines of the 3-D rotary positions of a (T, H, W) grid; a third of the channels for each axis."""
    third = dim // 3
    frequency = 10000 ** (-torch.arange(0, third, 2, dtype=torch.float32, device=device) / third)
    angles = []
    for axis, (count, stretch) in enumerate(zip(place, interpolation, strict=True)):
        along = torch.arange(count, dtype=torch.float32, device=device) / stretch
        waves = (along[:, None] * frequency).repeat(1, 2)
        shape = [count if a == axis else 1 for a in range(3)]
        angles.append(waves.reshape(*shape, third).expand(*place, -1))
    whole = torch.cat(angles, dim=-1).flatten(0, 2)
    return whole.cos(), whole.sin()


def turned(x: Float[Tensor, "... N D"], turn: tuple[Tensor, Tensor]) -> Float[Tensor, "... N D"]:
    """Rotate channel i of each axis's third with channel i + half of that third."""
    halves = x.float().unflatten(-1, (3, 2, -1))
    crossed = torch.stack([-halves[..., 1, :], halves[..., 0, :]], dim=-2).flatten(-3)
    return (x.float() * turn[0] + crossed * turn[1]).to(x)


class _Patches(nn.Module):
    def __init__(self, channels: int, width: int, size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, size, size)

    def forward(self, x: Float[Tensor, "B T C H W"]) -> tuple[Float[Tensor, "B T S C"], tuple[int, int]]:
        cells = self.proj(x.flatten(0, 1))
        return cells.flatten(2).transpose(1, 2).unflatten(0, x.shape[:2]), (cells.shape[2], cells.shape[3])


def _given(channels: int, config: PlanConfig) -> nn.Sequential:
    linear = nn.Linear(config.width, config.width, bias=False)
    nn.init.zeros_(linear.weight)  # where its training began: a condition that changes nothing
    return nn.Sequential(_Patches(channels, config.width, config.patch_size), linear)


class _Captions(nn.Module):
    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inner, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, text: Tensor) -> Tensor:
        return self.linear_2(functional.gelu(self.linear_1(text), approximate="tanh"))


class _Times(nn.Module):
    """A time a frame to what the last layer adds (C) and to the six modulations of the blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.emb = nn.Module()
        self.emb.timestep_embedder = embedder = nn.Module()
        embedder.linear_1 = nn.Linear(256, width)
        embedder.linear_2 = nn.Linear(width, width)
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, times: Float[Tensor, "B T"]) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T 6 C"]]:
        embedder = self.emb.timestep_embedder
        hidden = embedder.linear_1(sinusoid(times).to(self.linear.weight))
        embedded = embedder.linear_2(functional.silu(hidden))
        return embedded, self.linear(functional.silu(embedded)).unflatten(-1, (6, -1))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
        """Cross-attention from x (B, N, C) to y (B, L, C)."""
        out = functional.scaled_dot_product_attention(*self.parts(x, y), attn_mask=bias)
        return self.to_out[0](out.transpose(1, 2).flatten(2))

    def parts(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, heads, N, dim)."""
        query, key, value = (
            layer(part).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, part in ((self.to_q, x), (self.to_k, y), (self.to_v, y))
        )
        return query, key, value


class _Block(nn.Module):
    def __init__(self, config: PlanConfig) -> None:
        super().__init__()
        width = config.width
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.attn1 = _Attention(width, config.num_heads)
        self.attn2 = _Attention(width, config.num_heads)
        self.ff = nn.Module()
        gate = nn.Module()
        gate.proj = nn.Linear(width, 4 * width)
        self.ff.net = nn.ModuleList([gate, nn.Identity(), nn.Linear(4 * width, width)])

    def forward(
        self,
        x: Float[Tensor, "B T S C"],
        modulation: Float[Tensor, "B T 6 C"],
        y: Float[Tensor, "B L C"],
        bias: Tensor,
        turn: tuple[Tensor, Tensor],
        regroup: Regrouping | None,
    ) -> Float[Tensor, "B T S C"]:
        parts = (self.scale_shift_table + modulation)[:, :, None].unbind(3)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        frames = x.shape[1:3]
        mixed = self._attended((_norm(x) * (1 + scale) + shift).flatten(1, 2), turn, regroup)
        x = x + gate * mixed.unflatten(1, frames)
        # of the stream as it is: no norm before the text
        x = x + self.attn2(x.flatten(1, 2), y, bias).unflatten(1, frames)
        hidden = self.ff.net[0].proj(_norm(x) * (1 + scale_mlp) + shift_mlp)
        return x + gate_mlp * self.ff.net[2](functional.gelu(hidden, approximate="tanh"))

    def _attended(self, x: Tensor, turn: tuple[Tensor, Tensor], regroup: Regrouping | None) -> Tensor:
        query, key, value = self.attn1.parts(x, x)
        query, key = turned(query, turn), turned(key, turn)
        if regroup is None:
            out = functional.scaled_dot_product_attention(query, key, value)
        else:
            out = _within(query, key, value, regroup)
        return self.attn1.to_out[0](out.transpose(1, 2).flatten(2))


def _within(query: Tensor, key: Tensor, value: Tensor, regroup: Regrouping) -> Float[Tensor, "B h N d"]:
    # attention inside every scope, back in the order of the sequence, the padding cut off
    missing = regroup.scope.numel() - query.shape[2]
    query, key, value = (
        functional.pad(part, (0, 0, 0, missing))[:, :, regroup.scope].transpose(1, 2) for part in (query, key, value)
    )
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=regroup.bias)
    return out.transpose(1, 2).flatten(2, 3)[:, :, regroup.back]


def _norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)
