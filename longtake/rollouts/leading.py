"""The video's own first latent at position 0 of the windows that continue it: `lead=first` of chunk and progressive.

Image-first networks learned to find a picture's latent there, which a continuing window does not have. Only a row that
is read and not written is exchanged, and only while the network reads: the queue keeps what it is. A video that begins
with the user's picture or clip has the first latent of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from torch import Tensor

from longtake.core.rollout import Emission
from longtake.rollouts.diagonal import LineState


@dataclass(frozen=True, eq=False)
class LedState(LineState):
    """With the first latent (C, H, W) of the video, None before it is known."""

    first: Tensor | None = None


Led = TypeVar("Led", bound=LedState)


def begun(state: LineState, kind: type[Led], context: Sequence[Tensor]) -> Led:
    """The state as one of this kind; its first latent is that of the clip to continue, if there is one."""
    plain = {item.name: getattr(state, item.name) for item in fields(LineState)}
    return kind(**plain, first=context[0] if context else None)


def led(state: LineState) -> LineState:
    """The state as the network reads it: the first latent in the place of the oldest finished row."""
    first = getattr(state, "first", None)
    if first is None or state.queue.start >= state.head:
        return state
    return replace(state, queue=state.queue.replaced([replace(state.queue.rows[0], x=first)]))


def unled(state: LineState, following: LineState) -> LineState:
    """The state after a tick on `led(state)`, the row that was exchanged as it was in `state`."""
    held = state.queue.rows[0]
    if held.index >= state.head or held.index < following.queue.start:
        return following
    return replace(following, queue=following.queue.replaced([held]))


def noted(following: LineState, emission: Emission) -> LineState:
    """The state, knowing the first latent once it is out."""
    if emission.latents and getattr(following, "first", emission) is None:
        return replace(following, first=emission.latents[0])  # type: ignore[call-arg]
    return following
