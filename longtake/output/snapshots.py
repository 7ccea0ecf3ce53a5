"""Earlier states of a run, so that any moment of it can be gone back to without making it all again.

One is kept every 5 seconds of film. More than 32 are thinned: the one goes whose neighbours are closest together,
measured against how long ago they are. So they lie ever wider apart the further back they are, as on a log scale, and
the way to any moment is short for what was just made and bounded for what is old, while the disk holds 32 at most.
Where states are large, as the decoder's cache of a real autoencoder makes them (gigabytes at 832x480), fewer are kept:
together they take `BYTES` at most, but there are always two.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from longtake.output import checkpoint

EVERY_SECONDS = 5
LIMIT = 32
BYTES = 8 << 30


class Snapshots:
    """The snapshots in a folder, by the number of frames filmed when they were taken."""

    def __init__(self, folder: Path, fps: Fraction = Fraction(1)) -> None:
        self.folder = folder
        self.step = max(1, round(EVERY_SECONDS * fps))
        self._next = self.step

    @property
    def frames(self) -> list[int]:
        """What there is, in order."""
        if not self.folder.is_dir():
            return []
        found = (re.fullmatch(r"(\d{1,15})\.json", path.name) for path in self.folder.iterdir())
        return sorted(int(match.group(1)) for match in found if match)

    def keep(self, position: Any) -> None:
        """Keep a position whatever its time."""
        self._save(position)

    def begin(self, position: Any) -> None:
        """Set out from a position: snapshots behind it are of another future and go, and the first is kept."""
        for frames in self.frames:
            if frames > position.frames:
                self._remove(frames)
        self._next = (position.frames // self.step + 1) * self.step
        if position.released == 0:  # not one that holds a clip which is not shown yet
            self._save(position)

    def offer(self, position: Any) -> None:
        """Keep a position if 5 seconds of film have passed since the last one kept."""
        if position.frames >= self._next:
            self._next = (position.frames // self.step + 1) * self.step
            self._save(position)

    def load(self, frames: int, device: Any = None) -> Any:
        """The position saved at this number of frames."""
        return checkpoint.load(self.folder, _name(frames), device)

    def name(self, frames: int) -> str:
        """The name of the checkpoint with this number of frames."""
        return _name(frames)

    def _save(self, position: Any) -> None:
        self.folder.mkdir(exist_ok=True)
        checkpoint.save(position, self.folder, _name(position.frames))
        each = (self.folder / f"{_name(position.frames)}.safetensors").stat().st_size
        for frames in thinned(self.frames, position.frames, min(LIMIT, BYTES // max(each, 1))):
            self._remove(frames)

    def _remove(self, frames: int) -> None:
        # the JSON first: without it the other is nothing
        for ending in ("json", "safetensors", "safetensors.new"):
            (self.folder / f"{_name(frames)}.{ending}").unlink(missing_ok=True)


def thinned(frames: list[int], now: int, limit: int = LIMIT) -> list[int]:
    """Which of these to remove so that `limit` are left; never the first or the last."""
    kept, gone = sorted(frames), []
    while len(kept) > max(limit, 2):
        gaps = [(kept[i + 1] - kept[i - 1]) / (now - kept[i - 1] + 1) for i in range(1, len(kept) - 1)]
        gone.append(kept.pop(1 + min(range(len(gaps)), key=lambda place: gaps[place])))
    return gone


def _name(frames: int) -> str:
    return f"{frames:09d}"
