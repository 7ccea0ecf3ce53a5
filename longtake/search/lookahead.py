"""Lookahead: throw-away continuations decide a fork, so nothing is ever held back.

The mechanism of receding-horizon search and of the k-step search. At a decision point the state forks into candidates
(number 0 keeps its own noise), each copy is continued only to be scored, for a few ticks or as a preview on a coarse
grid of levels, and the chosen fork then goes on from where it forked. Copies know the prompts of rows that have
entered, and no later ones: else a turn would change what came out before it was begun.

Cost: (num * look + 1) inner ticks a decision, less the windows that copies share in their first tick; with a preview
num * preview window calls and the inner tick, exactly. One candidate is the inner rollout, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from longtake.core.noise import fold
from longtake.core.rollout import Emission, Info, Mix, Reward, Rollout, Timeline, View
from longtake.core.step import Step, all_of
from longtake.core.tree import substituted, walk
from longtake.search import branch
from longtake.search.branch import Member, Origin


@dataclass(frozen=True, eq=False)
class LookaheadState:
    """The one branch, the prompts, the tick, which keys candidates, and the book of judgements not told yet."""

    member: Member
    timeline: Timeline
    tick: int = 0
    book: Info = field(default_factory=Info)

    @property
    def emitted(self) -> int:
        """The inner rollout's: no emission waits here."""
        return self.member.state.emitted

    @property
    def finished(self) -> bool:
        """True when the inner rollout is."""
        return self.member.state.finished


@dataclass(frozen=True)
class Lookahead:
    """A search that looks `look` ticks ahead, or to the next emission, and keeps only the decision.

    preview  instead of ticks: finish the undecided rows in this many steps (the inner rollout must be Previewable)
    memory   finished latents kept for rewards that read the past
    """

    inner: Rollout[Any]
    reward: Reward
    num: int = 3
    look: int | Literal["emission"] = "emission"
    memory: int = 16
    preview: int = 0

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"num must be at least 1, got {self.num}")
        if self.look != "emission" and (not isinstance(self.look, int) or self.look < 1):
            raise ValueError(f"look must be 'emission' or a number of ticks from 1 up, got {self.look!r}")
        if self.preview < 0:
            raise ValueError(f"preview must be at least 0 steps, got {self.preview}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a latent."""
        return self.inner.shape

    @property
    def in_flight(self) -> int:
        """Rows of the inner rollout."""
        return self.inner.in_flight

    @property
    def reach(self) -> int:
        """The reward may read any row in flight."""
        return self.in_flight

    def init(self, seed: int, timeline: Timeline, context: Sequence[Any] = ()) -> Step[LookaheadState]:
        """The inner rollout's first state."""
        state = yield from self.inner.init(seed, timeline, context)
        member = branch.first(self.reward, state, context, self.memory, branch.begun(self.inner, seed))
        return LookaheadState(member, timeline)

    def step(self, state: LookaheadState) -> Step[tuple[LookaheadState, Emission]]:
        """Decide if there is something to decide, then take the inner tick for real."""
        chosen, book = state.member, state.book
        rows = self.inner.fresh(chosen.state)
        if self.num > 1 and rows:
            parent, paid = branch.settled(self.reward, chosen)
            forks = [self._fork(parent, number, state.tick, rows) for number in range(self.num)]
            views = yield from all_of([(self._looked, copy) for copy in _unknowing(forks, state.timeline, rows.stop)])
            scores, cost = branch.judged(self.reward, views)
            order = branch.ranked(scores)[:1]
            chosen = replace(forks[order[0]], score=scores[order[0]])
            book = branch.gathered(book, paid, cost, branch.records(state.tick, forks, scores, order))
        inner, emission = yield from self.inner.step(chosen.state)
        member = branch.moved(chosen, inner, emission, self.memory)
        if self.num == 1:
            member = replace(member, recent=())  # nothing is ever judged
        told, book = branch.joined(emission.start, [emission], book)
        return LookaheadState(member, state.timeline, state.tick + 1, book), told

    def fresh(self, state: LookaheadState) -> range:
        """The inner rollout's undecided rows."""
        return self.inner.fresh(state.member.state)

    def fork(self, state: LookaheadState, key: int, mix: Mix | None = None, which: str = "fresh") -> LookaheadState:
        """Other noise in the inner state."""
        if key == 0:
            return state
        inner = self.inner.fork(state.member.state, key, mix, which)
        return replace(state, member=replace(state.member, state=inner))

    def view(self, state: LookaheadState) -> View:
        """The inner rollout's view, with the past."""
        return branch.look(self.inner, state.member, state.timeline)

    def _fork(self, parent: Member, number: int, tick: int, rows: range) -> Member:
        state = self.inner.fork(parent.state, branch.fork_key(self.inner, tick, number))
        origin = Origin(parent.name, number, "gaussian" if number else "own", rows.start, rows.stop)
        return replace(parent, state=state, name=fold(parent.name, tick, number), origin=origin)

    def _looked(self, member: Member, timeline: Timeline) -> Step[View]:
        # a copy's future, for the reward alone
        if self.preview:
            view = yield from self.inner.preview(member.state, self.preview)  # type: ignore[attr-defined]
            return branch.look(self.inner, member, timeline, view)
        while not member.state.finished:
            inner, emission = yield from self.inner.step(member.state)
            member = branch.moved(member, inner, emission, self.memory)
            if emission.latents if self.look == "emission" else member.age >= self.look:
                break
        return branch.became(self.inner, member, timeline)


def _unknowing(forks: Sequence[Member], timeline: Timeline, stop: int) -> list[tuple[Member, Timeline]]:
    # copies, and what they are judged under, that know no prompt of rows from `stop` on; what they share stays shared
    if timeline.entries[-1][0] < stop:
        return [(fork, timeline) for fork in forks]
    states = tuple(fork.state for fork in forks)
    known = {id(item): item.until(stop) for item in walk(states) if isinstance(item, Timeline)}
    copies = zip(forks, substituted(states, known), strict=True)
    return [(replace(fork, state=copy), timeline.until(stop)) for fork, copy in copies]
