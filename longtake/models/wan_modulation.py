"""How one time a row reaches Wan's tokens: repeated for each, or by broadcasting where that would take gigabytes.

The stock forward takes a time a token and gives every block six modulations a token: at 832x480 and 21 rows those of
Wan 14B are 4 GB for a guidance pair, and each block makes 16 GB more of them in float32 (at 1280x720 over twice that).
Only the block's own arithmetic reads them. So while a large call runs, blocks hold their tokens as (tokens, windows,
rows, channels), a view, against which a modulation (windows, rows, channels) broadcasts; their layers are handed the
usual (windows, rows * tokens, channels), the same view back. The numbers are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

Told = Literal["usual", "each", "rows"]
"""A time for each token; for rows, by broadcasting; or as usual: the one that suits the size of a call."""
LARGE = 1 << 28
"""Bytes of a block's modulations (float32) above which they are broadcast; below, hooks on every layer cost more."""


@contextmanager
def rows_embedded(transformer: Any, windows: int, num_rows: int, tokens: int, told: Told = "usual") -> Iterator[None]:
    """While open, time embeddings of `num_rows` rows modulate the `tokens` tokens of each row."""
    if tokens == 1:
        yield
        return
    width = transformer.scale_shift_table.shape[-1]
    large = told == "rows" or (told == "usual" and windows * num_rows * tokens * width * 6 * 4 > LARGE)
    wide = large and _able(transformer)

    def repeat(module: nn.Module, args: Any, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        embedded, modulation, *rest = output
        if embedded.shape[1] != num_rows:
            raise RuntimeError(f"embedded {embedded.shape[1]} times for {num_rows} rows")
        modulation = modulation if wide else modulation.repeat_interleave(tokens, 1)
        return embedded.repeat_interleave(tokens, 1), modulation, *rest

    with ExitStack() as stack:
        stack.callback(transformer.condition_embedder.register_forward_hook(repeat).remove)
        if wide:
            _broadcast(transformer.blocks, num_rows, tokens, stack)
        yield


def _able(transformer: Any) -> bool:
    # compiled blocks do not look at hooks that come and go; training may run them again for their gradients
    compiled = any(getattr(block, "_compiled_call_impl", None) is not None for block in transformer.blocks)
    return not compiled and not torch.is_grad_enabled()


def _broadcast(blocks: nn.ModuleList, num_rows: int, tokens: int, stack: ExitStack) -> None:
    """Let the arithmetic of blocks see tokens apart from rows, and their layers all in one line."""

    def apart(x: Tensor) -> Tensor:
        return x.unflatten(1, (num_rows, tokens)).permute(2, 0, 1, 3)

    def inline(x: Tensor) -> Tensor:
        return x.permute(1, 2, 0, 3).flatten(1, 2)

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return inline(args[0]), *args[1:]

    def after(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return apart(output)

    for layer in (child for block in blocks for child in block.children()):
        stack.callback(layer.register_forward_pre_hook(before).remove)
        stack.callback(layer.register_forward_hook(after).remove)
    opening = blocks[0].register_forward_pre_hook(lambda module, args: (apart(args[0]), *args[1:]))
    closing = blocks[-1].register_forward_hook(lambda module, args, output: inline(output))
    stack.callback(opening.remove)
    stack.callback(closing.remove)
