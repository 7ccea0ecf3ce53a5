"""LatSearch: particles share a clip's schedule, and a reward on unfinished latents thins them out as they go.

Zhao et al. 2026, reward-guided resampling and pruning (RGRP). Particles begin at correlated noises
sqrt(1 - b^2) z_0 + b eps (the first is z_0). When they reach one of `levels`, all are scored, the scores become
weights, each particle's weights add up to its running total, and the particles are resampled; at the last of the levels
only the one with the highest total stays.

Symbols: N -> num, b -> correlation, levels counted in noise levels left (0 is clean), as everywhere here.
Modes
- unique      the paper's: as many draws as particles, then each drawn one once, so that their number falls
- systematic  one draw for all, the number stays; copies go on with other noise (a stochastic solver) or are jittered
- prune       the better half by running total
- greedy      the best is copied to all and jittered (search over paths, search/local)
`jitter` j replaces the noise e in a copy's x = alpha x0 + sigma e by sqrt(1 - j^2) e + j eps, x0 its last estimate.

Deviations. Weights are a softmax of scores in units of their standard deviation among the particles, over
`temperature`: rewards differ in scale, and of cosines that differ in the third place a plain softmax would see nothing.
Levels are in proportion to the paper's steps 10, 15 and 20 of 50 (39, 34 and 29 left). Every draw is keyed, so that
neither the order nor the number of particles changes another's noise.
Cost: at most num * (S - last level) + last level window calls a clip; equal if none is dropped before the last level,
which greedy and systematic with jitter never do. The effective sample size of each resampling is in `Info.ess`.
On queues particles differ in what enters from the decision on; levels are those of the first row that was decided,
latents wait until one particle is left, and then the next row to enter is decided. Copies change nothing that was
decided before. Cost there: at most num times the method's own while particles are under way, S - last level ticks of
each decision, less the windows that they share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from longtake.core.noise import fold
from longtake.core.rollout import Emission, Info, Mix, Reward, Rollout, Timeline, View
from longtake.core.rows import Row
from longtake.core.schedule import NoiseSchedule
from longtake.core.step import Step, all_of
from longtake.search import branch
from longtake.search.branch import Member, Origin, Pending
from longtake.search.proposals import correlated

Mode = Literal["unique", "systematic", "prune", "greedy", "keep"]
MODES = ("unique", "systematic", "prune", "greedy", "keep")
SHARES = (0.78, 0.68, 0.58)
"""Noise levels left at which the paper scores, of all."""


@dataclass(frozen=True, eq=False)
class ParticleState:
    """The particles, the latents released, and the level at which they were last looked at; 0: none are under way."""

    members: tuple[Member, ...]
    timeline: Timeline
    emitted: int = 0
    tick: int = 0
    level: int = 0
    book: Info = field(default_factory=Info)

    @property
    def finished(self) -> bool:
        """True when the inner rollout is, and nothing waits."""
        return self.members[0].state.finished and not self.members[0].pending


@dataclass(frozen=True)
class LatSearch:
    """The search over `num` particles; `levels` falling, None: in proportion to the paper's."""

    inner: Rollout[Any]
    reward: Reward
    num: int = 6
    levels: tuple[int, ...] | None = None
    mode: Mode = "unique"
    correlation: float = 0.1
    temperature: float = 1.0
    jitter: float = 0.0
    memory: int = 16

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"latsearch.particles must be at least 1, got {self.num}")
        if self.mode not in MODES:
            raise ValueError(f"latsearch.mode is unique, systematic or prune, got {self.mode!r}")
        if not 0 < self.correlation <= 1:
            raise ValueError(f"latsearch.correlation is above 0 and at most 1, such as .1; got {self.correlation:g}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"latsearch.temperature is a number above 0, such as 1; got {self.temperature:g}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"latsearch.jitter is in 0..1, such as .2; got {self.jitter:g}")
        if self.jitter and self.mode in ("unique", "prune"):
            raise ValueError(
                f"latsearch.jitter={self.jitter:g} changes copies, and mode={self.mode} makes none; use "
                f"--set latsearch.mode=systematic, or leave it out"
            )
        top = branch.leaf(self.inner).schedule.num_steps
        if top < 2:
            raise ValueError("particles are compared halfway, and 1 step has no half; give --steps 2 or more")
        marks = self.marks
        if not marks or any(not 0 < mark < top for mark in marks) or list(marks) != sorted(set(marks), reverse=True):
            given = ",".join(map(str, marks))
            raise ValueError(f"latsearch.levels must fall from below {top} (the steps) to 1 at least, got {given}")

    @property
    def marks(self) -> tuple[int, ...]:
        """The levels at which particles are scored, highest first."""
        if self.levels is not None:
            return self.levels
        top = branch.leaf(self.inner).schedule.num_steps
        return tuple(sorted({min(max(1, round(share * top)), max(top - 1, 1)) for share in SHARES}, reverse=True))

    @property
    def worst(self) -> LatSearch:
        """The same with no particle dropped early: its cost bounds this one's."""
        return replace(self, mode="keep")

    @property
    def exact(self) -> bool:
        """Whether the cost does not depend on scores."""
        return self.mode in ("greedy", "keep") and branch.whole(self.inner)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a latent."""
        return self.inner.shape

    @property
    def in_flight(self) -> int:
        """Rows of one particle and, on queues, the latents that wait until one is left."""
        return 2 * self.inner.in_flight

    @property
    def reach(self) -> int:
        """The reward may read any row in flight."""
        return self.in_flight

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[ParticleState]:
        """One particle."""
        state = yield from self.inner.init(seed, timeline, context)
        member = branch.first(self.reward, state, context, self.memory, branch.begun(self.inner, seed))
        return ParticleState((member,), timeline)

    def step(self, state: ParticleState) -> Step[tuple[ParticleState, Emission]]:
        """Fork where something is undecided, tick all particles in lockstep, score and thin them at the levels."""
        members, book, above = list(state.members), state.book, state.level
        if self.num > 1 and not above and self.inner.fresh(members[0].state):
            parent, cost = branch.settled(self.reward, members[0])
            members, book = self._spawn(parent, state.tick), branch.gathered(book, cost)
            above = branch.leaf(self.inner).schedule.num_steps
        moves = yield from all_of([(self.inner.step, (member.state,)) for member in members])
        members = [self._moved(member, *move) for member, move in zip(members, moves, strict=True)]
        level = branch.level_of(self.inner, members[0].state, members[0].origin.lead) if above else 0
        passed = [mark for mark in self.marks if level <= mark < above]  # rows that waited may pass several at once
        if passed:
            members, cost = self._thinned(members, passed[-1], state)
            book = branch.gathered(book, cost)
        if self.marks[-1] in passed:
            level = 0
        out = [pending.emission for pending in members[0].pending] if len(members) == 1 else []
        if out:
            members = [replace(members[0], pending=())]
        told, book = branch.joined(state.emitted, out, book)
        return ParticleState(tuple(members), state.timeline, told.stop, state.tick + 1, level, book), told

    def fresh(self, state: ParticleState) -> range:
        """The inner rollout's undecided rows; none while a clip is under way."""
        return range(0) if state.level else self.inner.fresh(state.members[0].state)

    def fork(self, state: ParticleState, key: int, mix: Mix | None = None, which: str = "fresh") -> ParticleState:
        """Other noise in every particle."""
        if key == 0:
            return state
        members = [replace(m, state=self.inner.fork(m.state, key, mix, which)) for m in state.members]
        return replace(state, members=tuple(members))

    def view(self, state: ParticleState) -> View:
        """The first particle's."""
        return branch.look(self.inner, state.members[0], state.timeline)

    def _moved(self, member: Member, state: Any, emission: Emission) -> Member:
        after = branch.moved(member, state, emission, self.memory)
        if self.num == 1:
            after = replace(after, recent=())  # nothing is ever judged
        if emission.latents:
            after = replace(after, pending=(*after.pending, Pending(member.name, emission)))
        return after

    def _spawn(self, parent: Member, tick: int) -> list[Member]:
        rows, lead = self.inner.fresh(parent.state), branch.lead_of(self.inner, parent.state)
        members = []
        for number in range(self.num):
            key = branch.fork_key(self.inner, tick, number)
            state = self.inner.fork(parent.state, key, lambda row, new: correlated(row.x, new, self.correlation))
            origin = Origin(parent.name, number, "correlated" if number else "own", rows.start, rows.stop, lead)
            name = fold(parent.name, tick, number)
            members.append(replace(parent, state=state, name=name, origin=origin, total=0.0))
        return members

    def _thinned(self, members: list[Member], level: int, state: ParticleState) -> tuple[list[Member], Info]:
        scores, cost = branch.judged(self.reward, [branch.became(self.inner, m, state.timeline) for m in members])
        shares = weights(scores, self.temperature)
        members = [
            replace(member, score=score, total=member.total + share)
            for member, score, share in zip(members, scores, shares, strict=True)
        ]
        order = branch.ranked([member.total for member in members])
        last = level == self.marks[-1]
        draw = fold(members[0].name, state.tick, "resample")
        kept = order[:1] if last else survivors(self.mode, shares, order, draw)
        book = replace(branch.records(state.tick, members, scores, dict.fromkeys(kept)), ess=(effective(shares),))
        return self._copied(members, kept, state.tick), branch.gathered(cost, book)

    def _copied(self, members: list[Member], kept: Sequence[int], tick: int) -> list[Member]:
        # the first of each goes on as it is; its copies get other noise to come, and a jitter if there is one
        schedule, seen, out = branch.leaf(self.inner).schedule, set(), []
        for number, place in enumerate(kept):
            member = members[place]
            if place in seen:
                key = fold(tick, "copy", number)
                mix = renoised(schedule, self.jitter) if self.jitter else None
                origin = member.origin._replace(parent=member.name, number=number, proposal="copy")
                member = replace(
                    member,
                    state=branch.altered(self.inner, member.state, key, mix, origin.start),
                    name=fold(member.name, tick, number),
                    origin=origin,
                )
            seen.add(place)
            out.append(member)
        return out


