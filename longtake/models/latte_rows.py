"""Latte's text-to-video transformer (Ma et al. 2024) with one noise level a row.

diffusers' forward embeds one time a sample and hands it to all frames. This is that forward again, over the same
modules, with a time a row: its modulation goes to the frame's own tokens in the blocks over space and in the head, and
to the frame's place in every sequence of the blocks over time. Equal rows give the stock forward; the module is left
as it is.
"""

from __future__ import annotations

import diffusers
import torch
from jaxtyping import Float
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models.place import visiting


def forward_rows(
    transformer: nn.Module,
    x: Float[Tensor, "B F C H W"],
    times: Float[Tensor, "B F"],
    text: Float[Tensor, "B L D"],
    lengths: list[int] | None = None,
    home: torch.device | None = None,
) -> Float[Tensor, "B F C2 H W"]:
    """What diffusers' `LatteTransformer3DModel` predicts when each row has its own time.

    lengths  how many of the text's tokens each window reads, the first ones; all by default
    home     where blocks come to one after the other from the host's memory, with all else already there
    """
    batch, num_rows, _, height, width = x.shape
    patch = transformer.config.patch_size
    tokens = transformer.pos_embed(x.flatten(0, 1))  # ((B F), S, D)
    modulation, embedded = transformer.adaln_single(
        times.flatten(), {"resolution": None, "aspect_ratio": None}, batch * num_rows, tokens.dtype
    )
    spatial = modulation.unflatten(1, (6, -1))[:, None]  # ((B F), 1, 6, D)
    temporal = spatial.unflatten(0, (batch, num_rows))[:, None, :, 0]  # (B, 1, F, 6, D)
    temporal = temporal.expand(-1, tokens.shape[1], -1, -1, -1).flatten(0, 1)  # ((B S), F, 6, D)
    words = transformer.caption_projection(text).repeat_interleave(num_rows, 0)
    mask = _mask(lengths, text, num_rows)
    pairs = zip(transformer.transformer_blocks, transformer.temporal_transformer_blocks, strict=True)
    for number, (over_space, over_time) in enumerate(pairs):
        with visiting(over_space, home):
            tokens = block(over_space, tokens, spatial, words, mask)
        sequences = tokens.unflatten(0, (batch, num_rows)).transpose(1, 2).flatten(0, 1)  # ((B S), F, D)
        if number == 0 and num_rows > 1:
            sequences = sequences + transformer.temp_pos_embed[:, :num_rows].to(tokens)
        with visiting(over_time, home):
            sequences = block(over_time, sequences, temporal)
        tokens = sequences.unflatten(0, (batch, -1)).transpose(1, 2).flatten(0, 1)
    shift, scale = (transformer.scale_shift_table[None].to(embedded.device) + embedded[:, None]).chunk(2, dim=1)
    tokens = transformer.proj_out(transformer.norm_out(tokens) * (1 + scale) + shift)
    return unpatched(tokens, (height // patch, width // patch), patch).unflatten(0, (batch, num_rows))


def block(
    module: nn.Module,
    tokens: Float[Tensor, "N L D"],
    modulation: Float[Tensor, "N L1 6 D"],
    words: Float[Tensor, "N M D"] | None = None,
    mask: Float[Tensor, "N 1 M"] | None = None,
) -> Float[Tensor, "N L D"]:
    """One transformer block: self-attention, text if it reads any, feed-forward; a modulation a token or for all."""
    shift, scale, gate, shift_ff, scale_ff, gate_ff = (module.scale_shift_table + modulation).unbind(2)
    tokens = tokens + gate * module.attn1(module.norm1(tokens) * (1 + scale) + shift)
    if module.attn2 is not None:
        tokens = tokens + module.attn2(tokens, encoder_hidden_states=words, attention_mask=mask)
    return tokens + gate_ff * module.ff(module.norm2(tokens) * (1 + scale_ff) + shift_ff)


def unpatched(tokens: Float[Tensor, "N S P"], grid: tuple[int, int], patch: int) -> Float[Tensor, "N C H W"]:
    """Pictures from tokens whose channels are (row in the patch, column in the patch, channel)."""
    parts = tokens.unflatten(1, grid).unflatten(3, (patch, patch, -1))  # (N, h, w, p, q, C)
    return parts.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _mask(lengths: list[int] | None, text: Tensor, num_rows: int) -> Tensor | None:
    if lengths is None or all(length == text.shape[1] for length in lengths):
        return None
    places = torch.arange(text.shape[1], device=text.device)
    hidden = places[None] >= torch.tensor(lengths, device=text.device)[:, None]
    bias = torch.zeros(hidden.shape, dtype=text.dtype, device=text.device).masked_fill(hidden, -10000.0)
    return bias[:, None].repeat_interleave(num_rows, 0)


@torch.no_grad()
def self_check(transformer: nn.Module) -> None:
    """Hold `forward_rows` with equal rows against the stock forward on a small clip; UsageError if they disagree."""
    config, dtype = transformer.config, transformer.dtype
    device, side = next(transformer.parameters()).device, 2 * config.patch_size
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, config.video_length, config.in_channels, side, side, generator=draw).to(device, dtype)
    text = torch.randn(1, 4, config.caption_channels, generator=draw).to(device, dtype)
    try:
        theirs = transformer(x.transpose(1, 2), torch.tensor([500.0], device=device), text, return_dict=False)[0]
        rows = torch.full((1, config.video_length), 500.0, device=device)
        ours = forward_rows(transformer, x, rows, text).transpose(1, 2)
        error = float((ours - theirs).float().norm() / theirs.float().norm())
    except (RuntimeError, TypeError, ValueError, AttributeError) as problem:
        raise UsageError(f"levels by row do not work with diffusers {diffusers.__version__}: {problem}") from problem
    limit = 1e-4 if dtype == torch.float32 else 3e-2
    if not error <= limit:
        raise UsageError(
            f"levels by row do not work with diffusers {diffusers.__version__}: they differ from the stock forward by "
            f"{error:.1e} (allowed {limit:.0e}); install diffusers 0.42"
        )
