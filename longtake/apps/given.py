"""The pictures and clips that a user gives: whether they can be read and used, found out before a model is loaded."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from longtake.apps.settings import Settings
from longtake.core.model import Capabilities
from longtake.errors import UsageError
from longtake.output.video import read_frames


def read_picture(path: str | Path, flag: str) -> Image.Image:
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


def check_clip(path: str | Path) -> None:
    """UsageError unless the first frame of a user's clip can be read."""
    try:
        seen = next(read_frames(path), None)
    except UsageError as error:
        raise UsageError(f"--video {path} is not a video that can be read; give a video file") from error
    if seen is None:
        raise UsageError(f"--video {path} holds no frame that can be read; give a video file")


def ends_itself(settings: Settings, can: Capabilities) -> bool:
    """Whether the model is shown the last picture itself, and not as a latent among the others."""
    return can.last_image and settings.method == "plain"


def check_ending(settings: Settings, name: str, can: Capabilities, latents: int | None) -> int:
    """The latent that the last picture takes. UsageError where there is no end, or no model that reads it."""
    if latents is None or latents < 2:
        raise UsageError("--last-image needs a video with an end, of more than one latent; give --seconds or --frames")
    if can.per_row_levels == "no" and not can.clean_rows and not ends_itself(settings, can):
        raise UsageError(f"{name} cannot read a clean last latent; use a model with a level per latent frame")
    return latents - 1
