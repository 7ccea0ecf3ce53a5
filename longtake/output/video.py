"""A video file that plays at any moment, grows by fragments and never has to be finished.

Frames are collected into segments of about two seconds. Each is encoded by a fresh encoder into a fragmented MP4 in
memory, and its one fragment (moof + mdat), renumbered and moved to its place in time, is appended to the file. So the
bytes of a segment depend on its frames alone: a resumed file equals an uninterrupted one byte for byte, memory is
constant, and a kill loses at most the fragment being written.

ffmpeg gives up on a whole file that ends inside a moof. So a fragment is written as a `free` box, which players skip
however it ends, and becomes a moof by four bytes once all of it is on disk.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from longtake.errors import UsageError
from longtake.output.boxes import WholeBoxes, placed, split

SEGMENT_SECONDS = 2
BT709 = 1  # colour primaries and transfer, ITU-T H.273


@dataclass(frozen=True)
class Format:
    """Size in pixels, frames a second, x264's quality (lower is better, 14 is visually lossless)."""

    width: int
    height: int
    fps: Fraction
    crf: int = 14

    @property
    def segment(self) -> int:
        """Frames of a whole segment."""
        return max(1, round(SEGMENT_SECONDS * self.fps))


@dataclass(frozen=True, eq=False)
class Tail:
    """Where a file stands: bytes and frames in whole segments, and the frames that wait for the next (T, H, W, 3)."""

    size: int = 0
    num_frames: int = 0
    pending: UInt8[Tensor, "T H W 3"] | None = None


class VideoWriter:
    """Appends frames to an MP4 file. `tail` belongs in the checkpoint; given back, the file is cut there and continued.

    `comment` is kept in the file's metadata. Not a context manager: `flush` may be called at any time and again.
    """

    def __init__(self, path: Path, form: Format, tail: Tail | None = None, comment: str | None = None) -> None:
        self.path, self.form, self.comment = path, form, comment
        self.tail = tail if tail and tail.size else Tail(self._begin())
        size = path.stat().st_size if path.exists() else 0
        if size < self.tail.size:
            raise UsageError(
                f"{path} has {size} bytes, fewer than the {self.tail.size} of its checkpoint; "
                "it was cut off or changed, so the run cannot be resumed"
            )
        os.truncate(path, self.tail.size)

    def _begin(self) -> int:
        # The head is the same whatever the frames; with it in place the file opens from the start. Returns its size.
        black = torch.zeros(1, self.form.height, self.form.width, 3, dtype=torch.uint8)
        head, _ = split(encode(black, self.form, self.comment))
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_bytes(head)
        os.replace(fresh, self.path)
        return len(head)

    def write(self, frames: UInt8[Tensor, "T H W 3"]) -> None:
        """Take frames; whole segments go to disk, the rest waits in `tail`."""
        pending = frames.cpu() if self.tail.pending is None else torch.cat([self.tail.pending, frames.cpu()])
        length = self.form.segment
        while len(pending) >= length:
            data = self._encode(pending[:length])
            self._append(data)
            self.tail = Tail(self.tail.size + len(data), self.tail.num_frames + length)
            pending = pending[length:]
        # a clone: a view would keep the whole batch alive
        self.tail = Tail(self.tail.size, self.tail.num_frames, pending.clone() if len(pending) else None)

    def flush(self) -> None:
        """Let the waiting frames be seen as a short last segment, which the next whole segment replaces."""
        if self.tail.pending is not None:
            self._append(self._encode(self.tail.pending))

    def _append(self, fragment: bytes) -> None:
        name = self.tail.size + 4
        with open(self.path, "r+b") as file:
            file.truncate(self.tail.size)
            file.seek(self.tail.size)
            file.write(fragment[:4] + b"free" + fragment[8:])
            file.flush()
            os.fsync(file.fileno())
            file.seek(name)
            file.write(fragment[4:8])
            file.flush()
            os.fsync(file.fileno())

    def _encode(self, frames: Tensor) -> bytes:
        _, fragment = split(encode(frames, self.form))
        return placed(fragment, self.tail.num_frames // self.form.segment + 1, self.tail.num_frames)


def encode(frames: UInt8[Tensor, "T H W 3"], form: Format, comment: str | None = None) -> bytes:
    """A whole fragmented MP4 of these frames as one fragment. Odd sizes are padded by a repeated row or column."""
    buffer, tick = BytesIO(), 1 / form.fps
    flags = "frag_keyframe+empty_moov+default_base_moof+skip_trailer"
    with av.open(buffer, "w", format="mp4", options={"movflags": flags}) as container:
        if comment:
            container.metadata["comment"] = comment
        # One key frame, no frames out of order, one thread, and no code that differs by CPU (x264's also reads memory
        # that nobody set, and gives other bytes one time in a hundred): the bytes are a function of the frames
        options = {"crf": str(form.crf), "preset": "medium", "bf": "0", "sc_threshold": "0", "g": "100000"}
        options |= {"threads": "1", "x264-params": "cpu-independent=1"}
        stream: Any = container.add_stream("libx264", rate=form.fps, options=options)
        stream.width, stream.height = form.width + form.width % 2, form.height + form.height % 2
        stream.pix_fmt, stream.time_base = "yuv420p", tick
        coder = stream.codec_context
        coder.time_base, coder.colorspace, coder.color_range = tick, Colorspace.ITU709, ColorRange.MPEG
        coder.color_primaries = coder.color_trc = BT709
        for number, pixels in enumerate(frames):
            container.mux(stream.encode(_picture(pixels, form, number, tick)))
        container.mux(stream.encode())
    return buffer.getvalue()


def _picture(pixels: Tensor, form: Format, number: int, tick: Fraction) -> av.VideoFrame:
    array = np.ascontiguousarray(pixels.numpy())
    if array.shape != (form.height, form.width, 3):
        raise ValueError(f"frames must be {form.height} x {form.width} x 3, got {' x '.join(map(str, array.shape))}")
    if form.width % 2 or form.height % 2:
        array = np.pad(array, ((0, form.height % 2), (0, form.width % 2), (0, 0)), mode="edge")
    picture = av.VideoFrame.from_ndarray(array, format="rgb24")
    picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
    picture.pts, picture.time_base = number, tick
    return picture


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
