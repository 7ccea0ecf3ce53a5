"""Frames as one fragment of an MP4: H.264 in BT.709, the same bytes for the same frames."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8
from torch import Tensor

from longtake.errors import UsageError
from longtake.output.sound import Sound

SEGMENT_SECONDS = 2
LARGEST = 1 << 28  # of (width + 128)(height + 128), above which libav opens no encoder
BT709 = 1  # colour primaries and transfer, ITU-T H.273


@dataclass(frozen=True)
class Format:
    """Size in pixels, frames a second, x264's quality (lower is better, 14 is visually lossless).

    UsageError for a size that no encoder takes.
    """

    width: int
    height: int
    fps: Fraction
    crf: int = 14

    def __post_init__(self) -> None:
        if (self.width + self.width % 2 + 128) * (self.height + self.height % 2 + 128) >= LARGEST:
            raise UsageError(f"{self.width}x{self.height} is more than a video can hold; give 16000x16000 or less")

    @property
    def segment(self) -> int:
        """Frames of a whole segment."""
        return max(1, round(SEGMENT_SECONDS * self.fps))


def encode(
    frames: UInt8[Tensor, "T H W 3"], form: Format, comment: str | None = None,
    sound: tuple[Sound, int, int] | None = None,
) -> bytes:  # fmt: skip
    """A whole fragmented MP4 of these frames as one fragment. Odd sizes are padded by a repeated row or column.

    `sound` is a track and the first and last (excluded) of its packets that go with the frames.
    """
    buffer, tick = BytesIO(), 1 / form.fps
    # with sound, fragments are not cut at key frames but once, at the end: the muxer may see a sound packet first
    flags = ("frag_custom" if sound else "frag_keyframe") + "+empty_moov+default_base_moof+skip_trailer"
    with av.open(buffer, "w", format="mp4", options={"movflags": flags}) as container:
        if comment:
            container.metadata["comment"] = comment
        stream = _picture_stream(container, form, tick)
        track = container.add_stream_from_template(sound[0].stream) if sound else None
        for number, pixels in enumerate(frames):
            container.mux(stream.encode(_picture(pixels, form, number, tick)))
        container.mux(stream.encode())
        if sound is not None:
            container.mux([packet for packet in sound[0].packets(*sound[1:], track)])
    return buffer.getvalue()


def _picture_stream(container: Any, form: Format, tick: Fraction) -> Any:
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
    return stream


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
