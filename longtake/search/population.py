"""Population: several branches live side by side, and an emission waits until they agree on it.

The mechanism of ScalingNoise's beam search, of best-of-N per chunk and of particle methods. At a decision point each
member forks into candidates (number 0 keeps the parent's own noise), all take a tick in lockstep, a reward ranks them
and the best `width` stay. What is released is the longest prefix that all members share. Two lineages of equal merit
could hold it back for ever, so after `max_lag` pending latents only the best member's relatives stay (SPINE.md 0.7).

Cost: at most width * num calls of the inner tick's windows; equal windows of relatives are evaluated once.
One candidate and width 1 is the inner rollout, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from longtake.core.noise import fold
from longtake.core.rollout import Emission, Info, Mix, Reward, Rollout, Timeline, View
from longtake.core.step import Step, all_of


@dataclass(frozen=True, eq=False)
class Pending:
    """An emission that not every member has agreed to. `lineage` is the name of the member that made it."""

    lineage: int
    emission: Emission


@dataclass(frozen=True, eq=False)
class Member:
    """One branch: its state, what it emitted that is not released, and its newest finished latents for rewards."""

    state: Any
    name: int
    score: float = 0.0
    past: tuple[Tensor, ...] = ()
    pending: tuple[Pending, ...] = ()


@dataclass(frozen=True, eq=False)
class PopulationState:
    """The branches, and what has been released."""

    members: tuple[Member, ...]
    emitted: int
    tick: int
    timeline: Timeline

    @property
    def finished(self) -> bool:
        """True when the inner rollout is."""
        return all(member.state.finished for member in self.members) and not any(m.pending for m in self.members)


@dataclass(frozen=True)
class Population:
    """A search over candidates that persist.

    num      candidates a member forks into     width    members kept
    when     "tick": rank after every tick that began with a decision; "emission": when latents come out
    max_lag  pending latents at most            memory   finished latents kept for rewards that read the past
    """

    inner: Rollout[Any]
    reward: Reward
    num: int = 3
    width: int = 1
    when: Literal["tick", "emission"] = "emission"
    max_lag: int = 16
    memory: int = 16

    def __post_init__(self) -> None:
        for name in ("num", "width", "max_lag"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.when not in ("tick", "emission"):
            raise ValueError(f"when must be 'tick' or 'emission', got {self.when!r}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a latent."""
        return self.inner.shape

    @property
    def in_flight(self) -> int:
        """Rows of one member and the latents that may wait."""
        return self.inner.in_flight + self.max_lag

    @property
    def reach(self) -> int:
        """Under a search a change can touch whatever is not released: rows in flight and pending latents."""
        return self.in_flight

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[PopulationState]:
        """One member: clones would be identical."""
        state = yield from self.inner.init(seed, timeline, context)
        past = tuple(context[max(len(context) - self.memory, 0) :])
        return PopulationState((Member(state, 0, past=past),), 0, 0, timeline)

    def step(self, state: PopulationState) -> Step[tuple[PopulationState, Emission]]:
        """Fork where there is something to decide, tick all branches in lockstep, rank, release what they share."""
        branches = self._spawn(state)
        moves = yield from all_of([(self.inner.step, (branch.state,)) for branch in branches])
        moved = [self._after(branch, *move) for branch, move in zip(branches, moves, strict=True)]
        kept, info = self._select(moved)
        kept, released = self._release(kept)
        emission = _joined(state.emitted, released, info)
        return PopulationState(tuple(kept), emission.stop, state.tick + 1, state.timeline), emission

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
        return self._view(state.members[0])

    def _spawn(self, state: PopulationState) -> list[Member]:
        # candidate 0 is the member itself; keys hold the tick, else relatives of different ages would draw alike
        decides = self.num > 1 and len(state.members) <= self.width and self.inner.fresh(state.members[0].state)
        if not decides:
            return list(state.members)
        branches = []
        for member in state.members:
            for candidate in range(self.num):
                key = fold(state.tick, "candidate", candidate) if candidate else 0
                name = fold(member.name, state.tick, candidate)
                branches.append(replace(member, state=self.inner.fork(member.state, key), name=name))
        return branches

    def _after(self, member: Member, state: Any, emission: Emission) -> Member:
        if not emission.latents:
            return replace(member, state=state)
        past = (*member.past, *emission.latents)[-self.memory :]
        pending = (*member.pending, Pending(member.name, emission))
        return replace(member, state=state, past=past, pending=pending)

    def _select(self, members: list[Member]) -> tuple[list[Member], Info]:
        emitting = any(member.pending for member in members)
        if len(members) <= self.width or (self.when == "emission" and not emitting):
            return members, Info()
        scores = self.reward([self._view(member) for member in members])
        order = sorted(range(len(members)), key=lambda place: -scores[place])[: self.width]
        kept = [replace(members[place], score=scores[place]) for place in order]
        return kept, Info(scores=tuple(scores), chosen=order[0], ancestors=tuple(order))

    def _release(self, members: list[Member]) -> tuple[list[Member], list[Emission]]:
        released: list[Emission] = []
        while members[0].pending:
            first = members[0].pending[0].lineage
            relatives = [m for m in members if m.pending and m.pending[0].lineage == first]
            lag = sum(len(pending.emission.latents) for pending in members[0].pending)
            if len(relatives) < len(members) and lag <= self.max_lag:
                break
            released.append(members[0].pending[0].emission)
            members = [replace(member, pending=member.pending[1:]) for member in relatives]
        return members, released

    def _view(self, member: Member) -> View:
        return replace(self.inner.view(member.state), past=member.past)


def _joined(start: int, emissions: Sequence[Emission], info: Info) -> Emission:
    """Released emissions as one; a guide survives only where one emission is released, as chunks do."""
    latents = tuple(latent for emission in emissions for latent in emission.latents)
    guide = emissions[0].guide if len(emissions) == 1 else ()
    return Emission(start, latents, replace(info, children=tuple(e.info for e in emissions)), guide)
