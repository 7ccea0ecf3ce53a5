"""SkyReels-V2, trained by diffusion forcing: one noise level a row is what it knows best.

The network is Wan's, but it takes a time a row itself (`enable_diffusion_forcing`) and can be told one of two frame
rates. So `WanDenoiser` drives it through another forward. Clean context is told time 0, as the stock pipelines do with
the latents that they continue from. The stock pipeline copies one scheduler per latent frame; here rows carry their
solver's memory. Its image-to-video networks take pictures as Wan 2.1's do (models/wan_image).

Windows whose rows share a level take the stock forward with one time. Otherwise that forward adds the embedding of the
frame rate in a way that holds for one window at a time, so networks that are told the rate (`inject_sample_info`) run
such windows one by one; the others in whole batches.

Causal blocks (Chen et al. 2025, Sec. 3.4, asynchronous inference): `block` rows see each other and the blocks before
them. Blocks are counted from a window's first row, as in the stock pipeline; the last may be shorter here, where the
stock forward fails. So the mask is made here, and while a call runs the network's own (`num_frame_per_block`) is off.

Deviation: diffusers' pipeline (0.42) lets UniPC remember a view of the latents and then overwrites them, so that its
corrector starts from the wrong sample. Here it starts from the right one; with a copy in the stock pipeline's place, or
DPM-Solver++, which remembers no sample, both make the same latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models.rope import lengthened


@dataclass(frozen=True)
class Told:
    """What the network is told besides rows, times and text.

    fps     it knows two rates, 16 and any other
    riflex  the length in latents that positions in time are stretched to (models/rope)
    block   rows of a causal block; 1: every row sees every other
    """

    fps: float = 24
    riflex: int | None = None
    block: int = 1


def forward_forcing(
    transformer: nn.Module,
    x: Float[Tensor, "B F C H W"],
    times: Float[Tensor, "B F"],
    text: Float[Tensor, "B L D"],
    merge: bool = True,
    image: Float[Tensor, "N M E"] | None = None,
    told: Told = Told(),
) -> Float[Tensor, "B F D H W"]:
    """The flow that the stock transformer predicts when each row has its own time.

    `merge`: windows whose rows all share one time are told it once. `image`: CLIP's tokens, as many rows a window.
    """
    shared = merge and bool((times == times[:, :1]).all())
    many = 1 if transformer.config.inject_sample_info and not shared else len(x)
    pictures = [None] * len(x) if image is None else image.split(len(image) // len(x) * many)
    parts = []
    with lengthened(transformer.rope, told.riflex), _causal(transformer, x, told.block):
        for rows, at, words, seen in zip(x.split(many), times.split(many), text.split(many), pictures, strict=False):
            out = transformer(
                hidden_states=rows.transpose(1, 2),
                timestep=(at[:, 0] if shared else at).to(x.device),
                encoder_hidden_states=words,
                encoder_hidden_states_image=seen,
                enable_diffusion_forcing=not shared,
                fps=[_rate(told.fps)] * len(rows),
                return_dict=False,
            )[0]
            parts.append(out.transpose(1, 2))
    return torch.cat(parts)


def _rate(fps: float) -> int:
    return 0 if fps == 16 else 1


def causal_mask(rows: int, block: int, tokens: int, device: torch.device) -> Bool[Tensor, "1 1 S S"]:
    """Which of `rows` times `tokens` tokens may see which: those of their own block of rows and of blocks before it."""
    place = (torch.arange(rows, device=device) // block).repeat_interleave(tokens)
    return (place[None, :] <= place[:, None])[None, None]


@contextmanager
def _causal(transformer: Any, x: Float[Tensor, "B F C H W"], block: int) -> Iterator[None]:
    """While open, every block of the transformer gets our mask of causal blocks, and the stock one is not made."""
    own = transformer.config.num_frame_per_block
    if block == 1 and own == 1:
        yield
        return
    _, high, wide = transformer.config.patch_size
    tokens = (x.shape[3] // high) * (x.shape[4] // wide)
    mask = causal_mask(x.shape[1], block, tokens, x.device) if block > 1 else None

    def give(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*args[:4], mask, *args[5:])  # rows, text, times, positions, mask

    with ExitStack() as stack:
        if own != 1:
            stack.callback(setattr, transformer, "_internal_dict", transformer.config)  # the very same afterwards
            transformer.register_to_config(num_frame_per_block=1)
        for module in transformer.blocks:
            stack.callback(module.register_forward_pre_hook(give).remove)
        yield


@torch.no_grad()
def self_check(transformer: nn.Module, fps: float) -> None:
    """Hold equal rows against the stock forward with one time a window; UsageError if they disagree."""
    config, device, dtype = transformer.config, transformer.patch_embedding.weight.device, transformer.dtype
    draw = torch.Generator().manual_seed(0)
    height, width = (2 * patch for patch in config.patch_size[1:])
    x = torch.randn(1, 2, config.in_channels, height, width, generator=draw).to(device, dtype)
    # image-to-video networks take the last 512 tokens for text, so that there image tokens stand before 512 others
    text = torch.randn(1, 512 if config.image_dim else 4, config.text_dim, generator=draw).to(device, dtype)
    image = None
    if config.image_dim:
        pictures, tokens = (2, config.pos_embed_seq_len // 2) if config.pos_embed_seq_len else (1, 3)
        image = torch.randn(pictures, tokens, config.image_dim, generator=draw).to(device, dtype)
    equal, other = torch.tensor([[500.0, 500.0]]), torch.tensor([[500.0, 40.0]])
    try:
        with _causal(transformer, x, 1):
            stock = transformer(
                x.transpose(1, 2), equal[:, 0].to(device), text, image, fps=[_rate(fps)], return_dict=False
            )[0].transpose(1, 2)
        ours = forward_forcing(transformer, x, equal, text, False, image, Told(fps))
        moved = forward_forcing(transformer, x, other, text, False, image, Told(fps))
        blocks = forward_forcing(transformer, x, other, text, False, image, Told(fps, block=2))
        error = max(
            float((a.float() - b.float()).norm() / b.float().norm()) for a, b in ((ours, stock), (blocks, moved))
        )
        change = float((moved - ours)[:, 1].abs().max())
    except (RuntimeError, TypeError, ValueError, AttributeError) as problem:
        raise UsageError(f"levels by row do not work with diffusers {diffusers.__version__}: {problem}") from problem
    if not error <= (1e-4 if dtype == torch.float32 else 3e-2) or not change > 0:
        raise UsageError(
            f"levels by row do not work with diffusers {diffusers.__version__}: they differ from the stock forward by "
            f"{error:.1e}; install diffusers 0.42"
        )
