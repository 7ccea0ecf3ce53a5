"""Generations: clips are made and scored, and the next generation starts from snapshots of good ones, changed a little.

The mechanism of EvoSearch (search/evolve) and of zero-order search (search/local). The first generation starts at pure
noise; a later one of level L takes its parents as they were at L, replaces part of their noise, and finishes them from
there. Whatever was scored stays in the pool, so the result never gets worse from one generation to the next, and the
best of the pool is what the clip becomes.

A tick is a tick of the generation under way, so a run can be stopped inside any of them; latents come out at the end of
the last. Cost: the sum of sizes[g] * levels[g] window calls a clip, exactly. Rows held: those of the members running,
and of each finished one a snapshot for every later level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from longtake.core.noise import fold
from longtake.core.rollout import Emission, Info, Mix, Reward, Rollout, Timeline, View
from longtake.core.step import Step, all_of
from longtake.search import branch
from longtake.search.branch import Member, Origin
from longtake.search.latsearch import renoised
from longtake.search.proposals import correlated


@dataclass(frozen=True, eq=False)
class Individual:
    """A member of a generation, running or finished, with its states at the levels where others may start."""

    member: Member
    snapshots: tuple[tuple[int, Any], ...] = ()
    emission: Emission | None = None

    def at(self, level: int) -> Any:
        """The state at a level."""
        return dict(self.snapshots)[level]


@dataclass(frozen=True, eq=False)
class GenerationState:
    """The branch before the clip, the members running, those scored, and the number of the generation."""

    base: Member
    timeline: Timeline
    running: tuple[Individual, ...] = ()
    pool: tuple[Individual, ...] = ()
    generation: int = 0
    tick: int = 0
    book: Info = field(default_factory=Info)

    @property
    def emitted(self) -> int:
        """Latents of finished clips."""
        return self.base.state.emitted

    @property
    def finished(self) -> bool:
        """True when the inner rollout is, and no generation is under way."""
        return self.base.state.finished and not self.running


@dataclass(frozen=True)
class Generations:
    """A search by generations of `sizes`, which start at `levels` (the first at the number of steps).

    mutation  share of the noise that a child replaces
    spread    the same for the first generation, against the run's own noise; 1: independent draws
    elite     children that the best of the pool get, one each; the others' parents win a tournament of two
    """

    inner: Rollout[Any]
    reward: Reward
    sizes: tuple[int, ...] = (6, 3, 3)
    levels: tuple[int, ...] = ()
    mutation: float = 0.2
    spread: float = 1.0
    elite: int = 2
    parents: Literal["tournament", "best"] = "tournament"
    memory: int = 16
    clips = True  # all rows of a clip share a level
    exact = True

    def __post_init__(self) -> None:
        top = branch.leaf(self.inner).schedule.num_steps
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"every generation needs a member, got {','.join(map(str, self.sizes))}")
        given = ",".join(map(str, self.starts))
        if len(self.starts) != len(self.sizes):
            raise ValueError(f"{len(self.sizes)} generations need as many levels, got {given}")
        falling = all(later <= earlier for earlier, later in zip(self.starts, self.starts[1:], strict=False))
        if self.starts[0] != top or self.starts[-1] < 1 or not falling:
            raise ValueError(f"levels begin at {top} (the steps) and fall to 1 at least, got {given}")
        if not (0 <= self.mutation <= 1 and 0 < self.spread <= 1) or self.elite < 0:
            raise ValueError("mutation is in 0..1 and elite at least 0")

    @property
    def num(self) -> int:
        """Members of the largest generation; 1: nothing to choose from."""
        return max(self.sizes) if len(self.sizes) == 1 else max(2, *self.sizes)

    @property
    def starts(self) -> tuple[int, ...]:
        """The level at which each generation starts; default: evenly down to half of the steps."""
        if self.levels:
            return self.levels
        top, many = branch.leaf(self.inner).schedule.num_steps, max(len(self.sizes) - 1, 1)
        return tuple(max(1, round(top * (1 - 0.5 * place / many))) for place in range(len(self.sizes)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a latent."""
        return self.inner.shape

    @property
    def in_flight(self) -> int:
        """Rows of one member."""
        return self.inner.in_flight

    @property
    def reach(self) -> int:
        """The reward may read any row in flight."""
        return self.in_flight

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[GenerationState]:
        """Before the first clip."""
        state = yield from self.inner.init(seed, timeline, context)
        return GenerationState(branch.first(self.reward, state, context, self.memory), timeline)

    def step(self, state: GenerationState) -> Step[tuple[GenerationState, Emission]]:
        """One tick of the generation under way; at its end score it and breed the next, or release the best."""
        if not state.running:
            base, cost = branch.settled(self.reward, state.base)
            running = self._first(base, state.tick)
            state = replace(state, base=base, running=running, book=branch.gathered(state.book, cost))
        moves = yield from all_of([(self.inner.step, (one.member.state,)) for one in state.running])
        running = tuple(self._moved(one, *move) for one, move in zip(state.running, moves, strict=True))
        state = replace(state, running=running, tick=state.tick + 1)
        if running[0].emission is None:
            return state, Emission(state.emitted)
        state = self._scored(state)
        if state.generation + 1 < len(self.sizes):
            state = replace(state, generation=state.generation + 1)
            return replace(state, running=self._children(state)), Emission(state.emitted)
        best = state.pool[0]
        assert best.emission is not None
        emission, book = branch.joined(state.emitted, [best.emission], state.book)
        return GenerationState(best.member, state.timeline, tick=state.tick, book=book), emission

    def fresh(self, state: GenerationState) -> range:
        """The inner rollout's undecided rows; none while a clip is under way."""
        return range(0) if state.running else self.inner.fresh(state.base.state)

    def fork(self, state: GenerationState, key: int, mix: Mix | None = None, which: str = "fresh") -> GenerationState:
        """Other noise in the branch before the clip and in every member running."""
        if key == 0:
            return state
        base = replace(state.base, state=self.inner.fork(state.base.state, key, mix, which))
        running = tuple(
            replace(one, member=replace(one.member, state=self.inner.fork(one.member.state, key, mix, which)))
            for one in state.running
        )
        return replace(state, base=base, running=running)

    def view(self, state: GenerationState) -> View:
        """The first running member's."""
        member = state.running[0].member if state.running else state.base
        return branch.look(self.inner, member, state.timeline)

    def _first(self, base: Member, tick: int) -> tuple[Individual, ...]:
        rows, made = self.inner.fresh(base.state), []
        for number in range(self.sizes[0]):
            key = branch.fork_key(self.inner, tick, number)
            state = self.inner.fork(base.state, key, lambda row, new: correlated(row.x, new, self.spread))
            proposal = "own" if number == 0 else "gaussian" if self.spread == 1 else "correlated"
            origin = Origin(base.name, number, proposal, rows.start, rows.stop)
            member = replace(base, state=state, name=fold(base.name, tick, number), origin=origin)
            made.append(Individual(member, self._kept((), self.starts[0], state)))
        return tuple(made)

    def _moved(self, one: Individual, state: Any, emission: Emission) -> Individual:
        member = branch.moved(one.member, state, emission, self.memory)
        level = self.starts[0] - member.age
        done = emission if emission.latents else None
        return Individual(member, self._kept(one.snapshots, level, state), done)

    def _kept(self, snapshots: tuple[tuple[int, Any], ...], level: int, state: Any) -> tuple[tuple[int, Any], ...]:
        return (*snapshots, (level, state)) if level in self.starts[1:] else snapshots

    def _scored(self, state: GenerationState) -> GenerationState:
        # the pool best first, with the generation that has just been finished
        members = [one.member for one in state.running]
        if self.num == 1:
            return replace(state, pool=state.running, running=())
        scores, cost = branch.judged(self.reward, [branch.look(self.inner, m, state.timeline) for m in members])
        tried = [
            replace(one, member=replace(one.member, score=score))
            for one, score in zip(state.running, scores, strict=True)
        ]
        everyone = [*state.pool, *tried]
        pool = tuple(everyone[place] for place in branch.ranked([one.member.score for one in everyone]))
        kept = [place for place, one in enumerate(tried) if one is pool[0]]
        book = branch.gathered(state.book, cost, branch.records(state.tick - 1, members, scores, kept))
        return replace(state, pool=pool, running=(), book=book)

    def _children(self, state: GenerationState) -> tuple[Individual, ...]:
        level, schedule, made = self.starts[state.generation], branch.leaf(self.inner).schedule, []
        mix = renoised(schedule, self.mutation)
        which = "fresh" if level == schedule.num_steps else "flight"
        for number in range(self.sizes[state.generation]):
            parent = state.pool[self._parent(state, number)]
            key = fold(state.tick, "child", number)
            child = self.inner.fork(parent.at(level), key, mix, which)
            before = replace(parent.member, past=state.base.past, recent=(), pending=())
            origin = parent.member.origin._replace(parent=parent.member.name, number=number, proposal="mutation")
            name = fold(parent.member.name, state.tick, number)
            member = replace(before, state=child, name=name, origin=origin, age=self.starts[0] - level)
            snapshots = tuple((at, old) for at, old in parent.snapshots if at > level)
            made.append(Individual(member, self._kept(snapshots, level, child)))
        return tuple(made)

    def _parent(self, state: GenerationState, number: int) -> int:
        if self.parents == "best":
            return 0
        if number < self.elite:
            return min(number, len(state.pool) - 1)
        key = fold(state.base.name, state.tick, "tournament", number)
        return int(np.random.Generator(np.random.Philox(key=key)).integers(len(state.pool), size=2).min())
