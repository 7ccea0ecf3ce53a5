"""Lookahead: throw-away continuations decide a fork, so nothing is ever held back.

The mechanism of receding-horizon search and of the k-step search. At a decision point the state forks into candidates
(number 0 keeps its own noise), each copy is continued for a few ticks only to be scored, and the chosen fork then goes
on from where it forked. Cost: (num * look + 1) inner ticks a decision. One candidate is the inner rollout, bit for bit.
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
class LookaheadState:
    """The inner state, the newest finished latents for rewards, and the tick, which keys candidates."""

    state: Any
    past: tuple[Tensor, ...]
    tick: int = 0

    @property
    def emitted(self) -> int:
        """The inner rollout's: no emission waits here."""
        return self.state.emitted

    @property
    def finished(self) -> bool:
        """True when the inner rollout is."""
        return self.state.finished


@dataclass(frozen=True)
class Lookahead:
    """A search that looks `look` ticks ahead, or to the next emission, and keeps only the decision."""

    inner: Rollout[Any]
    reward: Reward
    num: int = 3
    look: int | Literal["emission"] = "emission"
    memory: int = 16

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"num must be at least 1, got {self.num}")
        if self.look != "emission" and (not isinstance(self.look, int) or self.look < 1):
            raise ValueError(f"look must be 'emission' or a number of ticks from 1 up, got {self.look!r}")

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

    def init(self, seed: int, timeline: Timeline, context: Sequence[Tensor] = ()) -> Step[LookaheadState]:
        """The inner rollout's first state."""
        state = yield from self.inner.init(seed, timeline, context)
        return LookaheadState(state, tuple(context[max(len(context) - self.memory, 0) :]))

    def step(self, state: LookaheadState) -> Step[tuple[LookaheadState, Emission]]:
        """Decide if there is something to decide, then take the inner tick for real."""
        chosen, info = state, Info()
        if self.num > 1 and self.inner.fresh(state.state):
            keys = [0, *(fold(state.tick, "candidate", candidate) for candidate in range(1, self.num))]
            forks = [self.fork(state, key) for key in keys]
            views = yield from all_of([(self._continued, (fork,)) for fork in forks])
            scores = self.reward(views)
            best = max(range(self.num), key=lambda place: (scores[place], -place))
            chosen, info = forks[best], Info(scores=tuple(scores), chosen=best)
        inner, emission = yield from self.inner.step(chosen.state)
        past = (*state.past, *emission.latents)[-self.memory :]
        info = replace(info, children=(emission.info,))
        return LookaheadState(inner, past, state.tick + 1), replace(emission, info=info)

    def fresh(self, state: LookaheadState) -> range:
        """The inner rollout's undecided rows."""
        return self.inner.fresh(state.state)

    def fork(self, state: LookaheadState, key: int, mix: Mix | None = None, which: str = "fresh") -> LookaheadState:
        """Other noise in the inner state."""
        return state if key == 0 else replace(state, state=self.inner.fork(state.state, key, mix, which))

    def view(self, state: LookaheadState) -> View:
        """The inner rollout's view, with the past."""
        return replace(self.inner.view(state.state), past=state.past)

    def _continued(self, state: LookaheadState) -> Step[View]:
        # a copy's future, for the reward alone
        inner, past, ticks = state.state, state.past, 0
        while not inner.finished:
            inner, emission = yield from self.inner.step(inner)
            past, ticks = (*past, *emission.latents)[-self.memory :], ticks + 1
            if emission.latents if self.look == "emission" else ticks >= self.look:
                break
        return replace(self.inner.view(inner), past=past)
