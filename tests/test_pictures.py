"""A user's pictures as they are looked at: upright, on white where they are transparent, refused in one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from longtake.apps.pictures import ending_of, read_picture
from longtake.errors import UsageError


def saved(picture: Image.Image, path: Path, **options: Any) -> np.ndarray:
    picture.save(path, **options)
    return np.asarray(read_picture(str(path), "--image"))


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 51))
    assert saved(picture, tmp_path / "a.png").tolist() == [[[255, 255, 255], [255, 204, 204]]]


def test_a_palette_with_a_transparent_colour_and_grey_with_alpha(tmp_path: Path) -> None:
    picture = Image.new("P", (1, 1), 0)
    picture.putpalette([0, 0, 255])
    assert saved(picture, tmp_path / "seen.png").tolist() == [[[0, 0, 255]]]
    assert saved(picture, tmp_path / "through.png", transparency=0).tolist() == [[[255, 255, 255]]]
    assert saved(Image.new("LA", (1, 1), (0, 0)), tmp_path / "grey.png").tolist() == [[[255, 255, 255]]]


def test_a_photograph_stands_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # as a telephone held upright writes it: to be turned clockwise
    shown = saved(picture, tmp_path / "upright.jpg", exif=exif, quality=95)
    assert shown.shape == (40, 20, 3)
    assert shown[5].mean() > 250 and shown[-5].mean() < 5  # what was left is on top


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n cut off"])
def test_no_picture_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.png"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"--image .*text.png is not a picture that can be read$"):
        read_picture(str(path), "--image")


def test_a_model_that_cannot_end_on_a_picture_says_so(tmp_path: Path) -> None:
    """Not that the picture cannot be read."""
    Image.new("RGB", (8, 8)).save(tmp_path / "red.png")
    can = SimpleNamespace(last_image=False, per_row_levels="no", clean_rows=False)
    model: Any = SimpleNamespace(name="short", denoiser=SimpleNamespace(can=can))
    settings: Any = SimpleNamespace(last_image=str(tmp_path / "red.png"), width=8, height=8, method="plain")
    with pytest.raises(UsageError, match="short cannot read a clean last latent"):
        ending_of(settings, model, 3)
