"""Where networks work, when that is not where their weights wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


class Stage:
    """Keeps at most one of several parts on the device: the one that works."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.front: nn.Module | None = None

    def call(self, part: nn.Module) -> None:
        """Bring `part` to the device, and the one before back to the host."""
        if self.front is not part:
            if self.front is not None:
                self.front.to("cpu")
            self.front = part.to(self.device)


@contextmanager
def visiting(part: nn.Module, home: torch.device | None) -> Iterator[None]:
    """While open, `part` is on `home`, and on the host again afterwards; None: it stays where it is."""
    if home is None:
        yield
        return
    part.to(home)
    try:
        yield
    finally:
        part.to("cpu")


def nothing(part: nn.Module) -> AbstractContextManager[Any]:
    """A part needs nothing around it."""
    return nullcontext()


class Place:
    """The device that a denoiser or a codec works on (`home`, None: where its weights are).

    With a `stage` a part is brought there while it works; those named in `streamed` come block by block by themselves.
    `around` gives what is to be open while a part works (models/attention).
    """

    def __init__(
        self, home: torch.device | None = None, stage: Stage | None = None, streamed: tuple[nn.Module, ...] = ()
    ) -> None:
        self.home, self.stage, self.streamed = home, stage, streamed
        self.around: Callable[[nn.Module], AbstractContextManager[Any]] = nothing

    @contextmanager
    def working(self, part: nn.Module) -> Iterator[None]:
        """While open, `part` is where it works."""
        if self.stage is not None and not any(part is other for other in self.streamed):
            self.stage.call(part)
        with self.around(part):
            yield
