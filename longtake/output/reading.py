"""Videos read: what they say of themselves, their frames in constant memory, also of files that were cut off."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from longtake.errors import UsageError
from longtake.output.boxes import WholeBoxes


@dataclass(frozen=True)
class Clip:
    """What a video file says of itself. `num_frames` is counted by reading, -1 until then."""

    width: int
    height: int
    fps: Fraction
    comment: str | None


def probe(path: Path | str) -> Clip:
    """Size, rate and comment of a video. UsageError if it is missing or no video."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        return Clip(stream.width, stream.height, Fraction(rate), container.metadata.get("comment"))


def read_frames(path: Path | str) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The frames of a video, one at a time; of a file that was cut off, all that can be read."""
    with _opened(path) as container:
        frames = container.decode(video=0)
        while True:
            try:
                frame = next(frames, None)
            except av.error.FFmpegError:
                return
            if frame is None:
                return
            yield frame.to_ndarray(format="rgb24")


def last_frames(path: Path | str, count: int, fps: Fraction | None = None) -> UInt8[Tensor, "T H W 3"]:
    """The last `count` frames or fewer, resampled to `fps` (nearest in time before), in constant memory."""
    step = probe(path).fps / fps if fps else Fraction(1)
    kept: deque[np.ndarray] = deque(maxlen=count)
    due = 0
    for number, frame in enumerate(read_frames(path)):
        while due * step < number + 1:
            kept.append(frame)
            due += 1
    if not kept:
        raise UsageError(f"{path} holds no frame that can be read; give a video file")
    return torch.from_numpy(np.stack(kept))


def contact_sheet(path: Path | str, every_seconds: float = 2.0, columns: int = 6) -> Image.Image:
    """One frame in every `every_seconds`, left to right and top to bottom."""
    step = max(1, round(every_seconds * probe(path).fps))
    tiles = [frame for number, frame in enumerate(read_frames(path)) if number % step == 0]
    if not tiles:
        raise UsageError(f"{path} holds no frame that can be read")
    height, width = tiles[0].shape[:2]
    sheet = Image.new("RGB", (min(columns, len(tiles)) * width, -(-len(tiles) // columns) * height))
    for number, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (number % columns * width, number // columns * height))
    return sheet


def _opened(path: Path | str) -> Any:
    if Path(path).is_dir():
        inside = Path(path) / "video.mp4"
        raise UsageError(f"{path} is a folder; give a video file" + (f", such as {inside}" if inside.exists() else ""))
    if not Path(path).is_file():
        raise UsageError(f"there is no file {path}")
    try:
        container = _container(path)
    except (av.error.FFmpegError, ValueError) as error:
        raise UsageError(f"{path} is not a video that can be read") from error
    if not container.streams.video:
        container.close()
        raise UsageError(f"{path} has no video stream")
    return container


def _container(path: Path | str) -> Any:
    try:
        return av.open(str(path))
    except av.error.FFmpegError:
        whole = WholeBoxes(path)  # a copy that was cut off inside a moof still holds the fragments before
        if not 0 < whole.size < Path(path).stat().st_size:
            raise
        return av.open(whole, format="mp4")
