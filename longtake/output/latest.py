"""`latest.webp`: the newest frame of a run, for whoever watches its folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from torch import Tensor

EVERY_SECONDS = 1.0


class Latest:
    """Writes the newest frame at most once a second, as a whole each time. It is a courtesy: no error of it matters."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path, self.clock = path, clock
        self._due = -float("inf")

    def show(self, frame: Tensor, last: bool = False) -> None:
        """`frame` is (H, W, 3) uint8."""
        if not last and self.clock() < self._due:
            return
        self._due = self.clock() + EVERY_SECONDS
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            Image.fromarray(frame.numpy()).save(fresh, "webp", quality=85, method=0)
            os.replace(fresh, self.path)
        except OSError:
            fresh.unlink(missing_ok=True)
