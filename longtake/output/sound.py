"""A sound track for a film: any audio file becomes AAC once, in the run's folder, and goes into the film by packets.

AAC comes in packets of 1,024 samples. A segment of the film takes the packets that begin while it plays, so segments
join without a gap, a resumed film holds the same bytes, and nothing but the packets of one segment is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from longtake.errors import UsageError
from longtake.output.disk import room

RATE = 48000
BITS = 128_000
PRIMING = 1
"""Packets at the start of an encoded file that only warm the decoder; sample 0 of the source follows them."""


def store_sound(source: Path | str, target: Path) -> None:
    """Encode the first sound track of `source` as AAC in `target`, as a whole or not at all. UsageError if it has none.

    `source` may be any file that holds sound, a film too.
    """
    fresh = target.with_name(target.name + ".new")
    try:
        with room(target, 1 << 20):
            try:
                _encode(source, fresh)
            except av.error.FFmpegError as error:
                raise _as_os_error(error) from error
            fresh.replace(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def check_sound(source: Path | str) -> None:
    """UsageError unless `source` is a file with sound that can be read."""
    with _opened(source) as container:
        try:
            next(container.decode(audio=0))
        except (av.error.FFmpegError, StopIteration) as error:
            raise UsageError(f"--audio {source} holds no sound that can be read") from error


class Sound:
    """The packets of a stored track by number, packet 0 beginning with the film. Keeps one file open."""

    def __init__(self, path: Path) -> None:
        self.path, self.step = path, 1024
        self._container: Any = None
        self._rewind()

    def packet_at(self, seconds: Fraction) -> int:
        """The first packet that begins at or after a moment of the film."""
        return math.ceil(seconds * RATE / self.step)

    def packets(self, first: int, stop: int, track: Any) -> Iterator[av.Packet]:
        """Packets first..stop-1, those that there are, for `track`, timed from the first on."""
        if first < self._next:
            self._rewind()
        while self._next < stop:
            packet = next(self._source, None)
            if packet is None or packet.size == 0:
                return
            number, self._next = self._next, self._next + 1
            if number >= first:
                copy = av.Packet(bytes(packet))
                copy.pts = copy.dts = (number - first) * self.step
                copy.duration, copy.time_base, copy.stream = self.step, Fraction(1, RATE), track
                yield copy

    @property
    def stream(self) -> Any:
        """The track that others are made like."""
        return self._container.streams.audio[0]

    def _rewind(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = _opened(self.path)
        self._source = self._container.demux(audio=0)
        self._next = -PRIMING


def _encode(source: Path | str, target: Path) -> None:
    with _opened(source) as container, av.open(str(target), "w", format="ipod") as out:
        track: Any = out.add_stream("aac", rate=RATE)
        track.layout, track.bit_rate = "stereo", BITS
        shaper = av.AudioResampler(format="fltp", layout="stereo", rate=RATE)
        heard, frames = 0, container.decode(audio=0)
        while (frame := _next_frame(frames)) is not None:
            frame.pts = None
            for part in shaper.resample(frame):
                part.pts, heard = heard, heard + part.samples
                out.mux(track.encode(part))
        for part in shaper.resample(None):
            part.pts, heard = heard, heard + part.samples
            out.mux(track.encode(part))
        if heard == 0:
            raise UsageError(f"--audio {source} holds no sound that can be read")
        out.mux(track.encode())


def _next_frame(frames: Iterator[Any]) -> Any:
    try:
        return next(frames, None)
    except av.error.InvalidDataError:  # a file that was cut off: what comes before is heard
        return None


def _opened(source: Path | str) -> Any:
    if not Path(source).is_file():
        raise UsageError(
            f"--audio {source}: {'that is a folder' if Path(source).is_dir() else 'there is no such file'}"
        )
    try:
        container = av.open(str(source))
    except (av.error.FFmpegError, ValueError) as error:
        raise UsageError(f"--audio {source} is no file with sound that can be read") from error
    if not container.streams.audio:
        container.close()
        raise UsageError(f"--audio {source} has no sound track")
    return container


def _as_os_error(error: Any) -> OSError:
    return error if isinstance(error, OSError) else OSError(getattr(error, "errno", 0), str(error))
