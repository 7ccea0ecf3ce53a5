"""Causal 3-D convolutions as 2-D ones, for CPUs: the same numbers to rounding, several times faster.

A convolution over t-2, t-1, t is a `conv2d` over those frames stacked as channels. `Folded` is a torch function mode:
it answers `conv3d` inside a `with` block and touches no module, so a live pipeline stays as it is, whatever happens
inside, and every layout that is built from `Conv3d` is covered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class Folded(TorchFunctionMode):
    """While active, `conv3d` without padding or dilation in time runs as `conv2d`.

    Rearranged weights are kept, a copy of the convolutions' weights in all; a weight changed in place is noticed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[int, tuple[Tensor, int, Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.conv3d and not kwargs and len(args) == 7:
            x, weight, bias, stride, padding, dilation, groups = args
            if x.ndim == 5 and padding[0] == 0 and tuple(dilation) == (1, 1, 1) and groups == 1:
                space = (stride[1:], padding[1:])
                return conv(x, self._stacked(weight), bias, (weight.shape[2], stride[0]), space)
        return func(*args, **(kwargs or {}))

    def _stacked(self, weight: Float[Tensor, "o i t h w"]) -> Float[Tensor, "o ti h w"]:
        version = 0 if weight.is_inference() else weight._version
        known = self._weights.get(id(weight))
        if known is None or known[0] is not weight or known[1] != version:
            stacked = weight.detach().permute(0, 2, 1, 3, 4).flatten(1, 2).contiguous(memory_format=torch.channels_last)
            known = self._weights[id(weight)] = (weight, version, stacked)
        return known[2]


def conv(
    x: Float[Tensor, "b c t h w"],
    weight: Float[Tensor, "o kc kh kw"],
    bias: Tensor | None,
    time: tuple[int, int],
    space: tuple[tuple[int, ...], tuple[int, ...]],
) -> Float[Tensor, "b o u v w"]:
    """A 3-D convolution with kernel and stride `time` over t, and (stride, padding) `space` over h and w.

    Works in channels-last memory and leaves its result in it, which oneDNN and the norms in between prefer.
    """
    kernel, step = time
    count = (x.shape[2] - kernel) // step + 1
    frames = x.permute(0, 2, 3, 4, 1)
    parts = [frames[:, start : start + (count - 1) * step + 1 : step] for start in range(kernel)]
    images = torch.cat(parts, dim=-1) if kernel > 1 else parts[0]
    out = functional.conv2d(images.flatten(0, 1).permute(0, 3, 1, 2), weight, bias, stride=space[0], padding=space[1])
    return out.unflatten(0, (-1, count)).transpose(1, 2)
