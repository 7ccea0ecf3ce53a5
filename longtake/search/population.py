"""Population: several branches live side by side, and an emission waits until they agree on it.

The mechanism of ScalingNoise's beam search, of best-of-N and of particle methods. At a decision point each member
forks into candidates (number 0 keeps the parent's own noise), all take a tick in lockstep, a reward ranks them and the
best `width` stay. What is released is the longest prefix that all members agree on: latents that came out of one
ancestor, or that are equal bit for bit, as the head of a queue is while branches differ at its tail alone. Two lineages
of equal merit could hold the rest back for ever, so after `max_lag` pending latents, or one clip if that is longer,
only the relatives of the best stay.

Cost in window calls. Ranked after every tick, on a rollout of w windows a tick of which a fork touches one: at most
width * (w - 1 + num) a tick, since candidates share all other windows, and relatives share every window that their
rows agree on; equal if no two members have equal rows (always with width 1). Ranked on emission: num * S a chunk,
exactly. Inversion among the proposals adds its steps for each member at a decision. With `preview` steps:
width * (num * preview + w) a decision at most.
One candidate and width 1 is the inner rollout, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from longtake.core.noise import fold
from longtake.core.rollout import Emission, Info, Mix, Reward, Rollout, Timeline, View
from longtake.core.step import Step, all_of
from longtake.search import branch
from longtake.search.branch import Member, Origin, Pending
from longtake.search.proposals import Mixture, Source


@dataclass(frozen=True, eq=False)
class PopulationState:
    """The branches, best first, what has been released, and the book of judgements not told yet.

    `open`: they have forked and wait to be ranked. `path`: what draws that all branches share are keyed by.
    """

    members: tuple[Member, ...]
    emitted: int
    tick: int
    timeline: Timeline
    book: Info = field(default_factory=Info)
    open: bool = False
    path: int = 0

    @property
    def finished(self) -> bool:
        """True when the inner rollout is."""
        return all(member.state.finished for member in self.members) and not any(m.pending for m in self.members)


@dataclass(frozen=True)
class Population:
    """A search over candidates that persist.

    num         candidates a member forks into     width    members kept
    when        "tick": rank after the tick that reads what was decided; "emission": when latents come out; "done":
                when all that was decided is out; a number: when that many have come out since the fork
    max_lag     pending latents at most            memory   finished latents kept for rewards that read the past
    proposals   where candidates' noise comes from; None: Gaussian
    preview     rank by a preview of this many steps, before the tick (0: by what the tick itself estimates)
    cumulative  rank by the sum of a branch's scores
    """

    inner: Rollout[Any]
    reward: Reward
    num: int = 3
    width: int = 1
    when: Literal["tick", "emission", "done"] | int = "emission"
    max_lag: int = 16
    memory: int = 16
    proposals: Mixture | None = None
    preview: int = 0
    cumulative: bool = False

    def __post_init__(self) -> None:
        for name in ("num", "width", "max_lag"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.when not in ("tick", "emission", "done") and (isinstance(self.when, str) or self.when < 1):
            raise ValueError(f"when must be 'tick', 'emission', 'done' or a number of latents, got {self.when!r}")
        if self.preview and (self.preview < 1 or self.when != "tick"):
            raise ValueError(f"preview must be at least 1 and goes with when='tick', got {self.preview}, {self.when!r}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a latent."""
        return self.inner.shape

    @property
    def patience(self) -> int:
        """Latents that have come out when members are ranked; 0: not by latents."""
        if self.when == "done":  # on queues latents of before come out with it
            return 1 if branch.whole(self.inner) else self.inner.in_flight
        return 0 if self.when == "tick" else 1 if self.when == "emission" else int(self.when)

    @property
    def lag(self) -> int:
        """Latents that may wait for beams to agree: a clip always may."""
        return max(self.max_lag, branch.leaf(self.inner).window) if self.width > 1 else 0

    @property
    def exact(self) -> bool:
        """Whether the cost does not depend on scores."""
        if self.width > 1 or self.patience > 1:
            return False
        # candidates of a clip differ in every row; those on a queue share rows until what they decided comes out
        return self.when == "tick" or branch.whole(self.inner)

    @property
    def drawn(self) -> bool:
        """Whether what a decision costs is drawn: inversion pays calls in the decisions that it is drawn for."""
        return self.proposals is not None and "inversion" in dict(self.proposals.weights)

    @property
    def in_flight(self) -> int:
        """Rows of one member and the latents that may wait."""
        return self.inner.in_flight + max(self.max_lag, self.lag, self.patience)

    @property
    def reach(self) -> int:
        """Under a search a change can touch whatever is not released: rows in flight and pending latents."""
        return self.in_flight

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[PopulationState]:
        """One member: clones would be identical."""
        state = yield from self.inner.init(seed, timeline, context)
        member = branch.first(self.reward, state, context, self.memory, branch.begun(self.inner, seed))
        return PopulationState((member,), 0, 0, timeline, path=member.name)

    def step(self, state: PopulationState) -> Step[tuple[PopulationState, Emission]]:
        """Fork where there is something to decide, tick all branches in lockstep, rank, release what they share."""
        book, members, opened = [state.book], list(state.members), state.open
        if self._decides(state):
            opened = True
            state, sources, cost = yield from self._prepared(state)
            members = self._spawn(state, sources)
            book.append(cost)
            if self.preview:
                views = yield from all_of([(self.inner.preview, (m.state, self.preview)) for m in members])  # type: ignore[attr-defined]
                views = [branch.look(self.inner, m, state.timeline, v) for m, v in zip(members, views, strict=True)]
                members, cost = self._ranked(members, state.tick, views)
                opened = False
                book.append(cost)
        moves = yield from all_of([(self.inner.step, (member.state,)) for member in members])
        members = [self._moved(member, *move) for member, move in zip(members, moves, strict=True)]
        members, info = self._select(members, replace(state, open=opened))
        members, released = self._release(members)
        emission, untold = branch.joined(state.emitted, released, branch.gathered(*book, info))
        opened = opened and not info.scores
        state = replace(state, members=tuple(members), emitted=emission.stop, tick=state.tick + 1, book=untold)
        return replace(state, open=opened), emission

    def fresh(self, state: PopulationState) -> range:
        """What the members have undecided: the same rows in all of them."""
        return self.inner.fresh(state.members[0].state)

    def fork(self, state: PopulationState, key: int, mix: Mix | None = None, which: str = "fresh") -> PopulationState:
        """Other noise in every member."""
        if key == 0:
            return state
        members = [replace(m, state=self.inner.fork(m.state, key, mix, which)) for m in state.members]
        return replace(state, members=tuple(members))

    def view(self, state: PopulationState) -> View:
        """The best member's."""
        return branch.look(self.inner, state.members[0], state.timeline)

    def _decides(self, state: PopulationState) -> bool:
        first = state.members[0].state
        return self.num > 1 and not state.open and bool(self.inner.fresh(first)) and not first.finished

    def _prepared(self, state: PopulationState) -> Step[tuple[PopulationState, list[Source], Info]]:
        # each member's reward catches up with what is finished, and proposals get what they draw from
        settled = [branch.settled(self.reward, member) for member in state.members]
        members = [member for member, _ in settled]
        cost, sources = branch.gathered(*(cost for _, cost in settled)), [Source()] * len(members)
        if self.proposals is not None:
            names = [self._drawn(self.proposals, state, number) for number in range(1, self.num)]
            leaf, at = branch.leaf(self.inner), state.timeline.at
            sources = yield from all_of([
                (self.proposals.sources, (names, m.past, m.noises, leaf, at(m.state.emitted - 1))) for m in members
            ])  # fmt: skip
        return replace(state, members=tuple(members)), sources, cost

    def _spawn(self, state: PopulationState, sources: Sequence[Source] = ()) -> list[Member]:
        # candidate 0 is the member itself; keys hold the tick, else relatives of different ages would draw alike
        branches = []
        for place, member in enumerate(state.members if self._decides(state) else ()):
            rows, taken = self.inner.fresh(member.state), set()
            for number in range(self.num):
                key = branch.fork_key(self.inner, state.tick, number)
                mix, proposal = None, "gaussian" if number else "own"
                if number and self.proposals is not None:
                    drawn = self._drawn(self.proposals, state, number)
                    draw = fold(member.name, state.tick, "draw", number)
                    proposal, mix = self.proposals.mix(drawn, sources[place], rows, draw, taken)
                forked = self.inner.fork(member.state, key, mix)
                noises = member.noises
                if self.proposals is not None and self.shape[0]:  # forecasts have no noise
                    noises = (*noises, *branch.undecided(self.inner, forked))[-self.memory :]
                origin = Origin(member.name, number, proposal, rows.start, rows.stop)
                name = fold(member.name, state.tick, number)
                branches.append(replace(member, state=forked, name=name, noises=noises, origin=origin))
        return branches or list(state.members)

    def _drawn(self, proposals: Mixture, state: PopulationState, number: int) -> str:
        return proposals.pick(fold(state.path, state.tick, "proposal", number))

    def _moved(self, member: Member, state: Any, emission: Emission) -> Member:
        after = branch.moved(member, state, emission, self.memory)
        if self.num == 1:
            after = replace(after, recent=())  # nothing is ever judged
        if emission.latents:
            after = replace(after, pending=(*after.pending, Pending(member.name, emission)))
        return after

    def _select(self, members: list[Member], state: PopulationState) -> tuple[list[Member], Info]:
        over = all(member.state.finished for member in members)
        if state.open and (over or all(map(self._ripe, members))):
            views = [self._seen(member, state.timeline) for member in members]
            members, info = self._ranked(members, state.tick, views)
        else:
            info = Info()
        kept = members[:1] if over else members
        if len(kept) > 1 and self.shape[0]:  # latents without channels, as forecasts use, all look alike
            states = branch.shared([member.state for member in kept])
            kept = [replace(member, state=twin) for member, twin in zip(kept, states, strict=True)]
        return kept, info

    def _seen(self, member: Member, timeline: Timeline) -> View:
        if self.when == "tick":  # an estimate of what is under way
            return branch.look(self.inner, member, timeline)
        return branch.became(self.inner, member, timeline, out=not isinstance(self.when, str))

    def _ripe(self, member: Member) -> bool:
        # whether there is to see what this search judges by
        if self.when == "done":
            return member.state.emitted >= member.origin.stop
        if self.when != "tick":
            return sum(len(emission.latents) for emission in member.recent) >= self.patience
        out = member.state.emitted  # in queues whose rows wait for a window, what was decided is not read at once
        decided = range(max(member.origin.start, out), member.origin.stop)
        return not decided or not set(decided).isdisjoint(self.inner.view(member.state).index)

    def _ranked(self, members: list[Member], tick: int, views: list[View]) -> tuple[list[Member], Info]:
        scores, cost = branch.judged(self.reward, views)
        totals = [m.total + score if self.cumulative else score for m, score in zip(members, scores, strict=True)]
        order = branch.ranked(totals)[: self.width]
        # a score that is no number counts as the worst of its decision from then on, else the sum would never recover
        least = min((score for score in scores if math.isfinite(score)), default=0.0)
        sums = [t if math.isfinite(t) else m.total + least for t, m in zip(totals, members, strict=True)]
        kept = [replace(members[place], score=scores[place], total=sums[place]) for place in order]
        return kept, branch.gathered(cost, branch.records(tick, members, scores, order))

    def _release(self, members: list[Member]) -> tuple[list[Member], list[Emission]]:
        released: list[Emission] = []
        while members[0].pending:
            first = members[0].pending[0]
            relatives = [m for m in members if m.pending and self._agree(m.pending[0], first)]
            many = [len(pending.emission.latents) for pending in members[0].pending]
            if len(relatives) < len(members) and sum(many) <= max(self.max_lag, many[-1], self.patience):
                break
            released.append(members[0].pending[0].emission)
            members = [replace(member, pending=member.pending[1:]) for member in relatives]
        return members, released

    def _agree(self, one: Pending, other: Pending) -> bool:
        if one.lineage == other.lineage:
            return True
        mine, yours = one.emission.latents, other.emission.latents
        if not self.shape[0] or len(mine) != len(yours):  # latents without channels, as forecasts use, all look alike
            return False
        return all(torch.equal(a, b) for a, b in zip(mine, yours, strict=True))