def weights(scores: Sequence[float], temperature: float) -> list[float]:
    """A softmax of scores in units of their standard deviation, over `temperature`; equal scores weigh the same.

    Beside infinite scores all others weigh nothing, and those that are no number, minus infinity, weigh nothing either.
    """
    values = np.asarray(scores, dtype=np.float64)
    counted = values == values.max() if math.isinf(values.max()) else np.isfinite(values)
    finite = values[counted] if np.isfinite(values[counted]).all() else np.zeros(counted.sum())
    spread = float(finite.std()) or 1.0
    powers = np.zeros(len(values))
    powers[counted] = np.exp((finite - finite.max()) / (spread * temperature))
    return [float(share) for share in powers / powers.sum()]


def effective(shares: Sequence[float]) -> float:
    """Effective sample size, 1 / sum of squared weights."""
    return 1 / sum(share**2 for share in shares)


def survivors(mode: Mode, shares: Sequence[float], order: Sequence[int], key: int) -> list[int]:
    """Places of the particles that go on, a place more than once for copies. `order`: best running total first."""
    many = len(shares)
    if mode == "keep":
        return list(range(many))
    if mode == "prune":
        return list(order[: -(-many // 2)])
    if mode == "greedy":
        return [order[0]] * many
    draw = np.random.Generator(np.random.Philox(key=key))
    points = draw.random(many) if mode == "unique" else (draw.random() + np.arange(many)) / many
    chosen = np.minimum(np.searchsorted(np.cumsum(shares), points, side="right"), many - 1)
    return sorted(set(chosen.tolist())) if mode == "unique" else sorted(chosen.tolist())


def renoised(schedule: NoiseSchedule, amount: float) -> Mix:
    """A mix for rows in flight: part of the noise in x is replaced, the row's last estimate stays."""

    def made(row: Row, fresh: Tensor) -> Tensor:
        if not row.memory.x0s:  # no network has read it: pure noise
            return correlated(row.x, fresh, amount)
        alpha, sigma = schedule.alphas[row.level], schedule.sigmas[row.level]
        x0 = row.memory.x0s[0].to(row.x)
        noise = (row.x - alpha * x0) / sigma
        return alpha * x0 + sigma * correlated(noise, fresh.to(row.x), amount)

    return made
