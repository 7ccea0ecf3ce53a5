"""Windows longer than a network was trained on, as options of a family: `freelong` and `freepca`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from longtake.errors import UsageError
from longtake.models import freelong, freepca

Mix = Callable[[nn.Module, Tensor, tuple[int, int]], AbstractContextManager[Any]]
"""A change to the layers over time for one call: the network, times (B, F), (height, width) of the latents."""


def mix_of(extras: Mapping[str, Any], window: int, late: float = freepca.LATE) -> tuple[Mix | None, int]:
    """(what changes the layers over time or None, frames in a window). window: of training; late: see `freepca`."""
    long, pca = (frames_of(extras, name, window, times) for name, times in (("freelong", 8), ("freepca", 4)))
    if long and pca:
        raise UsageError("freelong and freepca both change the same layers; set one of them")
    if long:
        return (lambda network, times, size: freelong.applied(network, len(times), size, window)), long
    if pca:
        return (lambda network, times, size: freepca.applied(network, times, window, late)), pca
    return None, window


def frames_of(extras: Mapping[str, Any], name: str, window: int, times: int) -> int:
    """Frames in a window under the option `name`: false 0, true `times` native windows, or that number itself."""
    value = extras.get(name, False)
    text = str(value).lower()
    if text in ("false", "true"):
        return window * times if text == "true" else 0
    if not text.isdecimal() or int(text) < window:
        raise UsageError(f"{name} is true, false or the frames of a window from {window} up, got {value!r}")
    return int(text)
