"""Load a video model: a name, a folder, a hub id or a live pipeline becomes a denoiser and a codec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from longtake.models.families import FAMILIES, LoadOptions, Model, load_family
from longtake.models.parts import LOADING, NAMES, fit_size, pick_device, source_of

__all__ = ["FAMILIES", "NAMES", "LoadOptions", "Model", "fit_size", "load", "pick_device"]


def load(
    source: Any,
    size: str | tuple[int, int] | None = None,
    num_steps: int | None = None,
    guidance: float | None = None,
    solver: str | None = None,
    negative_prompt: str = "",
    device: str = "auto",
    dtype: str | torch.dtype | None = None,
    lora: Sequence[str] = (),
    offload: str = "none",
    compile: bool = False,
    extras: Mapping[str, Any] = MappingProxyType({}),
    attention: str | None = None,
) -> Model:
    """Load a model and check that it does what its adapter relies on.

    source  a name (`pocket`), a folder, a hub id (safetensors only), or a live diffusers pipeline, left as it is
    size    (width, height) or "WxH"; multiples that the model's autoencoder and patches ask for
    solver  default: the one that the pipeline's scheduler stands for
    lora, offload, compile, attention, extras   see `families.LoadOptions`

    What is not given comes from the folder's `longtake.json`, else from the model family.
    Raises UsageError, one line, for anything that cannot work.
    """
    options = LoadOptions(
        size, num_steps, guidance, solver, negative_prompt, device, dtype,
        tuple(lora), offload, compile, attention, MappingProxyType(dict(extras)),
    )  # fmt: skip
    found = source_of(source)  # a download lets others load
    with LOADING:
        return load_family(found, options)
