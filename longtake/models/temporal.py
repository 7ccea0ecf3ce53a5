"""Layers over time of networks whose attention is split: every token reads the frames at its own pixel.

FreeLong and FreePCA change what such a layer returns. They do it here: `replaced` swaps the layers' forward for the
length of a `with` block and puts it back however the block ends, so a live network stays as it is.

AnimateDiff's motion modules give tokens their place in the whole window before a layer reads them, so there local
reading sees places that training had not, and a window is no longer than `motion_max_seq_length`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel, TransformerTemporalModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from longtake.errors import UsageError
from longtake.models.videocrafter_blocks import TemporalTransformer

Read = Callable[[nn.Module, Float[Tensor, "N F C"]], Float[Tensor, "N F C"]]
"""What an attention layer reads for its tokens, before its output projection."""


def layers(network: nn.Module) -> list[nn.Module]:
    """Every attention over time: of VideoCrafter2's network, and of diffusers' UNet3D, SVD and AnimateDiff networks.

    UsageError for a network that has none, such as one whose tokens of all frames and pixels read each other.
    """
    kinds = (TemporalTransformer, TransformerTemporalModel)
    found: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, kinds):
            found += [part for block in module.transformer_blocks for part in (block.attn1, block.attn2)]
        elif isinstance(module, TransformerSpatioTemporalModel):  # its second attention reads the picture
            found += [block.attn1 for block in module.temporal_transformer_blocks]
        elif isinstance(module, AnimateDiffTransformer3D):  # its second attention may read a text
            both = [part for block in module.transformer_blocks for part in (block.attn1, block.attn2)]
            found += [part for part in both if part is not None and not part.is_cross_attention]
    if not found:
        raise UsageError(
            f"{type(network).__name__} has no attention over time of its own (its attention is 3-D), which freelong "
            "and freepca change; use --set riflex= or a window method"
        )
    return found


def attend(
    layer: nn.Module, x: Float[Tensor, "N F C"], mask: Bool[Tensor, "F F"] | None = None, sharpen: float = 1.0
) -> Float[Tensor, "N F C"]:
    """What `layer` reads, its output projection left out. `mask` is true where a row may read; `sharpen` scales q."""
    parts = [part(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in (layer.to_q, layer.to_k, layer.to_v)]
    read = functional.scaled_dot_product_attention(sharpen * parts[0], parts[1], parts[2], attn_mask=mask)
    return read.transpose(1, 2).flatten(2)


@contextmanager
def replaced(network: nn.Module, read: Read) -> Iterator[None]:
    """While open, every attention over time of `network` returns the projection of `read(layer, tokens)`."""
    changed = layers(network)

    def forward_of(layer: nn.Module) -> Callable[..., Tensor]:
        def forward(x: Tensor, *rest: Any, **named: Any) -> Tensor:
            return layer.to_out[0](read(layer, x))

        return forward

    try:
        for layer in changed:
            layer.__dict__["forward"] = forward_of(layer)
        yield
    finally:
        for layer in changed:
            layer.__dict__.pop("forward", None)


def near(num_frames: int, window: int) -> Bool[Tensor, "F F"]:
    """Row i reads the `window` rows nearest to it: half before, the rest after, slid inwards at both ends."""
    places = torch.arange(num_frames)
    first = (places - window // 2).clamp(0, max(num_frames - window, 0))[:, None]
    return (places[None] >= first) & (places[None] < first + window)
