"""What a video begins with and ends on: the user's pictures and clips as latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from longtake.apps.given import check_ending, ends_itself
from longtake.apps.given import read_picture as read_picture
from longtake.apps.planning import context_latents
from longtake.apps.settings import Settings
from longtake.core.model import Capabilities
from longtake.output.video import last_frames

ENDING = "ending.png"
"""The picture that a run ends on, in its folder."""


def context_of(settings: Settings, model: Any) -> tuple[Tensor, ...]:
    """The latents, each (C, H, W), of the picture or of the end of the clip that a video begins with."""
    size, can = (settings.width, settings.height), model.denoiser.can
    if settings.image:
        latents = model.codec.encode_image(read_picture(settings.image, "--image"), size)
    elif settings.video:
        frames = last_frames(settings.video, _frames_read(can, context_latents(settings, can)), settings.rate)
        lead = 1 if can.first_is_image else 0
        frames = frames[(len(frames) - lead) % can.temporal_compression :]  # whole latents
        latents = model.codec.encode(torch.from_numpy(np.stack([_fitted(frame, size) for frame in frames])))
    else:
        return ()
    return tuple(latent.clone() for latent in latents)


def ending_of(settings: Settings, model: Any, latents: int | None) -> tuple[tuple[int, Tensor], ...]:
    """(place, latent) of the picture that a video ends on; models that read such a picture are given it instead.

    The latent is that of a still of as many frames as a latent has. A run that goes on after its picture was deleted
    has it in its state already.
    """
    if not settings.last_image:
        return ()
    can, size = model.denoiser.can, (settings.width, settings.height)
    last = check_ending(settings, model.name, can, latents)
    if not Path(settings.last_image).is_file():
        return ()
    picture = read_picture(settings.last_image, "--last-image")
    if ends_itself(settings, can):
        model.end_with(picture, _frames_to(settings, model))
        return ()
    still = np.asarray(ImageOps.fit(picture, size))
    encoded = model.codec.encode(torch.from_numpy(np.stack([still] * _still_frames(can))))
    return ((last, encoded[-1].clone()),)


def _frames_read(can: Capabilities, latents: int) -> int:
    # pixel frames that encode to so many latents, all of them, also those that streamed decoding would hold back
    if can.latent_group > 1:
        return 1 if latents == 1 else can.num_frames(latents)
    return can.temporal_compression * latents - (can.temporal_compression - 1 if can.first_is_image else 0)


def _frames_to(settings: Settings, model: Any) -> int:
    # pixel frames of the window of one clip up to the last that is shown
    shown = settings.frames or 0
    if not settings.video:
        return shown
    can = model.denoiser.can
    return can.num_frames(context_latents(settings, can)) + shown


def _still_frames(can: Capabilities) -> int:
    # of a still whose last latent is like that of any later frames; the last of a group, where there are groups
    return _frames_read(can, can.latent_group if can.latent_group > 1 else 2 if can.first_is_image else 1)


def kept_ending(settings: Settings, folder: Path) -> None:
    """Keep the picture that a run ends on in `folder`, so that the run can go on without the user's file."""
    if settings.last_image:
        read_picture(settings.last_image, "--last-image").save(folder / ENDING)


def _fitted(frame: Tensor, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(ImageOps.fit(Image.fromarray(frame.numpy()), size))
