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
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from longtake.errors import UsageError
from longtake.output.boxes import boxes, count_frames, placed, split
from longtake.output.disk import room
from longtake.output.encoding import Format as Format
from longtake.output.encoding import encode as encode
from longtake.output.reading import contact_sheet as contact_sheet
from longtake.output.reading import last_frames as last_frames
from longtake.output.reading import probe as probe
from longtake.output.reading import read_frames as read_frames
from longtake.output.sound import Sound


@dataclass(frozen=True, eq=False)
class Tail:
    """Where a film stands: bytes (behind the head) and frames in whole segments, and the frames that wait (T, H, W, 3).

    Bytes are counted from the end of the file's head, so that the same state fits a film with another comment.
    """

    size: int = 0
    num_frames: int = 0
    pending: UInt8[Tensor, "T H W 3"] | None = None


class VideoWriter:
    """Appends frames to an MP4 file. `tail` belongs in the checkpoint; given back, the film goes on from there.

    What the file holds behind `tail` was filmed by a process that is gone. It stays for as long as the frames made
    again come to the same bytes, so nothing that could be seen is ever taken away. `comment` is kept in the file's
    metadata, `sound` in a second track. Not a context manager: `flush` may be called at any time and again.
    """

    def __init__(
        self,
        path: Path,
        form: Format,
        tail: Tail | None = None,
        comment: str | None = None,
        sound: Sound | None = None,
    ) -> None:
        self.path, self.form, self.sound, self.tail = path, form, sound, tail or Tail()
        black = torch.zeros(1, form.height, form.width, 3, dtype=torch.uint8)
        # The head is the same whatever the frames; with it in place the file opens from the start
        head, _ = split(encode(black, form, comment, (sound, 0, 0) if sound else None))
        self._head = len(head)
        length, held = head_of(path)
        size = path.stat().st_size if path.exists() else 0
        if self.tail.size and size - length < self.tail.size:
            raise UsageError(
                f"{path} has {size} bytes, fewer than the {length + self.tail.size} of its checkpoint; "
                "it was cut off or changed, so the run cannot be resumed"
            )
        if held != head:
            _rehead(path, head, length if self.tail.size else size)
        self._known = path.stat().st_size

    def write(self, frames: UInt8[Tensor, "T H W 3"]) -> None:
        """Take frames; whole segments go to disk, the rest waits in `tail`. DiskFullError leaves all as it was."""
        pending = frames.cpu() if self.tail.pending is None else torch.cat([self.tail.pending, frames.cpu()])
        length = self.form.segment
        while len(pending) >= length:
            data = self._encode(pending[:length])
            self._append(data)
            self.tail = Tail(self.tail.size + len(data), self.tail.num_frames + length)
            pending = pending[length:]
        # a clone: a view would keep the whole batch alive
        self.tail = Tail(self.tail.size, self.tail.num_frames, pending.clone() if len(pending) else None)

    def flush(self, last: bool = False) -> None:
        """Let the waiting frames be seen as a short last segment, which the next whole segment replaces.

        With `last` nothing stays behind it; else a film that already shows as much is left alone.
        """
        place = self._head + self.tail.size
        if self.tail.pending is not None and (last or self._shown() < len(self.tail.pending)):
            self._append(self._encode(self.tail.pending), last)
        elif last and self.tail.pending is None:
            os.truncate(self.path, place)
            self._known = place

    def _shown(self) -> int:
        # frames in the fragment behind the tail that an earlier process left there
        place = self._head + self.tail.size
        if self._known <= place:
            return 0
        with open(self.path, "rb") as file:
            file.seek(place)
            return count_frames(file.read(1 << 16))

    def _append(self, fragment: bytes, last: bool = False) -> None:
        place = self._head + self.tail.size
        end = place + len(fragment)
        if end <= self._known and not (last and end < self._known):
            with open(self.path, "rb") as file:
                file.seek(place)
                if file.read(len(fragment)) == fragment:
                    return
        self._known = 0
        with room(self.path, len(fragment)):
            try:
                self._write(fragment, place)
            except OSError:
                os.truncate(self.path, place)
                raise

    def _write(self, fragment: bytes, place: int) -> None:
        with open(self.path, "r+b") as file:
            file.truncate(place)
            file.seek(place)
            file.write(fragment[:4] + b"free" + fragment[8:])
            file.flush()
            os.fsync(file.fileno())
            file.seek(place + 4)
            file.write(fragment[4:8])
            file.flush()
            os.fsync(file.fileno())

    def _encode(self, frames: Tensor) -> bytes:
        start = self.tail.num_frames
        track, sample = None, 0
        if self.sound is not None:
            begin, end = (self.sound.packet_at(number / self.form.fps) for number in (start, start + len(frames)))
            track, sample = (self.sound, begin, end), begin * self.sound.step
        _, fragment = split(encode(frames, self.form, sound=track))
        return placed(fragment, start // self.form.segment + 1, start, sample)


def head_of(path: Path) -> tuple[int, bytes]:
    """(length, bytes) of the head, ftyp and moov, of a film; (0, b"") if there is none."""
    if not path.exists():
        return 0, b""
    with open(path, "rb") as file:
        data = file.read(1 << 16)
    try:
        stop = next(stop for name, _, stop in boxes(data) if name == b"moov")
    except (StopIteration, ValueError):
        return 0, b""
    return stop, data[:stop]


def _rehead(path: Path, head: bytes, skip: int) -> None:
    # Another head before the bytes from `skip` on, all at once
    fresh = path.with_name(path.name + ".new")
    with room(path, len(head) + (path.stat().st_size if path.exists() else 0)):
        try:
            with open(fresh, "wb") as file:
                file.write(head)
                if path.exists():
                    with open(path, "rb") as old:
                        old.seek(skip)
                        shutil.copyfileobj(old, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        os.replace(fresh, path)
