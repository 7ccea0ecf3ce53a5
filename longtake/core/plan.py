"""Plans without a network: which calls nothing reads, and how far a change reaches back (what a run costs: forecast).

All run the rollout itself on latents without channels and watch the calls it makes, so there is no second
formula that could disagree with the code. Formulas stand in the tests, as the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from longtake.core.engine import Engine
from longtake.core.model import Capabilities, Cond
from longtake.core.rollout import Emission, Rollout, Timeline, View
from longtake.core.rows import Row
from longtake.core.schedule import NoiseSchedule
from longtake.core.step import Call
from longtake.core.tree import map_tensors, walk


def dead_calls(rollout: Rollout[Any], state: Any, until: int) -> list[frozenset[int]]:
    """For each tick from `state` to the end: the numbers of the calls that no latent before `until` depends on.

    A light cone, walked backwards: a call lives if it writes a row that is read later, and then what it reads lives.
    Searches decide by what they see in flight, so nothing of theirs is dead.
    """
    if not fixed(rollout):
        return []
    watcher = _Watcher()
    ghost, now = emptied(rollout), map_tensors(lambda x: x[:0].cpu(), state)
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
    a touched version of a row, and then touches those that it writes.
    """
    ghost, watcher = emptied(rollout), _Watcher()
    state = watcher.drive(ghost.init(0, Timeline.of("a")))
    while not state.finished and state.emitted < rollout.in_flight:
        state, _ = watcher.drive(ghost.step(state))
    if state.finished:
        return max(state.emitted - 1, 0)
    # no row from here on has entered, so the past is the same for every change
    entered = max(row.index for row in walk(state) if isinstance(row, Row)) + 1
    return max(_reach_at(ghost, state, entered + place) for place in range(max(getattr(rollout, "cycle", 1), 1)))


def _reach_at(ghost: Rollout[Any], state: Any, change: int) -> int:
    watcher, versions = _Watcher(), _Versions(state)
    state = replace(state, timeline=Timeline(((0, "a"), (change, "b"))))
    while state.emitted < change and not state.finished:
        watcher.lists = []
        state, emission = watcher.drive(ghost.step(state))
        for calls in watcher.lists:
            versions.follow(calls)
        early = [index for index in range(emission.start, emission.stop) if index in versions.clean]
        if early:
            return max(change - early[0], 0)
    return 0


class _Versions:
    """Which versions of rows a change has touched.

    A version is a tensor, not a level: a row that is noised again (`miga.refine`) passes some levels twice, and windows
    may still read how it was at them the first time.
    """

    def __init__(self, state: Any) -> None:
        self.known: dict[int, tuple[Tensor, bool]] = {}  # the tensors are held, so that no other gets their number
        self.written: dict[tuple[int, int], bool] = {}  # by row and level, until they are read
        self.clean: set[int] = set()  # rows that were touched when they were finished
        map_tensors(lambda x: self.known.setdefault(id(x), (x, False))[0], state)

    def follow(self, calls: Sequence[Call]) -> None:
        """Calls of one list, which all read before any writes."""
        made: dict[tuple[int, int], bool] = {}
        for call in calls:
            # all of what it reads, as each version is looked up where it is read first
            hit = call.cond == "b" or any([self._touched(*row) for row in self._read(call)])
            level = dict(zip(call.window.read, call.levels, strict=True))
            for index in call.window.write:
                version = index, level[index] - 1 if call.window.to < 0 else call.window.to
                made[version] = made.get(version, False) or hit
        self.written |= made
        self.clean |= {index for (index, level), hit in made.items() if hit and level == 0}

    def _read(self, call: Call) -> Iterator[tuple[int, int, Tensor]]:
        return zip(call.window.read, call.levels, call.x, strict=True)

    def _touched(self, index: int, level: int, x: Tensor) -> bool:
        if id(x) not in self.known:
            # what no call wrote was made of the finished row (noised context, a row that is noised again)
            self.known[id(x)] = (x, self.written.pop((index, level), index in self.clean))
        return self.known[id(x)][1]


