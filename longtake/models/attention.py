"""The attention backend of a network: native, flash, sage, xformers, ... (`--attention`).

Names are those of diffusers' dispatcher (`AttentionBackendName`). Its own `set_attention_backend` also changes the
default of every other pipeline in the process; here the given networks alone are told, in one of two ways:
- the processors of Wan's and SkyReels-V2's transformers take a backend;
- all others (diffusers' older processors, and the networks written here) call torch's `scaled_dot_product_attention`,
  and while such a network works, that one function is answered by the dispatcher.

A call with a mask (padding of a prompt, say) goes to the backends that take masks, and to torch's own with the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers.models import attention_dispatch as dispatch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from longtake.errors import UsageError

MASKING = ("native", "_native_math", "_native_efficient", "_native_cudnn", "flex", "xformers")
"""Backends that take a mask."""
BROADCASTING = MASKING[:4]
"""Those of them that take it in any shape that fits, as torch's own function does."""


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


class Redirected(TorchFunctionMode):
    """While open, this thread's `scaled_dot_product_attention` runs by a backend of the dispatcher."""

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self.backend = backend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's function, or the dispatcher's in its place."""
        more = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return _product(self.backend, *args, **more)
        return func(*args, **more)


class Told:
    """Where the networks that are told of a backend by `Redirected` work (`Place.around`)."""

    def __init__(self, networks: Sequence[nn.Module], backend: Any) -> None:
        self.networks, self.backend = tuple(networks), backend

    def __call__(self, part: nn.Module) -> AbstractContextManager[Any]:
        """What to open while `part` works: nothing for an autoencoder or an encoder."""
        return Redirected(self.backend) if any(part is network for network in self.networks) else nullcontext()


def attend(networks: Sequence[nn.Module | None], name: str, device: torch.device) -> Told | None:
    """Let the attention of these networks run by a backend, once it has been tried on `device`.

    Returns what has to be open while a network works, None where its processors have been told.
    """
    backend = dispatch.AttentionBackendName(name)
    others: list[nn.Module] = []
    for network in networks:
        if network is None:
            continue
        _try(network, backend, device)
        processors = [getattr(module, "processor", None) for module in network.modules()]
        taking = [one for one in processors if one is not None and hasattr(one, "_attention_backend")]
        for one in taking:
            one._attention_backend = backend
        if not taking:
            others.append(network)
    return Told(others, backend) if others else None


def _product(
    backend: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    **more: Any,
) -> Tensor:
    # torch's layout is (..., heads, tokens, size), the dispatcher's (batch, tokens, heads, size)
    if attn_mask is not None and backend.value not in BROADCASTING:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, **more)
    lead = query.shape[:-3]
    if attn_mask is not None and attn_mask.ndim > 2:
        attn_mask = attn_mask.expand(*lead, *attn_mask.shape[-3:]).reshape(-1, *attn_mask.shape[-3:])
    parts = (part.reshape(-1, *part.shape[-3:]).transpose(1, 2) for part in (query, key, value))
    out = dispatch.dispatch_attention_fn(*parts, attn_mask=attn_mask, backend=backend, **more)
    return out.transpose(1, 2).unflatten(0, lead)


@torch.no_grad()
def _try(network: nn.Module, backend: Any, device: torch.device) -> None:
    """One attention over a few tokens in each of the network's head sizes and in its dtype."""
    kind = next(value.dtype for value in network.parameters() if value.ndim > 1)
    for heads, size in sorted(head_sizes(network)):
        x = torch.ones(1, 128, heads, size, dtype=kind, device=device)
        try:
            dispatch._maybe_download_kernel_for_backend(backend)
            dispatch.dispatch_attention_fn(x, x, x, backend=backend)
        except Exception as problem:  # each backend's package raises its own
            raise UsageError(
                f"--attention {backend.value} does not run here ({device.type}, {str(kind).removeprefix('torch.')}, "
                f"heads of {size}): {_line(problem)}; use native"
            ) from problem


def head_sizes(network: nn.Module) -> set[tuple[int, int]]:
    """(heads, channels of a head) of every attention in a network. UsageError if there is none."""
    found: set[tuple[int, int]] = set()
    for module in network.modules():
        heads = getattr(module, "heads", None)
        for name, parts in (("to_q", 1), ("q_linear", 1), ("qkv", 3)):
            layer = getattr(module, name, None)
            if isinstance(heads, int) and isinstance(layer, nn.Linear):
                found.add((heads, layer.out_features // parts // heads))
    if not found:
        raise UsageError(f"--attention: {type(network).__name__} has no attention; leave it out")
    return found


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split()).rstrip(".")[:220]
