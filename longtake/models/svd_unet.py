"""Stable Video Diffusion's network (Blattmann et al. 2023) with one noise level a row.

The stock forward embeds one time a sample and repeats it for all frames on the way to its residual blocks, each of
which splits it by frame again for its half over time. So the blocks are ready for a time a row: hooks that exist only
while a call runs hand them one embedding a frame, and a live network stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import torch
from diffusers.models.resnet import SpatioTemporalResBlock
from jaxtyping import Float
from torch import Tensor, nn

from longtake.errors import UsageError


def forward_rows(
    unet: nn.Module,
    x: Float[Tensor, "B F C H W"],
    times: Float[Tensor, "B F"],
    picture: Float[Tensor, "B 1 D"],
    ids: Float[Tensor, "B 3"],
    merge: bool = True,
) -> Float[Tensor, "B F C2 H W"]:
    """What diffusers' `UNetSpatioTemporalConditionModel` predicts when each row has its own time.

    picture: embeddings; ids: frame rate, motion bucket, noise on the picture. `merge`: windows whose rows all share
    one time run without hooks.
    """
    equal = merge and bool((times == times[:, :1]).all())  # asked where the times are: a device would be waited for
    times = times.to(x.device)
    if equal:
        return unet(x, times[:, 0], picture, added_time_ids=ids, return_dict=False)[0]
    with _told(unet, times):
        return unet(x, times[:, 0], picture, added_time_ids=ids, return_dict=False)[0]


@contextmanager
def _told(unet: nn.Module, times: Float[Tensor, "B F"]) -> Iterator[None]:
    """While open, the network embeds these times, one a row, and every residual block gets that of its own frame.

    Nothing of the network is called from here, so that weights which come to the device for a call (offloading) do.
    """
    rows = times.shape[1]
    waves = unet.time_proj(times.flatten())

    def embed(module: nn.Module, args: tuple) -> tuple:
        return waves.to(args[0].dtype), *args[1:]

    def repeat(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output.repeat_interleave(rows, 0)

    def own(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        # the stock forward has repeated each embedding for all frames once more: take every first
        if "temb" in kwargs:
            return args, {**kwargs, "temb": kwargs["temb"][::rows]}
        return (args[0], args[1][::rows], *args[2:]), kwargs

    blocks = [module for module in unet.modules() if isinstance(module, SpatioTemporalResBlock)]
    if not blocks:
        raise RuntimeError("the network has no residual blocks that are told a time")
    handles = [unet.time_embedding.register_forward_pre_hook(embed), unet.add_embedding.register_forward_hook(repeat)]
    handles += [block.register_forward_pre_hook(own, with_kwargs=True) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def self_check(unet: nn.Module) -> None:
    """Hold `forward_rows` against the stock forward on two small frames; UsageError if they disagree.

    Equal rows must give the stock forward through the hooks too, and unequal ones must differ.
    """
    config, weight = unet.config, unet.conv_in.weight
    side = 2 ** len(config.block_out_channels)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, config.in_channels, side, side, generator=draw).to(weight)
    widths = config.cross_attention_dim
    width = widths if isinstance(widths, int) else widths[0]
    picture = torch.randn(1, 1, width, generator=draw).to(weight)
    ids = torch.tensor([[6.0, 127.0, 0.02]]).to(weight)
    equal, mixed = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5, 1.5]])
    try:
        theirs = unet(x, equal[:, 0].to(weight.device), picture, added_time_ids=ids, return_dict=False)[0].float()
        ours = [forward_rows(unet, x, equal, picture, ids, merge).float() for merge in (True, False)]
        error = max(float((one - theirs).norm() / theirs.norm()) for one in ours)
        moved = float((forward_rows(unet, x, mixed, picture, ids).float() - theirs).norm() / theirs.norm())
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as problem:
        raise UsageError(f"levels by row do not work with diffusers {diffusers.__version__}: {problem}") from problem
    limit = 1e-4 if weight.dtype == torch.float32 else 3e-2
    if not error <= limit or not moved > 0:
        raise UsageError(
            f"levels by row do not work with diffusers {diffusers.__version__}: they differ from the stock forward by "
            f"{error:.1e} (allowed {limit:.0e}); install diffusers 0.42"
        )
