"""A user's pictures as they are looked at: upright, on white where they are transparent, refused in one line."""

# ruff: noqa: F811 (fixtures come from another file of tests)

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from longtake.apps.pictures import ending_of, read_picture
from longtake.errors import UsageError
from longtake.output.video import Format, VideoWriter, read_frames
from tests.test_cli import cli, make, one_thread, picture_model, tiny  # noqa: F401


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


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model can be loaded: what is refused has to be refused before."""
    monkeypatch.setattr("longtake.models.load.load", lambda *_, **__: pytest.fail("a model was loaded"))


@pytest.mark.parametrize("flag, says", [
    ("--image", "is not a picture that can be read"), ("--last-image", "is not a picture that can be read"),
    ("--video", "is not a video that can be read; give a video file"),
])  # fmt: skip
def test_a_file_of_another_kind_is_told_before_a_model_is_loaded(
    cli: Any, picture_model: Path, tmp_path: Path, unloadable: None, flag: str, says: str
) -> None:
    (tmp_path / "README.md").write_text("# pictures\n")
    for more in ((), ("--dry-run",)):
        said = make(cli, picture_model, "--seconds", 2, flag, "README.md", *more)
        assert said.code == 2 and f"{flag} README.md {says}" in said.err, said.err
    job = {"prompt": "a dog", "model": str(picture_model), "frames": 9, flag[2:]: "README.md"}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(job))
    said = cli("batch", "jobs.jsonl")
    assert said.code == 2 and f"line 1: {flag} README.md {says}" in said.err and "job 1" not in said.err, said.err
    assert not (tmp_path / "runs").exists()


def test_a_film_without_frames_is_told_before_a_model_is_loaded(
    cli: Any, picture_model: Path, tmp_path: Path, unloadable: None
) -> None:
    film = VideoWriter(tmp_path / "empty.mp4", Format(32, 32, Fraction(12)))
    assert not list(read_frames(film.path))
    said = make(cli, picture_model, "--seconds", 2, "--video", "empty.mp4", "--dry-run")
    assert said.code == 2 and "--video empty.mp4 holds no frame that can be read" in said.err


@pytest.mark.parametrize("length", [("--seconds", "inf"), ("--frames", 1)])
def test_a_last_picture_without_an_end_is_told_by_a_plan(
    cli: Any, tiny: Path, tmp_path: Path, unloadable: None, length: Any
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "red.png")
    for more in ((), ("--dry-run",)):
        said = make(cli, tiny, "--method", "chunk", "--last-image", "red.png", *length, *more)
        assert said.code == 2 and "needs a video with an end" in said.err
    assert make(cli, tiny, "--method", "chunk", "--last-image", "red.png", "--seconds", 2, "--dry-run").code == 0
