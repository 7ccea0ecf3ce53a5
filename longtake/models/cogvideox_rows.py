"""CogVideoX's forward for windows whose rows share one level, and, against advice, for rows of their own.

In this network the text tokens stand in the same sequence as the video's and are modulated by the same time. One time
a window is therefore all that it knows. `forward_shared` is that. `forward_mixed` gives video tokens the modulation of
their own row's time and text tokens that of the rows' mean time, by hooks that exist only while a call runs. Videos
made so are abnormal (MIGA, App. A.4, Fig. A3: CogVideoX-5B, one time for the text whatever it is), so it has to be
asked for. In CogVideoX 1.5 two rows share a token too, so that rows of their own are not defined at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.models.normalization import AdaLayerNorm, CogVideoXLayerNormZero
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from jaxtyping import Float
from torch import Tensor, nn

from longtake.models.rope import stretched

Tables = tuple[Tensor, Tensor]

OFS = 2.0
"""What the stock pipeline tells image-to-video networks of CogVideoX 1.5."""


def rotary(config: Any, shape: tuple[int, int, int], riflex: int | None = None) -> Tables | None:
    """Rotary tables (F h w, D) of a window of latents (F, H, W) as the stock pipeline makes them; None without them.

    `riflex`: the length in latents that positions in time are stretched to (models/rope).
    """
    if not config.use_rotary_positional_embeddings:
        return None
    height, width = shape[1] // config.patch_size, shape[2] // config.patch_size
    base = config.sample_width // config.patch_size, config.sample_height // config.patch_size
    span = config.patch_size_t or 1
    rows = shape[0] // span
    if config.patch_size_t is None:  # positions scaled to the trained size
        grid: dict[str, Any] = dict(crops_coords=get_resize_crop_region_for_grid((height, width), *base))
    else:  # 1.5: the first positions of the largest size
        grid = dict(crops_coords=None, grid_type="slice", max_size=base[::-1])
    cos, sin = get_3d_rotary_pos_embed(
        embed_dim=config.attention_head_dim, grid_size=(height, width), temporal_size=rows, **grid
    )
    if riflex is not None:
        tables = (table.reshape(rows, -1, table.shape[-1]) for table in (cos, sin))
        long = -(-riflex // span)
        cos, sin = (table.flatten(0, 1) for table in stretched(*tables, config.attention_head_dim // 4, long))
    return cos, sin


def forward_shared(
    transformer: nn.Module,
    x: Float[Tensor, "B F C H W"],
    times: Float[Tensor, " B"],
    text: Float[Tensor, "B L D"],
    tables: Tables | None,
) -> Float[Tensor, "B F D H W"]:
    """What the stock transformer predicts at one time a window."""
    constant = getattr(transformer.config, "ofs_embed_dim", None)
    return transformer(
        hidden_states=x,
        encoder_hidden_states=text,
        timestep=times.to(x.device),
        ofs=None if constant is None else x.new_full((1,), OFS),
        image_rotary_emb=None if tables is None else tuple(table.to(x.device) for table in tables),
        return_dict=False,
    )[0]


def forward_mixed(
    transformer: nn.Module,
    x: Float[Tensor, "B F C H W"],
    times: Float[Tensor, "B F"],
    text: Float[Tensor, "B L D"],
    tables: Tables | None,
) -> Float[Tensor, "B F D H W"]:
    """The same with one time a row. Equal rows give what `forward_shared` gives."""
    patch = transformer.config.patch_size
    tokens = (x.shape[3] // patch) * (x.shape[4] // patch)
    near = next(transformer.time_embedding.parameters()).device  # blocks that are offloaded leave it on the host
    told = transformer.time_proj(times.to(near).flatten()).to(x.dtype)
    rows = transformer.time_embedding(told).unflatten(0, times.shape).to(x.device)
    with _modulated(transformer, rows, tokens):
        return forward_shared(transformer, x, times.mean(dim=1), text, tables)


@contextmanager
def _modulated(transformer: nn.Module, rows: Float[Tensor, "B F D"], tokens: int) -> Iterator[None]:
    """While open, every norm gives the `tokens` tokens of a row the modulation of that row's embedding."""

    def parts(module: Any, many: int) -> list[Tensor]:
        return [part.repeat_interleave(tokens, 1) for part in module.linear(module.silu(rows)).chunk(many, dim=2)]

    def block(module: Any, args: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        shift, scale, gate, *_ = parts(module, 6)
        return module.norm(args[0]) * (1 + scale) + shift, output[1], gate, output[3]

    def head(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        shift, scale = parts(module, 2)
        return module.norm(args[0]) * (1 + scale) + shift

    with ExitStack() as stack:
        for module in transformer.modules():
            hook = (
                block
                if isinstance(module, CogVideoXLayerNormZero)
                else head
                if module is transformer.norm_out
                else None
            )
            if hook is not None:
                stack.callback(module.register_forward_hook(hook).remove)
        if not isinstance(transformer.norm_out, AdaLayerNorm):
            raise RuntimeError("this CogVideoX ends in another norm than the one whose modulation is known")
        yield


@torch.no_grad()
def disagreement(transformer: nn.Module, length: int) -> float:
    """How far `forward_mixed` with equal rows is from the stock forward, relative, on two small latents."""
    config, device, dtype = transformer.config, transformer.device, transformer.dtype
    draw = torch.Generator().manual_seed(0)
    side = 2 * config.patch_size
    learned = config.use_learned_positional_embeddings
    height, width = (config.sample_height, config.sample_width) if learned else (side, side)
    x = torch.randn(1, 2, config.in_channels, height, width, generator=draw).to(device, dtype)
    text = torch.randn(1, length, config.text_embed_dim, generator=draw).to(device, dtype)
    tables = rotary(config, (2, height, width))
    stock = forward_shared(transformer, x, torch.tensor([500.0]), text, tables).float()
    ours = forward_mixed(transformer, x, torch.tensor([[500.0, 500.0]]), text, tables).float()
    return float((ours - stock).norm() / stock.norm())
