"""Where networks work, when that is not where their weights wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class Stage:
    """Keeps at most one of several parts on the device: the one that works.

    Its weights stay in the host's memory too, so that nothing is copied back when another part is called: they are
    frozen, and in a queue network and autoencoder take turns at every tick.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.front: nn.Module | None = None
        self._waiting: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []

    def call(self, part: nn.Module) -> None:
        """Bring `part` to the device; the one before is on the host again."""
        if self.front is part:
            return
        self._leave()
        self._waiting = [
            (tensors, name, value, value.data)
            for module in part.modules()
            for tensors in (module._parameters, module._buffers)
            for name, value in tensors.items()
            if value is not None
        ]
        self.front = part.to(self.device)

    def _leave(self) -> None:
        # the very tensors as they were, whether moving changed their data or put others in their place
        for tensors, name, value, data in self._waiting:
            value.data = data
            tensors[name] = value
        self.front, self._waiting = None, []


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
