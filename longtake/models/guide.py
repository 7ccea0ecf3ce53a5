"""A first picture from any text-to-image pipeline of diffusers, for models that make videos from pictures."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from PIL import Image

from longtake.errors import UsageError
from longtake.models.parts import LOADING, dtype_of, no_progress_bars, pick_device


def make_picture(
    model: Any, prompt: str, size: tuple[int, int], seed: int, negative_prompt: str = "", device: str = "auto"
) -> Image.Image:
    """The picture that a text-to-image pipeline makes of a prompt, at (width, height).

    `model` is a folder or a hub id (safetensors only), or a live pipeline. Its own steps and guidance hold. The noise
    comes from the CPU's generator, so that it is the same on every device. UsageError for what makes no pictures.
    """
    pipe = _loaded(model, device) if isinstance(model, str) else model
    wanted = {"negative_prompt": negative_prompt or None, "width": size[0], "height": size[1],
              "generator": torch.Generator().manual_seed(seed)}  # fmt: skip
    takes = inspect.signature(type(pipe).__call__).parameters
    if "prompt" not in takes or "image" in takes or "num_frames" in takes:
        raise UsageError(f"--guide-model {_name(model)} is a {type(pipe).__name__}, not a text-to-image pipeline")
    try:
        with torch.no_grad():
            made = pipe(prompt=prompt, **{name: value for name, value in wanted.items() if name in takes})
    except (ValueError, RuntimeError, TypeError) as problem:
        said = " ".join(str(problem).split())[:200]
        raise UsageError(
            f"--guide-model {_name(model)} cannot make a picture of {size[0]}x{size[1]}: {said}"
        ) from problem
    pictures = getattr(made, "images", None)
    if not pictures or not isinstance(pictures[0], Image.Image):
        raise UsageError(f"--guide-model {_name(model)} makes no pictures; give a text-to-image pipeline")
    return pictures[0]


def _loaded(model: str, device: str) -> Any:
    place = pick_device(device)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with LOADING, no_progress_bars():
            pipe = DiffusionPipeline.from_pretrained(model, use_safetensors=True, torch_dtype=dtype_of(None, place))
    except Exception as problem:  # diffusers raises many types; the user needs the model's name
        said = " ".join(str(problem).split())[:200]
        raise UsageError(f"--guide-model {model} cannot be loaded: {said}") from problem
    finally:
        if shown:
            logging.enable_progress_bar()
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(place)


def _name(model: Any) -> str:
    return model if isinstance(model, str) else type(model).__name__
