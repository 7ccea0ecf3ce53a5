"""Plans without a network: which calls nothing reads, and how far a change reaches back (what a run costs: forecast).

All run the rollout itself on latents without channels and watch the calls it makes, so there is no second
formula that could disagree with the code. Formulas stand in the tests, as the other side.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.model import Capabilities
from longtake.core.rollout import Emission, Rollout, Timeline, View
from longtake.core.schedule import NoiseSchedule
from longtake.core.step import Call
from longtake.core.tree import map_tensors


def dead_calls(rollout: Rollout[Any], state: Any, until: int) -> list[frozenset[int]]:
    """For each tick from `state` to the end: the numbers of the calls that no latent before `until` depends on.

    A light cone, walked backwards: a call lives if it writes a row that is read later, and then what it reads lives.
    Searches decide by what they see in flight, so nothing of theirs is dead.
    """
    if not fixed(rollout):
        return []
    watcher = _Watcher()
    ghost, now = emptied(rollout), map_tensors(lambda x: x[:0], state)
    ticks: list[tuple[list[list[Call]], Emission]] = []
    while now.emitted < until and not now.finished:
        watcher.lists = []
        now, emission = watcher.drive(ghost.step(now))
        ticks.append((watcher.lists, emission))
    alive: set[int] = set()
    dead: list[frozenset[int]] = []
    for lists, emission in reversed(ticks):
        alive.update(index for index in range(emission.start, emission.stop) if index < until)
        dead.append(frozenset(_dead_in_tick(lists, alive)))
    return dead[::-1]


def _dead_in_tick(lists: Sequence[Sequence[Call]], alive: set[int]) -> set[int]:
    # Numbers calls over the whole tick, as Engine.drive does; widens `alive` to what the living calls read
    dead: set[int] = set()
    number = sum(len(calls) for calls in lists)
    for calls in reversed(lists):
        number -= len(calls)
        living = [not alive.isdisjoint(call.window.write) for call in calls]
        dead.update(number + place for place, lives in enumerate(living) if not lives)
        for call, lives in zip(calls, living, strict=True):
            if lives:
                alive.update(call.window.read)
    return dead


@lru_cache(maxsize=256)
def reach(rollout: Rollout[Any]) -> int:
    """How many latents before row j can change when the prompt changes at row j, over all places of j in the cycle.

    Spreads the change through the calls of a ghost run: a call is touched if its prompt is the new one or if it reads
    a touched row, and then touches what it writes.
    """
    ghost = emptied(rollout)
    base, cycle = 2 * rollout.in_flight + 2, max(getattr(rollout, "cycle", 1), 1)
    return max(_reach_at(ghost, change) for change in range(base, base + cycle))


def _reach_at(ghost: Rollout[Any], change: int) -> int:
    watcher = _Watcher()
    state = watcher.drive(ghost.init(0, Timeline(((0, "a"), (change, "b")))))
    touched: set[int] = set()
    while state.emitted < change and not state.finished:
        watcher.lists = []
        state, emission = watcher.drive(ghost.step(state))
        for calls in watcher.lists:
            hit = [call for call in calls if call.cond == "b" or not touched.isdisjoint(call.window.read)]
            touched.update(index for call in hit for index in call.window.write)
        early = [index for index in range(emission.start, emission.stop) if index in touched]
        if early:
            return max(change - early[0], 0)
    return 0


def fixed(rollout: Rollout[Any]) -> bool:
    """Whether the calls of a rollout are known in advance: true unless it or what it wraps decides by a reward."""
    return not hasattr(rollout, "inner")


def emptied(rollout: Any) -> Any:
    """The same rollout on latents without channels, its rewards replaced by one that prefers nobody."""
    changes: dict[str, Any] = {}
    for field in fields(rollout):
        value = getattr(rollout, field.name)
        if field.name == "shape":
            changes["shape"] = (0, *value[1:])
        elif field.name == "codec" and value is not None:
            changes["codec"] = GhostCodec()
        elif field.name == "reward":
            changes["reward"] = _Indifferent()
        elif field.name == "inner" and is_dataclass(value):
            changes["inner"] = emptied(value)
    return replace(rollout, **changes)


class GhostCodec:
    """Stands in for an autoencoder where only costs are asked for: its frames are the latents themselves."""

    def decode(self, z: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """The latents, as if they were frames."""
        return z, None

    def encode(self, frames: Tensor) -> Tensor:
        """And back."""
        return frames


class _Indifferent:
    needs: frozenset[str] = frozenset()

    def __call__(self, views: list[View]) -> list[float]:
        return [0.0] * len(views)


class Ghost:
    """A denoiser of latents without channels."""

    schedule = NoiseSchedule((1.0, 0.0), (0.0, 1.0), (0.0, 1.0))
    can = Capabilities(1, (0, 1, 1))
    device = torch.device("cpu")

    def __init__(self, cost: int = 1) -> None:
        self.cost = cost

    def __call__(self, x: Tensor, levels: Tensor, cond: Sequence[str]) -> Tensor:
        return x


class _Watcher(Engine):
    """An engine that writes down the lists of calls it is asked for."""

    def __init__(self) -> None:
        super().__init__(Ghost(), batch=1 << 20)
        self.lists: list[list[Call]] = []

    def answer(self, calls: Sequence[Call], dead: Collection[int] = ()) -> list[Tensor]:
        self.lists.append(list(calls))
        return [torch.stack(call.x) for call in calls]
