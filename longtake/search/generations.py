"""Generations: clips are made and scored, and the next generation starts from snapshots of good ones, changed a little.

The mechanism of EvoSearch (search/evolve) and of zero-order search (search/local). The first generation starts at pure
noise; a later one of level L takes its parents as they were at L, replaces part of their noise, and finishes them from
there. Whatever was scored stays in the pool, so the result never gets worse from one generation to the next, and the
best of the pool is what the clip becomes.

A tick is a tick of the generation under way, so a run can be stopped inside any of them; latents come out at the end of
the last. Cost: the sum of sizes[g] * levels[g] window calls a clip, exactly. Rows held: those of the members running,
and of each finished one a snapshot for every later level.

On queues the stretch from one decision until what it decided has come out is the clip: levels are those of the first
row that was decided, and children change what was decided since and nothing before. Cost there: at most as many ticks
of the method as window calls of a clip, less the windows that members share.
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
    """A member of a generation, running or finished, what has come out of it, and itself as it was at the levels
    where others may start: the last moment at or above each.
    """

    member: Member
    out: tuple[Emission, ...] = ()
    snapshots: tuple[tuple[int, Member, tuple[Emission, ...]], ...] = ()

    def at(self, level: int) -> tuple[Member, tuple[Emission, ...]]:
        """The member at a level, and what had come out."""
        return next((member, out) for mark, member, out in self.snapshots if mark == level)


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
    parents: Literal["tournament", "best", "all"] = "tournament"
    memory: int = 16

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
        if not (0 <= self.mutation <= 1 and 0 < self.spread <= 1):
            raise ValueError(
                f"the share of noise that a child replaces is in 0..1, such as .2; got {self.mutation:g} (mutation) "
                f"and {self.spread:g} (spread)"
            )
        if self.elite < 0:
            raise ValueError(f"elite is at least 0, got {self.elite}")

    @property
    def num(self) -> int:
        """Members of the largest generation; 1: nothing to choose from."""
        return max(self.sizes) if len(self.sizes) == 1 else max(2, *self.sizes)

    @property
    def exact(self) -> bool:
        """Whether the cost does not depend on scores; on queues it does by what members of one parent share."""
        return branch.whole(self.inner)

    @property
    def worst(self) -> Generations:
        """The same with as many different parents as there are: its cost bounds this one's."""
        return self if branch.whole(self.inner) else replace(self, parents="all")

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
        """Rows of one member and, on queues, the latents that wait until the last generation is done."""
        return 2 * self.inner.in_flight

    @property
    def reach(self) -> int:
        """The reward may read any row in flight."""
        return self.in_flight

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[GenerationState]:
        """Before the first clip."""
        state = yield from self.inner.init(seed, timeline, context)
        member = branch.first(self.reward, state, context, self.memory, branch.begun(self.inner, seed))
        return GenerationState(member, timeline)

    def step(self, state: GenerationState) -> Step[tuple[GenerationState, Emission]]:
        """One tick of the generation under way; at its end score it and breed the next, or release the best."""
        if not state.running and not self.inner.fresh(state.base.state):  # nothing to decide: between groups of a queue
            inner, emission = yield from self.inner.step(state.base.state)
            base = branch.moved(state.base, inner, emission, self.memory)
            told, book = branch.joined(state.emitted, [emission] if emission.latents else [], state.book)
            return replace(state, base=base, tick=state.tick + 1, book=book), told
        if not state.running:
            base, cost = branch.settled(self.reward, state.base)
            running = self._first(base, state.tick)
            state = replace(state, base=base, running=running, book=branch.gathered(state.book, cost))
        moves = yield from all_of([(self.inner.step, (one.member.state,)) for one in state.running])
        running = tuple(self._moved(one, *move) for one, move in zip(state.running, moves, strict=True))
        state = replace(state, running=running, tick=state.tick + 1)
        ripe = [one.member.state.emitted >= one.member.origin.stop or one.member.state.finished for one in running]
        if not all(ripe):
            return state, Emission(state.emitted)
        state = self._scored(state)
        if state.generation + 1 < len(self.sizes):
            state = replace(state, generation=state.generation + 1)
            return replace(state, running=self._children(state)), Emission(state.emitted)
        best = state.pool[0]
        emission, book = branch.joined(state.emitted, best.out, state.book)
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
        rows, lead, made = self.inner.fresh(base.state), branch.lead_of(self.inner, base.state), []
        for number in range(self.sizes[0]):
            key = branch.fork_key(self.inner, tick, number)
            state = self.inner.fork(base.state, key, lambda row, new: correlated(row.x, new, self.spread))
            proposal = "own" if number == 0 else "gaussian" if self.spread == 1 else "correlated"
            origin = Origin(base.name, number, proposal, rows.start, rows.stop, lead)
            member = replace(base, state=state, name=fold(base.name, tick, number), origin=origin)
            made.append(self._noted(Individual(member)))
        return tuple(made)

    def _moved(self, one: Individual, state: Any, emission: Emission) -> Individual:
        member = branch.moved(one.member, state, emission, self.memory)
        if self.num == 1:
            member = replace(member, recent=())  # nothing is ever judged
        return self._noted(replace(one, member=member, out=(*one.out, emission) if emission.latents else one.out))

    def _noted(self, one: Individual) -> Individual:
        # others start from the last moment at or above their level: on queues rows that waited may skip some
        level, top = branch.level_of(self.inner, one.member.state, one.member.origin.lead), self.starts[0]
        known = {mark for mark, *_ in one.snapshots if mark == top}  # pure noise is only while it is fresh
        marks = sorted({mark for mark in self.starts[1:] if mark <= level} - known, reverse=True)
        kept = tuple(entry for entry in one.snapshots if entry[0] not in marks)
        return replace(one, snapshots=(*kept, *((mark, one.member, one.out) for mark in marks)))

    def _scored(self, state: GenerationState) -> GenerationState:
        # the pool best first, with the generation that has just been finished
        members = [one.member for one in state.running]
        if self.num == 1:
            return replace(state, pool=state.running, running=())
        scores, cost = branch.judged(self.reward, [branch.became(self.inner, m, state.timeline) for m in members])
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
        for number in range(self.sizes[state.generation]):
            parent = state.pool[self._parent(state, number)]
            before, out = parent.at(level)
            key, origin = fold(state.tick, "child", number), parent.member.origin
            if level == schedule.num_steps:
                child = self.inner.fork(before.state, key, mix)
            else:
                child = branch.altered(self.inner, before.state, key, mix, origin.start)
            origin = origin._replace(parent=parent.member.name, number=number, proposal="mutation")
            name = fold(parent.member.name, state.tick, number)
            earlier = tuple(entry for entry in parent.snapshots if entry[0] > level)
            made.append(self._noted(Individual(replace(before, state=child, name=name, origin=origin), out, earlier)))
        return tuple(made)

    def _parent(self, state: GenerationState, number: int) -> int:
        if self.parents != "tournament":
            return 0 if self.parents == "best" else number % len(state.pool)
        if number < self.elite:
            return min(number, len(state.pool) - 1)
        key = fold(state.base.name, state.tick, "tournament", number)
        return int(np.random.Generator(np.random.Philox(key=key)).integers(len(state.pool), size=2).min())
