"""The few boxes of an MP4 file (ISO 14496-12) that have to be read or changed to append one fragment to another's file.

An MP4 is a list of boxes, each a 4-byte length, a 4-byte name and its content, which may be boxes again.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path

HEADER = 8
VIDEO = 1
"""Number of the film's track; sound is the second."""


def boxes(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(name, start of content, stop) of each box in data[start:stop]."""
    stop = len(data) if stop is None else stop
    while start + HEADER <= stop:
        length, name = struct.unpack_from(">I4s", data, start)
        if length < HEADER:
            raise ValueError(f"box {name!r} has length {length}")
        yield name, start + HEADER, start + length
        start += length


def split(data: bytes) -> tuple[bytes, bytes]:
    """A fragmented MP4 as (ftyp + moov, moof + mdat); anything else in it is dropped."""
    parts = {name: data[start - HEADER : stop] for name, start, stop in boxes(data)}
    return parts[b"ftyp"] + parts[b"moov"], parts[b"moof"] + parts[b"mdat"]


def placed(fragment: bytes, number: int, first: int, sample: int = 0) -> bytes:
    """The fragment as the `number`-th of its file (from 1), its first frame being frame `first` (from 0).

    `sample` is where its sound begins, in samples, if it has a second track.
    """
    data = bytearray(fragment)
    sequence = _find(fragment, (b"moof", b"mfhd"))
    struct.pack_into(">I", data, sequence + 4, number)
    start, stop = next((start, stop) for name, start, stop in boxes(fragment) if name == b"moof")
    for name, inside, end in boxes(fragment, start, stop):
        if name == b"traf":
            time, head = _find(fragment, (b"tfdt",), inside, end), _find(fragment, (b"tfhd",), inside, end)
            if data[time] != 1:
                raise ValueError("expected 64-bit decode times in a fragment")
            track = int.from_bytes(fragment[head + 4 : head + 8], "big")
            begins = first * _frame_ticks(fragment, head) if track == VIDEO else sample
            struct.pack_into(">Q", data, time + 4, begins)
    return bytes(data)


def count_frames(fragment: bytes) -> int:
    """Frames in a fragment, or in what is left of one; 0 if it is none. The film's track comes first in it."""
    try:
        place = _find(fragment, (b"moof", b"traf", b"trun"))
        return int.from_bytes(fragment[place + 4 : place + 8], "big")
    except (ValueError, struct.error):
        return 0


def frames_in(path: Path) -> int:
    """Frames of a film by its whole fragments, without decoding it; 0 if there is none."""
    if not path.exists():
        return 0
    total, told, place, size = 0, 0, 0, path.stat().st_size
    with open(path, "rb") as file:
        while len(header := file.read(HEADER)) == HEADER:
            length, name = struct.unpack(">I4s", header)
            if length < HEADER or place + length > size:
                break
            if name == b"moof":
                told = count_frames(header + file.read(length - HEADER))
            elif name == b"mdat":  # a fragment without its pictures is none
                total, told = total + told, 0
            place += length
            file.seek(place)
    return total


def _frame_ticks(fragment: bytes, place: int) -> int:
    # tfhd: version and flags, track, then the optional fields that the flags announce, in this order
    flags = int.from_bytes(fragment[place + 1 : place + 4], "big")
    if not flags & 0x8:
        raise ValueError("expected a default frame duration in a fragment")
    skip = (8 if flags & 0x1 else 0) + (4 if flags & 0x2 else 0)
    return int.from_bytes(fragment[place + 8 + skip : place + 12 + skip], "big")


def _find(data: bytes, path: tuple[bytes, ...], start: int = 0, stop: int | None = None) -> int:
    # Start of the content of the box at the end of `path`
    for name, inside, end in boxes(data, start, stop):
        if name == path[0]:
            return inside if len(path) == 1 else _find(data, path[1:], inside, end)
    raise ValueError(f"no box {path[0]!r} in a fragment")


class WholeBoxes(io.FileIO):
    """An MP4 file up to the end of its last whole box, for reading."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, "rb")
        length = os.fstat(self.fileno()).st_size
        self.size = 0
        while len(header := super().read(HEADER)) == HEADER:
            step, name = struct.unpack(">I4s", header)
            if step < HEADER or self.size + step > length or not name.isalnum():
                break
            self.size += step
            super().seek(self.size)
        super().seek(0)

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, none behind the last whole box."""
        left = max(self.size - self.tell(), 0)
        return super().read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As a file of `size` bytes would."""
        return super().seek(self.size + offset) if whence == os.SEEK_END else super().seek(offset, whence)
