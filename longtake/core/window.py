"""Window planning: which rows a network call reads and which of them it commits. Integers only, no torch.

Every reference implementation has its bugs here, so this is one function with laws of its own: the writes of a
sweep tile their range exactly once, each write lies inside its read, and no two windows read the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Literal

Side = Literal["before", "after"]


@dataclass(frozen=True)
class Window:
    """Absolute indices of the rows read (anchors are read and not written) and of those written.

    to      the level that written rows move to; -1 means one down
    level   the level at which all rows are read, from the queue's `old` where they have moved on; -1: as they are
    weight  of each written row, where several windows write it and their estimates are averaged; (): one window does
    """

    read: tuple[int, ...]
    write: tuple[int, ...]
    to: int = -1
    level: int = -1
    weight: tuple[float, ...] = ()


@dataclass(frozen=True)
class Grid:
    """How a range of rows is cut into windows.

    size     rows that one window reads, anchors included
    stride   rows that it writes; a fraction such as 17/2 alternates between 8 and 9 (halves of odd windows)
    side     "before" reads cleaner rows and writes the noisier end (FIFO); "after" the reverse (MIGA)
    """

    size: int
    stride: int | Fraction
    side: Side = "before"

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.stride <= self.size:
            raise ValueError(f"stride must be in 1..{max(self.size, 1)} (the window), got {self.stride}")
        if self.side not in ("before", "after"):
            raise ValueError(f"side must be 'before' or 'after', got {self.side!r}")


Anchors = Sequence[int] | Callable[[int], Sequence[int]]
"""Rows that a window reads besides its own, or how they follow from the first row of the window."""


def sweep(
    rows: range, grid: Grid, offset: int = 0, limits: range | None = None, anchors: Anchors = (), most: int = 0
) -> list[Window]:
    """Windows that write each of `rows` once and read up to `grid.size` rows of `limits`, first to last.

    Blocks lie on the absolute grid offset + i * stride. `limits` are the rows that may be read (default: `rows`); at
    its ends a window slides inwards and keeps its size. `anchors` are rows outside the window that it reads in front,
    at most `most` where they depend on the window; one without anchors reads its full size.
    """
    limits = limits or rows
    most = most if callable(anchors) else len(anchors)
    if grid.size - most < grid.stride:
        raise ValueError(f"{most} anchors leave {grid.size - most} of {grid.size} rows, below the stride {grid.stride}")
    merged: list[tuple[tuple[int, ...], list[int]]] = []
    for block in _blocks(rows, grid.stride, offset):
        read = _read(block, grid, grid.size - most, limits)
        outside = tuple(anchors(read.start)) if callable(anchors) else tuple(a for a in anchors if a not in read)
        if len(outside) < most:
            read = _read(block, grid, grid.size - len(outside), limits)
        if merged and merged[-1][0] == (*outside, *read):
            merged[-1][1].extend(block)
        else:
            merged.append(((*outside, *read), [*block]))
    return [Window(read, tuple(write)) for read, write in merged]


def _read(block: range, grid: Grid, size: int, limits: range) -> range:
    first = block.stop - size if grid.side == "before" else block.start
    first = max(min(first, limits.stop - size), limits.start)
    return range(first, min(first + size, limits.stop))


def _blocks(rows: range, stride: int | Fraction, offset: int) -> list[range]:
    # The grid cells that meet `rows`, cut to it. Exact fractions: cell i starts at ceil(offset + i * stride).
    cell = floor(Fraction(rows.start - offset) / stride)
    blocks = []
    while (start := ceil(offset + cell * Fraction(stride))) < rows.stop:
        stop = ceil(offset + (cell + 1) * Fraction(stride))
        cut = range(max(start, rows.start), min(stop, rows.stop))
        if cut:
            blocks.append(cut)
        cell += 1
    return blocks
