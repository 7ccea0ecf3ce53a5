"""What a video begins with and ends on: the user's pictures and clips as latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from longtake.apps.planning import context_latents
from longtake.apps.settings import Settings
from longtake.core.model import Capabilities
from longtake.errors import UsageError
from longtake.output.video import last_frames

ENDING = "ending.png"
"""The picture that a run ends on, in its folder."""


def read_picture(path: str, flag: str) -> Image.Image:
    """A picture as it is looked at: upright by its EXIF, RGB, on white where it can be seen through.

    UsageError, one line, for a file that is no picture.
    """
    try:
        with Image.open(path) as source:
            picture = ImageOps.exif_transpose(source)
            if "A" not in picture.getbands() and "transparency" not in picture.info:
                return picture.convert("RGB")
            picture = picture.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    except Image.DecompressionBombError as error:
        raise UsageError(f"{flag} {path} is enormous; give one of at most 100 megapixels") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{flag} {path} is not a picture that can be read") from error


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
    if latents is None or latents < 2:
        raise UsageError("--last-image needs a video with an end, of more than one latent; give --seconds or --frames")
    if not Path(settings.last_image).is_file():
        return ()
    can, size = model.denoiser.can, (settings.width, settings.height)
    picture = read_picture(settings.last_image, "--last-image")
    if can.last_image and settings.method == "plain":
        model.end_with(picture, _frames_to(settings, model))
        return ()
    if can.per_row_levels == "no" and not can.clean_rows:
        raise UsageError(f"{model.name} cannot read a clean last latent; use a model with a level per latent frame")
    still = np.asarray(ImageOps.fit(picture, size))
    encoded = model.codec.encode(torch.from_numpy(np.stack([still] * _still_frames(can))))
    return ((latents - 1, encoded[-1].clone()),)


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
