"""The attention backend of a network: native, flash, sage, xformers, ... (`--attention`).

Names are those of diffusers' dispatcher (`AttentionBackendName`). Its own `set_attention_backend` also changes the
default of every other pipeline in the process; here the processors of the given networks alone are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models import attention_dispatch as dispatch
from torch import nn

from longtake.errors import UsageError

MASKING = ("native", "_native_math", "_native_efficient", "_native_cudnn", "flex", "xformers")
"""Backends that take a mask."""


def names() -> list[str]:
    """Every name that the installed diffusers knows; those with an underscore first are for the curious."""
    found = [str(item.value) for item in dispatch.AttentionBackendName]
    return sorted(found, key=lambda name: (name.startswith("_"), name))


def check_attention(name: str) -> None:
    """UsageError, one line, for a backend that is unknown or whose package is not installed."""
    if name not in names():
        # those with an underscore are many, and few are meant for everybody
        common = [known for known in names() if not known.startswith("_") or known.startswith("_native_")]
        raise UsageError(f"--attention {name[:40]} is not known to this diffusers; known: {', '.join(common)}")
    try:
        dispatch._check_attention_backend_requirements(dispatch.AttentionBackendName(name))
    except RuntimeError as problem:
        raise UsageError(f"--attention {name} cannot be used: {_line(problem)}; or use native") from problem


def attend(networks: Sequence[nn.Module | None], name: str, device: torch.device) -> None:
    """Let the attention of these networks run by a backend, once it has been tried on `device`."""
    backend = dispatch.AttentionBackendName(name)
    for network in networks:
        if network is None:
            continue
        _try(network, backend, device)
        told = 0
        for module in network.modules():
            processor = getattr(module, "processor", None)
            if processor is not None and hasattr(processor, "_attention_backend"):
                processor._attention_backend = backend
                told += 1
        if not told:
            raise UsageError(f"--attention {name}: {type(network).__name__} does not take backends; leave it out")


@torch.no_grad()
def _try(network: Any, backend: Any, device: torch.device) -> None:
    """One attention over a few tokens in the network's own head size and dtype."""
    config = network.config
    shape = (1, 128, config.num_attention_heads, config.attention_head_dim)
    x = torch.ones(shape, dtype=network.dtype, device=device)
    try:
        dispatch._maybe_download_kernel_for_backend(backend)
        dispatch.dispatch_attention_fn(x, x, x, backend=backend)
    except Exception as problem:  # each backend's package raises its own
        kind = str(network.dtype).removeprefix("torch.")
        raise UsageError(
            f"--attention {backend.value} does not run here ({device.type}, {kind}, heads of "
            f"{config.attention_head_dim}): {_line(problem)}; use native"
        ) from problem


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split()).rstrip(".")[:220]