@lru_cache(maxsize=256)
def level_gaps(rollout: Rollout[Any]) -> tuple[float, int]:
    """(mean, largest) difference of level inside a network call, once running (the gap of MIGA Sec. 3.2).

    Rows at level 0 do not count where models are trained to read clean frames in front; every other row does.
    """
    ghost, watcher = emptied(rollout), _Watcher()
    state = watcher.drive(ghost.init(0, Timeline.of("")))
    until = 2 * rollout.in_flight + 2
    while not state.finished and state.emitted < until:
        if state.emitted < rollout.in_flight:
            watcher.lists = []
        state, _ = watcher.drive(ghost.step(state))
    gaps = [_gap(call) for calls in watcher.lists for call in calls]
    return sum(gaps) / max(len(gaps), 1), max(gaps, default=0)


def _gap(call: Call) -> int:
    noisy = [level for level in call.levels if level]
    return max(noisy, default=0) - min(noisy, default=0)


@lru_cache(maxsize=256)
def mixes_levels(rollout: Rollout[Any], clean: bool = True) -> bool:
    """Whether a network call of this method can hold rows of different levels, `clean` ones included."""
    ghost, watcher = emptied(rollout), _Watcher()
    state = watcher.drive(ghost.init(0, Timeline.of("")))
    while not state.finished and state.emitted < 2 * rollout.in_flight + 2:
        state, _ = watcher.drive(ghost.step(state))
    passed = set() if clean else {0}
    return any(len(set(call.levels) - passed) > 1 for calls in watcher.lists for call in calls)


@lru_cache(maxsize=256)
def ticks_to_show(rollout: Rollout[Any]) -> tuple[int, int]:
    """Ticks from a decision about fresh noise, once running, to the next emission and to that of the decided row."""
    ghost, watcher = emptied(rollout), _Watcher()
    state = watcher.drive(ghost.init(0, Timeline.of("")))
    while not state.finished and (state.emitted < rollout.in_flight or not ghost.fresh(state)):
        following, _ = watcher.drive(ghost.step(state))
        if following.finished:
            break
        state = following
    if not ghost.fresh(state):  # one clip: decided at the start
        state = watcher.drive(ghost.init(0, Timeline.of("")))
    row, ticks, first = ghost.fresh(state).stop - 1, 0, 0
    while state.emitted <= row and not state.finished:
        state, emission = watcher.drive(ghost.step(state))
        ticks += 1
        first = first or (ticks if emission.latents else 0)
    return first, ticks


def fixed(rollout: Rollout[Any]) -> bool:
    """Whether the calls of a rollout are known in advance: true unless it or what it wraps decides by a reward."""
    return not hasattr(rollout, "inner")


def exact(rollout: Any) -> bool:
    """Whether what a run costs does not depend on what a search sees."""
    own = getattr(rollout, "exact", not hasattr(rollout, "worst"))
    return own and (fixed(rollout) or exact(rollout.inner))


def lag(rollout: Any) -> int:
    """Latents that searches may hold back beyond what a forecast sees them hold."""
    return getattr(rollout, "lag", 0) + (0 if fixed(rollout) else lag(rollout.inner))


def steady(rollout: Any) -> bool:
    """Whether this is a search whose ticks, once running, cost the same for ever.

    Not where what a decision costs is drawn, nor where the queue runs empty at an `end`.
    """
    if fixed(rollout) or drawn(rollout):
        return False
    while hasattr(rollout, "inner"):
        rollout = rollout.inner
    return getattr(rollout, "end", None) is None


def drawn(rollout: Any) -> bool:
    """Whether what a decision costs is drawn, in a search or in one that it wraps."""
    return getattr(rollout, "drawn", False) or (not fixed(rollout) and drawn(rollout.inner))


def emptied(rollout: Any) -> Any:
    """The same rollout on latents without channels, its rewards replaced by one that prefers nobody.

    A search whose cost depends on scores is taken at its `worst`.
    """
    changes: dict[str, Any] = {}
    rollout = getattr(rollout, "worst", rollout)
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

    def __init__(self, cost: int | Callable[[Sequence[int]], int] = 1) -> None:
        self.cost = cost if isinstance(cost, int) else 1
        if not isinstance(cost, int):
            self.cost_of = cost

    def __call__(self, x: Tensor, levels: Tensor, cond: Sequence[Cond]) -> Tensor:
        return x


class _Watcher(Engine):
    """An engine that writes down the lists of calls it is asked for."""

    def __init__(self) -> None:
        super().__init__(Ghost(), batch=1 << 20)
        self.lists: list[list[Call]] = []

    def answer(self, calls: Sequence[Call], dead: Collection[int] = ()) -> list[Tensor]:
        self.lists.append(list(calls))
        return [torch.stack(call.x) for call in calls]
