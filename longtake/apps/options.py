"""The options of `longtake.generate`, `longtake.stream` and `longtake.load` by name and type, for editors and checkers.

The values themselves are `apps.settings.Request` and `models.load.load`; a test holds the two sides together.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import torch


class Options(TypedDict, total=False):
    """What `generate` and `stream` take besides the prompt: the flags of `longtake generate`.

    model     a name, a folder, a hub id, or a live diffusers pipeline
    frames, seconds   the length, one of the two; seconds may be "inf"
    size      (width, height) or "WxH"
    set       parameters of method, search and model, such as ("fifo.partitions=2", "batch=4")
    embed     whether the settings stand in the video's metadata
    """

    model: Any
    method: str | None
    solver: str | None
    preset: str | None
    frames: int | None
    seconds: float | str | None
    steps: int | None
    guidance: float | None
    size: str | tuple[int, int] | None
    fps: float | str | None
    seed: int | None
    image: str | Path | None
    video: str | Path | None
    negative_prompt: str
    set: Sequence[str]
    device: str
    dtype: str | None
    audio: str | Path | None
    embed: bool
    lora: Sequence[str]
    guide_model: str | Path | None
    offload: str
    compile: bool
    prompt_file: str | Path | None
    last_image: str | Path | None
    search: str | None
    reward: str | None
    search_budget: str | None
    attention: str | None


class Loading(TypedDict, total=False):
    """What `load` takes besides the model; what is not given comes from the model's folder or family."""

    size: str | tuple[int, int] | None
    num_steps: int | None
    guidance: float | None
    solver: str | None
    negative_prompt: str
    device: str
    dtype: str | torch.dtype | None
    lora: Sequence[str]
    offload: str
    compile: bool
    extras: Mapping[str, Any]
    attention: str | None


def known(function: str, given: Iterable[str], names: Iterable[str]) -> None:
    """TypeError for an option that `function` does not take, with the nearest that it does."""
    names = list(names)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(names)}"
            raise TypeError(f"longtake.{function} takes no option {name!r}; {hint}")
